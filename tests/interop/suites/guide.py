"""The operator's guide, typed command by command into a machine, and what installs without a package."""

import json
import re
import secrets
import sys

from agent import Key
from git_host import GitHost
from harness import Suite, expect, wait_until
from parts import ControlPlane, Issuer
from suites.systemd import ETC, Machine

# Beside what the guide has an operator write: where the parts of this test are.
PARTS = """\
[control_plane]
url = "{url}"
{more}poll_interval = "1s"
[agent]
allow_insecure_loopback = true
"""
# What is typed where the source is, not on the runner; the last case does so.
ELSEWHERE = ("cargo ", "packaging/")


def commands(guide):
    """The commands of the guide as (heading, user, text), in order; a here-document belongs to its command."""
    found, heading, console, end = [], "", False, None
    for line in guide.splitlines():
        if end is not None:
            found[-1][2] += f"\n{line}"
            end = None if line == end else end
        elif line.startswith("```"):
            console = line == "```console"
        elif console:
            user = {"#": "root", "$": "member"}.get(line[:1])
            expect(user and line[1:2] == " ", f"the guide has something else than a command there: {line}")
            found.append([heading, user, line[2:]])
            document = re.search(r"<<'(\w+)'$", line)
            end = document and document[1]
        elif line.startswith("## "):
            heading = line[3:]
    return found


class HandedOver(Key):
    """The runner's key as the control plane knows it: its public half, as `keygen` printed it."""

    def __init__(self, world, pem):
        self.world = world
        self.file = world.dir("key-guide") / "runner.pem"
        self.public = self.file.with_suffix(".pub")
        self.public.write_bytes(world.call(["openssl", "pkey", "-pubout"], given=pem).stdout)
        self.registered = world.call(["openssl", "pkey", "-pubin", "-in", self.public, "-pubout", "-outform", "DER"]).stdout


