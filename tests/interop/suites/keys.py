"""The key commands against OpenSSL, and keys.sh, which is a script of its own because people read it as a recipe."""

import base64
import itertools
import stat
import subprocess

from agent import Key
from harness import Suite, expect

SCRIPT_SECONDS = 300


class Keys(Suite):
    needs = frozenset({"openssl", "binaries"})

    def setup(self):
        self.key = Key(self.world, "keys")

    def unseal(self, sealed, key=None):
        argv = [self.world.bin_dir / "scm-agent", "unseal", "--key", (key or self.key).file]
        return self.world.call(argv, given=sealed.encode(), check=False)

    def case_openssl_reads_the_key_and_only_the_owner_can(self):
        said = self.world.call(["openssl", "pkey", "-in", self.key.file, "-noout", "-text"]).stdout
        expect(b"2048 bit" in said, "OpenSSL reads something else than an RSA-2048 key")
        mode = stat.S_IMODE(self.key.file.stat().st_mode)
        expect(mode == 0o600, f"the key has mode {mode:o}")

    def case_keygen_never_overwrites(self):
        before = self.key.file.read_bytes()
        argv = [self.world.bin_dir / "scm-agent", "keygen", "--algorithm", "rsa-2048", "--out", self.key.file]
        expect(self.world.call(argv, check=False, seconds=120).returncode != 0, "keygen wrote over a key")
        expect(self.key.file.read_bytes() == before, "the key changed")

    def case_a_secret_sealed_by_openssl_opens(self):
        done = self.unseal(self.key.seal_with_openssl("correct horse"))
        expect(done.stdout == b"correct horse", f"got {len(done.stdout)} other bytes: {done.stderr.decode()}")

    def case_openssl_opens_a_secret_sealed_by_us(self):
        argv = ["openssl", "pkeyutl", "-decrypt", "-inkey", self.key.file]
        for option in ("rsa_padding_mode:oaep", "rsa_oaep_md:sha256", "rsa_mgf1_md:sha256"):
            argv += ["-pkeyopt", option]
        opened = self.world.call(argv, given=base64.b64decode(self.key.seal("battery staple"))).stdout
        expect(opened == b"battery staple", f"got {len(opened)} other bytes")

    def case_the_wrong_key_opens_nothing(self):
        done = self.unseal(self.key.seal("x"), Key(self.world, "stranger"))
        expect(done.returncode == 1 and not done.stdout, f"it ended with {done.returncode} and {len(done.stdout)} bytes")

    def run(self, report):
        super().run(report)
        script = self.world.root / "tests" / "interop" / "keys.sh"
        if not report.wanted("keys: keys.sh"):
            return
        missing = [self.world.missing[part] for part in ("binaries", "openssl", "venv") if part in self.world.missing]
        if missing:
            report.skip("keys: keys.sh", "; ".join(missing))
        else:
            self.script(report, script)

    def script(self, report, script):
        """Passes on the script's own `ok` and `not ok` lines, the latter with what follows them as comments."""
        argv = ["sh", str(script), str(self.world.bin_dir / "scm-agent")]
        options = {"env": self.world.environment(PYTHON=str(self.world.python)), "cwd": self.world.root, "timeout": SCRIPT_SECONDS}
        try:
            done = subprocess.run(argv, **options, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        except subprocess.TimeoutExpired:
            report.not_ok("keys: keys.sh", f"took longer than {SCRIPT_SECONDS} s")
            return
        said = done.stdout.splitlines()
        names = [line for line in said if line.startswith(("ok ", "not ok "))]
        for number, line in enumerate(said):
            if line.startswith("ok "):
                report.ok(f"keys.sh: {line[3:]}")
            elif line.startswith("not ok "):
                comments = itertools.takewhile(lambda text: text.startswith("# "), said[number + 1 :])
                report.not_ok(f"keys.sh: {line[7:]}", " | ".join(comments) or "no reason given")
        failures = sum(line.startswith("not ok ") for line in names)
        if not names or (done.returncode != 0 and not failures):
            report.not_ok("keys: keys.sh", f"ended with {done.returncode}: {' | '.join(done.stderr.splitlines()[-3:])}")
