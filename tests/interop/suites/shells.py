"""Completions in real shells, and manual pages before the strictest reader of them."""

import contextlib
import os
import pty
import re
import select
import subprocess
import time

from harness import Suite, expect

# What is typed, with a tabulator at its end, and what the shell makes of it.
TYPED = [
    ("sta", "status"),
    ("keygen --algorithm x", "keygen --algorithm x25519"),
    ("git s", "git setup"),
    ("oauth-app --format g", "oauth-app --format git-config"),
    ("doctor --pu", "doctor --push"),
]


class Terminal:
    """An interactive shell at a terminal, with a command `scm-agent` that prints what it is given."""

    def __init__(self, world, argv, setup):
        self.main, other = pty.openpty()
        environment = world.environment(TERM="dumb", PS1="", ZDOTDIR=str(world.dir("no-zshrc")), HISTFILE="")
        self.child = subprocess.Popen([str(one) for one in argv], stdin=other, stdout=other, stderr=other, env=environment, start_new_session=True)
        os.close(other)
        self.type(f"{setup}; scm-agent() {{ printf '<%s>\\n' \"$*\"; }}; printf '<%s>\\n' ready\n", "<ready>")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.kill()
        self.child.wait()
        os.close(self.main)

    def type(self, text, until, seconds=20):
        """Types, and reads until something appears; returns all of it."""
        os.write(self.main, text.encode())
        said, end = "", time.monotonic() + seconds
        while until not in said:
            ready, _, _ = select.select([self.main], [], [], max(0, end - time.monotonic()))
            expect(ready, f"after `{text.strip()}` there is no {until} but {said[-300:]!r}")
            with contextlib.suppress(OSError):
                said += os.read(self.main, 4096).decode(errors="replace")
        return said


class Shells(Suite):
    needs = frozenset({"binaries", "zsh", "fish", "mandoc"})

    def setup(self):
        self.share = self.world.dir("share")
        self.world.call([self.world.root / "packaging" / "share.sh", self.world.bin_dir, self.share])

    def expect_completed(self, argv, setup):
        with Terminal(self.world, argv, setup) as terminal:
            for typed, meant in TYPED:
                terminal.type(f"scm-agent {typed}\t\n", f"<{meant}>")

    def case_bash(self):
        self.expect_completed(["bash", "--noprofile", "--norc", "-i"], f"source {self.share}/bash-completion/completions/scm-agent")

    def case_zsh(self):
        self.expect_completed(["zsh", "-f", "-i"], f"unsetopt prompt_sp; fpath=({self.share}/zsh/site-functions $fpath); autoload -U compinit; compinit -u -D")

    def case_fish(self):
        environment = {"XDG_DATA_DIRS": f"{self.share}:/usr/share", "PATH": f"{self.world.bin_dir}:{os.environ['PATH']}"}
        for typed, meant in TYPED:
            argv = ["fish", "--no-config", "-c", f"source {self.share}/fish/vendor_completions.d/scm-agent.fish; complete -C 'scm-agent {typed}'"]
            said = self.world.call(argv, environment=environment).stdout.decode()
            found = [line.split("\t")[0] for line in said.splitlines()]
            expect(found == [meant.split(" ")[-1]], f"for {typed} it offers {found}")

    def case_manual_pages(self):
        pages = sorted(self.share.glob("man/man?/*"))
        expect(len(pages) > 20, f"there are {len(pages)} pages only")
        # Long lines of source are the only thing that it may find, and not worth a warning.
        done = self.world.call(["mandoc", "-T", "lint", "-W", "warning", *pages], check=False)
        expect(done.returncode == 0 and not done.stdout, f"mandoc says: {done.stdout.decode()}")
        text = self.world.call(["mandoc", "-T", "ascii", self.share / "man/man1/scm-agent-keygen.1"]).stdout.decode()
        # Bold is a letter twice, one over the other.
        expect("rsa-3072" in re.sub(".\b", "", text), "the page of keygen is another one")
