"""scm-agent as the suites run it: keys, sealed secrets, the daemon, and git on top."""

import base64
import contextlib
import json
import pathlib
import signal
import subprocess
import time
import urllib.parse

from harness import Failed, Process, expect, wait_until

CONFIG = """\
[control_plane]
url = "{url}"
runner_id = "{runner_id}"
token_file = "{dir}/token"
poll_interval = "{poll_interval}"
{control_plane}
[key]
files = ["{key}"]

[agent]
socket = "{dir}/agent.sock"
state_dir = "{dir}/state"
allow_insecure_loopback = {loopback}

[log]
level = "trace"
format = "{format}"
audit_file = "{dir}/audit.jsonl"
{more}"""


class Key:
    """A runner key made by scm-agent, and secrets sealed for it by two independent programs."""

    def __init__(self, world, name="runner"):
        self.world = world
        self.file = world.dir(f"key-{name}") / "runner.pem"
        self.public = self.file.with_suffix(".pub")
        world.call([world.bin_dir / "scm-agent", "keygen", "--algorithm", "rsa-2048", "--out", self.file], seconds=120)
        world.call(["openssl", "pkey", "-in", self.file, "-pubout", "-out", self.public])
        # What a runner registers with its control plane.
        self.registered = world.call(["openssl", "pkey", "-in", self.file, "-pubout", "-outform", "DER"]).stdout

    def seal(self, secret):
        """By `scm-agent seal`; base64."""
        argv = [self.world.bin_dir / "scm-agent", "seal", "--key", self.public]
        return self.world.call(argv, given=secret.encode()).stdout.decode().strip()

    def seal_with_openssl(self, secret):
        """By OpenSSL, as anything but this project would; base64."""
        argv = ["openssl", "pkeyutl", "-encrypt", "-pubin", "-inkey", self.public]
        for option in ("rsa_padding_mode:oaep", "rsa_oaep_md:sha256", "rsa_mgf1_md:sha256"):
            argv += ["-pkeyopt", option]
        return base64.b64encode(self.world.call(argv, given=secret.encode()).stdout).decode()