class Guide(Suite):
    needs = frozenset({"venv", "issuer", "nginx", "fcgiwrap", "openssl", "binaries", "root", "systemd tree"})
    seconds = 180

    def setup(self):
        world, enter = self.world, self.stack.enter_context
        self.issuer = enter(Issuer(world, apps=["app"]))
        self.git_host = enter(GitHost(world, self.issuer.url, self.issuer.resource_server))
        self.url = self.git_host.new_repository("guide.git")
        self.plane = enter(ControlPlane(world))
        debs = world.dir("guide-debs")
        world.call([sys.executable, world.root / "packaging" / "build-deb.py", world.bin_dir, debs], seconds=120)
        # Beside the package the source, as far as it takes to install without one.
        world.call(["cp", "-r", world.root / "packaging", world.root / "docs", world.root / "keys", *world.root.glob("*.md"),
                    world.root / "LICENSE", world.root / "config.example.toml", debs])
        world.call(["cp", world.bin_dir / "scm-agent", world.bin_dir / "git-credential-scm-agent", debs])
        debs.chmod(0o755)
        self.machine = enter(Machine(world, debs))
        self.machine.must("useradd", "--create-home", "member")
        # Who types says yes.
        self.machine.write("/etc/apt/apt.conf.d/yes", 'APT::Get::Assume-Yes "true";\n')
        self.left = [one for one in commands((world.root / "docs" / "operators-guide.md").read_text()) if not one[2].startswith(ELSEWHERE)]
        self.clones = 0

    def type(self, heading, until=None):
        """Types what stands below a heading, up to a command that begins so, and returns what was printed."""
        said = []
        while self.left and self.left[0][0] == heading and not (until and said and self.left[0][2].startswith(until)):
            _, user, text = self.left.pop(0)
            for written, meant in [("./target/debian/", "/debs/"), ("RUNNER-ID", self.plane.runner_id), (" USER ", " member "),
                                   ("https://bitbucket.org/acme/project.git", f"{self.url} clone-{self.clones}")]:
                text = text.replace(written, meant)
            given = f"{self.plane.token}\n".encode() if "control-plane-token" in text and "/dev/stdin" in text else b""
            if user == "root":
                done = self.machine.run("sh", "-c", text, given=given, seconds=120)
            else:
                done = self.machine.as_user(user, f"cd && {text}", seconds=60)
            out = (done.stdout + done.stderr).decode(errors="replace")
            expect(done.returncode == 0, f"`{text}` ended with {done.returncode}: {' | '.join(out.strip().splitlines()[-6:])}")
            said.append(out)
        expect(said, f"the guide has no command below {heading}, or not in this order")
        return "".join(said)

    def status(self):
        return json.loads(self.machine.must("scm-agent", "status", "--json"))

    def register(self, pem_file):
        """What an administrator does: registers the key, which has every secret sealed for it."""
        key = HandedOver(self.world, self.machine.must("cat", pem_file).encode())
        if self.plane.part is not None:
            self.plane.stop()
        self.plane.public_key = key.registered
        self.plane.start(self.plane.integration(self.git_host.host, "app", key.seal(self.issuer.apps["app"]), self.issuer.url))

    def expect_clone(self):
        self.clones += 1
        done = self.machine.as_user("member", f"cd && git clone -q {self.url} clone-{self.clones}")
        expect(done.returncode == 0, f"a clone failed: {done.stderr.decode()}")

    def case_from_the_package_to_a_clone(self):
        machine = self.machine
        self.type("Install")
        for page in ("man1/scm-agent.1", "man1/scm-agent-git-setup.1", "man1/git-credential-scm-agent.1", "man5/scm-agent.toml.5"):
            machine.must("test", "-s", f"/usr/share/man/{page}.gz")
        for script in ("bash-completion/completions/scm-agent", "zsh/vendor-completions/_scm-agent", "fish/vendor_completions.d/scm-agent.fish"):
            machine.must("test", "-s", f"/usr/share/{script}")
        expect(not machine.must("dpkg", "--verify", "scm-agent"), "files differ from the package's")
        heading = "Key, token, first start"
        self.type(heading, until="scm-agent key show")
        expect(machine.must("stat", "-c", "%a", f"{ETC}/runner.pem").strip() == "600", "the key's file is open")
        self.register(f"{ETC}/runner.pem")
        machine.write(f"{ETC}/config.d/test.toml", PARTS.format(url=self.plane.url, more=""))
        said = self.type(heading)
        expect(self.git_host.host in said, f"status says {said}")
        said = self.type("Let git ask")
        expect(f"clone-{self.clones}" in machine.must("ls", "/home/member"), "the clone is not there")
        expect("ok" in said, f"doctor says {said}")

    def case_day_by_day(self):
        self.type("Configuration")
        before = self.machine.must("cat", "/etc/gitconfig")
        self.type("git's configuration")
        expect(self.machine.must("cat", "/etc/gitconfig") == before, "git setup and unset do not come out even")
        self.expect_clone()

    def case_another_key_and_another_token(self):
        heading = "Another runner key, without an outage"
        old = self.status()["key"][0]["fingerprint"]
        self.type(heading, until="mv ")
        keys = [one["fingerprint"] for one in self.status()["key"]]
        expect(len(keys) == 2 and keys[1] == old, f"the keys are {keys}")
        self.expect_clone()
        self.register(f"{ETC}/next.pem")
        self.machine.must("scm-agent", "sync")
        wait_until(lambda: self.status()["key"][0]["registered"] or self.machine.run("scm-agent", "reload").returncode, "the new key is not known", 60)
        expect([one["secret"] for one in self.status()["integrations"]] == ["ok"], "a secret does not open")
        self.type(heading)
        status = self.status()
        expect([one["fingerprint"] for one in status["key"]] == keys[:1], f"the keys are {status['key']}")
        expect(not any("key" in one or "state" in one or "list" in one for one in status["degraded"]), f"degraded: {status['degraded']}")
        lost = self.machine.must("find", "/var/lib/scm-agent", "-name", "*.damaged-*").split()
        expect(not lost, f"what was kept could not be read any more: {lost}")
        self.expect_clone()
        self.plane.token = secrets.token_urlsafe(24)
        self.world.secrets.add(self.plane.token)
        self.plane.part.ask({"do": "token", "token": self.plane.token})
        self.type("Another API token")
        self.expect_clone()

    def case_removed_git_is_as_before_and_purged_nothing_is_left(self):
        machine = self.machine
        expect("scm-agent" in machine.must("cat", "/etc/gitconfig"), "git does not ask scm-agent")
        machine.must("systemctl", "mask", "scm-agent.socket")
        self.type("Removal", until="apt purge")
        expect("scm-agent" not in machine.run("cat", "/etc/gitconfig").stdout.decode(), "git still names the helper that is gone")
        machine.must("test", "-s", f"{ETC}/runner.pem")
        self.type("Removal")
        named = machine.run("sh", "-c", "find / -xdev -path /debs -prune -o -path /proc -prune -o -path /var/lib/dpkg -prune -o -path /var/cache/apt -prune -o "
                            "-name '*scm-agent*' -print; grep -l scm-agent /etc/passwd /etc/group").stdout.decode().split()
        # What users cloned and wrote is theirs; logs are systemd's and dpkg's.
        expect(not [one for one in named if not one.startswith(("/home/", "/var/log/", "/var/lib/systemd/"))], f"purged, it leaves {named}")
        expect(not self.left, f"not typed: {[text for _, _, text in self.left]}")

    def case_without_a_package_it_is_the_same_below_another_prefix(self):
        machine = self.machine
        machine.must("/debs/packaging/install.sh", "/debs")
        agent = "/usr/local/bin/scm-agent"
        runner = f'runner_id = "{self.plane.runner_id}"\n'
        machine.write(f"{ETC}/config.d/test.toml", PARTS.format(url=self.plane.url, more=runner))
        machine.must(agent, "keygen", "--algorithm", "x25519", "--out", f"{ETC}/runner.pem")
        machine.write(f"{ETC}/control-plane-token", self.plane.token, "600")
        machine.must("systemctl", "enable", "--now", "scm-agent.service")
        expect(machine.must("stat", "-c", "%U %G %a", "/run/scm-agent/agent.sock").split() == ["root", "scm-agent", "660"], "the socket")
        expect(machine.must("readlink", f"/proc/{machine.show('MainPID')}/exe").strip() == agent, "another program runs")
        machine.must(agent, "git", "setup")
        # Again, as an upgrade, and while it runs.
        machine.must("/debs/packaging/install.sh", "/debs")
        expect(machine.show("ActiveState") == "active", "it does not run after an upgrade")
        machine.must("/debs/packaging/install.sh", "--uninstall")
        left = machine.must("find", "/usr/local", "-name", "*scm-agent*").split()
        expect(not left, f"uninstalled, it leaves {left}")
        expect("scm-agent" not in machine.run("cat", "/etc/gitconfig").stdout.decode(), "git still names the helper that is gone")
        machine.must("test", "-s", f"{ETC}/runner.pem")