class Agent(Process):
    """The daemon, logging everything it can, with a fast poll. It is not up until `wait_for` or `wait_ready` says so.

    `control_plane` and `more` are further lines for that section and for the end of the configuration. With `directory`, that
    of a daemon that has ended, it takes over what that one left behind. `wrapper` is a command that runs another.
    """

    def __init__(self, world, plane, key, more="", poll_interval="1s", control_plane="", url=None, directory=None,
                 loopback=True, wrapper=(), environment=None):
        self.world = world
        self.dir = directory or world.dir("agent")
        self.token_file = self.dir / "token"
        self.use_token(plane.token)
        self.config = self.dir / "config.toml"
        settings = {"url": url or plane.url, "runner_id": plane.runner_id, "dir": self.dir, "key": key.file}
        # In turn, so that no form has a secret.
        settings["format"] = ("text", "json")[len(world.daemons) % 2]
        settings |= {"poll_interval": poll_interval, "control_plane": control_plane, "more": more, "loopback": str(loopback).lower()}
        self.config.write_text(CONFIG.format(**settings))
        self.state_dir = self.dir / "state"
        self.socket = self.dir / "agent.sock"
        self.seen = [json.dumps(world.environment())]
        world.daemons.append(self)
        argv = [*wrapper, world.bin_dir / "scm-agent", "run", "--config", self.config]
        super().__init__("scm-agent", argv, world, stdout="log", env=world.environment(**(environment or {})))

    def use_token(self, token):
        """Replaces the bearer token's file in one step, as a secret manager does."""
        new = self.token_file.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_text(token)
        new.rename(self.token_file)

    def command(self, *arguments):
        """A subcommand with this daemon's configuration; what it says is kept for the leak search."""
        done = self.world.call([self.world.bin_dir / "scm-agent", *arguments, "--config", self.config], check=False)
        self.seen += [done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")]
        return done

    def status(self):
        """`status --json`, or nothing while the daemon does not answer."""
        self.check_alive()
        done = self.command("status", "--json")
        return json.loads(done.stdout) if done.returncode == 0 and done.stdout.strip() else None

    def wait_for(self, condition, reason, seconds=30):
        """Waits until `condition(status)` gives something true, and returns the status."""
        last = {}

        def probe():
            status = self.status()
            if status is not None:
                last.update(status)
            return status if status is not None and condition(status) else None

        return wait_until(probe, lambda: f"{reason}; the last status was {brief(last)}", seconds)

    def wait_secrets(self, *ids, state="ok"):
        """Waits until the secrets of these integrations are in `state`."""
        wanted = set(ids)
        return self.wait_for(
            lambda status: wanted <= {one["id"] for one in status["integrations"] if one["secret"] == state},
            f"not every secret is {state}",
        )

    def snapshot(self):
        """Keeps what anybody on the host could read about the process."""
        for name in ("cmdline", "environ"):
            # The daemon is not dumpable, so that only root may read its environment.
            with contextlib.suppress(PermissionError, FileNotFoundError):
                self.seen.append(pathlib.Path(f"/proc/{self.pid}/{name}").read_bytes().decode(errors="replace"))

    def stop(self):
        if self.child.poll() is None:
            self.snapshot()
        return super().stop()

    def quit(self, number=signal.SIGTERM):
        """Sends a signal as an init system does; returns (exit status, seconds it took)."""
        self.snapshot()
        begun = time.monotonic()
        self.child.send_signal(number)
        wait_until(lambda: self.child.poll() is not None, "the daemon does not end", 20)
        return self.child.returncode, time.monotonic() - begun

    def git(self, *arguments, helper=True, check=True, given=None):
        """git with our helper and no other, never prompting."""
        chain = ["-c", "credential.helper="]
        if helper:
            chain += ["-c", f"credential.helper={self.world.helper} --socket {self.socket}"]
        user = ["-c", "user.name=dev", "-c", "user.email=dev@example.test"]
        return self.world.call(["git", *chain, *user, *arguments], given=given, check=check)

    def git_heals(self):
        """Whether this git asks again, within a command, when the host refuses a token: from 2.46 on."""
        version = self.world.call(["git", "version"]).stdout.split()[2].split(b".")
        return (int(version[0]), int(version[1])) >= (2, 46)

    def ask(self, action="get", **attributes):
        """The helper by itself: its answer as a dict, and what it said on standard error."""
        text = "".join(f"{name}={value}\n" for name, value in attributes.items()) + "\n"
        done = self.world.call([self.world.helper, "--socket", self.socket, action], given=text.encode(), check=False)
        said = done.stderr.decode(errors="replace")
        self.seen.append(said)
        lines = [line for line in done.stdout.decode().split("\n") if line]
        expect(all("=" in line for line in lines), "a line without `=`, which git would repeat on the terminal")
        # git does not look at the status; a silent failure would still be a riddle to a person.
        expect(done.returncode == 0 or (done.returncode == 1 and said and not lines), f"it ended with {done.returncode}: {said.strip()}")
        return dict(line.split("=", 1) for line in lines), said

    def crowd(self, count, given):
        """So many `git credential fill` at once: what each printed, and what it said on standard error."""
        helper = f"credential.helper={self.world.helper} --socket {self.socket}"
        argv = ["git", "-c", "credential.helper=", "-c", helper, "credential", "fill"]
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": self.world.environment()}
        crowd = []
        try:
            crowd += [subprocess.Popen(argv, **options) for _ in range(count)]
            for one in crowd:
                one.stdin.write(given)
                one.stdin.flush()
            answers = [one.communicate(timeout=60) for one in crowd]
        finally:
            for one in crowd:
                one.kill()
                one.wait()
        said = [(out.decode(), text.decode(errors="replace").strip()) for out, text in answers]
        self.seen += [text for _, text in said]
        return said

    def login(self, url, *arguments, program=None, **identity):
        """`scm-agent login`, which waits while a person decides; with another user's identity if one is given."""
        argv = [program or self.world.bin_dir / "scm-agent", "login", url, *arguments, "--json", "--config", self.config]
        return LoginCommand(self, argv, **identity)

    def password(self, host, protocol="https"):
        """The token that the helper hands out for a host."""
        answer, said = self.ask(protocol=protocol, host=host)
        if "password" not in answer:
            raise Failed(f"no password for {host}: {said.strip()}")
        return answer["password"]


class LoginCommand(Process):
    """A running `scm-agent login --json`: `begun` is its first line, what a person has to go by."""

    def __init__(self, agent, argv, **identity):
        self.agent = agent
        self.lines = []
        super().__init__("login", argv, agent.world, stdout=subprocess.PIPE, text=True, cwd="/", **identity)
        try:
            self.begun = self.line()
            expect("session" in self.begun, f"no login begins: {self.begun.get('error')}, {self.begun.get('next')}")
        except BaseException:
            self.stop()
            raise

    def line(self):
        """The next line of its output, as JSON."""
        line = self.child.stdout.readline()
        self.lines.append(line)
        try:
            return json.loads(line)
        except ValueError:
            raise Failed(f"login said no more: {self.tail()}") from None

    def result(self, seconds=30):
        """How it ended; the exit status has to agree."""
        result = self.line()
        try:
            status = self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failed("login goes on after its result") from None
        expect(self.child.stdout.read() == "", "login says more than its result")
        self.stop()
        expect((status == 0) == (result["state"] == "done"), f"login ended with {status} though it is {result['state']}")
        return result

    def stop(self):
        status = super().stop()
        # For the leak search.
        self.agent.seen += [*self.lines, self.log.read_text(errors="replace")]
        return status


def brief(status):
    """A status short enough for one line."""
    rows = status.get("integrations", [])
    states = [f"{one.get('host')}={one.get('secret')}" for one in rows[:4]]
    return json.dumps({"sync": status.get("sync"), "integrations": len(rows), "first": states, "degraded": status.get("degraded")})


def forms(secret):
    """Every spelling in which a secret could lie in a file: as it is, percent-encoded, base64 at each alignment, hex."""
    raw = secret.encode()
    found = {secret, urllib.parse.quote(secret, safe=""), urllib.parse.quote_plus(secret), raw.hex(), json.dumps(secret)[1:-1]}
    for text in [raw, urllib.parse.quote_plus(secret).encode()]:
        for shift in range(3):
            inner = base64.b64encode(b"\0" * shift + text)
            # The first and last quantum depend on the neighbours; the middle is the same wherever the secret stands.
            found.add(inner[4:-4].decode())
    return {form for form in found if len(form) >= 12}
