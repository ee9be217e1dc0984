"""The package in a booted systemd: installed, started, killed, upgraded, reloaded and purged, while git goes on."""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import re
import resource
import sys
import time
import urllib.request

from agent import Key, forms
from git_host import GitHost
from harness import Process, Suite, expect, wait_until
from parts import ControlPlane, Issuer
from suites.metrics import UnixConnection, free_port

CONFIG = """\
[control_plane]
url = "{url}"
runner_id = "{runner_id}"
poll_interval = "1s"
[agent]
allow_insecure_loopback = true
[log]
level = "trace"
"""
ETC = "/etc/scm-agent"
UNITS = ["/usr/lib/systemd/system/scm-agent.service", "/usr/lib/systemd/system/scm-agent.socket"]
# Does what it finds in a folder of its user's, one script after the other, as long as it runs. %n is the unit's own name.
JOB = """\
[Service]
User=member
ExecStartPre={before}
ExecStart=/bin/sh -c 'cd /home/member/jobs/%n && while :; do for one in *.sh; do \\
    [ -e $one ] && {{ sh $one >$one.out 2>&1; mv $one $one.done; }}; done; sleep 0.1; done'
Restart=no
"""
UNIT_NAMES = ["scm-agent.socket", "scm-agent.service"]
# As `systemd-analyze security` counts: tenths.
MOST_EXPOSED = 12
CLONES = 200
AT_ONCE = 8
KILLS = 6
# In the machine, as the user: git knows one helper, and never asks a person.
CLONE = """\
cd && for name in {names}; do
    git -c credential.helper= -c credential.helper=scm-agent clone -q {url} clone-$name || echo failed: $name
done
"""


def may_raise_limits():
    """Whether what runs here has CAP_SYS_RESOURCE, or its limit on locked memory is none already."""
    bounding = int(re.search(r"^CapBnd:\s*(\w+)", pathlib.Path("/proc/self/status").read_text(), re.MULTILINE)[1], 16)
    return bounding >> 24 & 1 or resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] == resource.RLIM_INFINITY


class Machine(Process):
    """A container with an init of its own, whose root is the tree that install.sh made and what is written since, in memory.

    It shares the network of this machine, where the other parts listen on loopback.
    """

    def __init__(self, world, debs):
        argv = [world.which("systemd-nspawn"), "--boot", "--quiet", "--register=no", "--link-journal=no", "--volatile=overlay"]
        # What the machine lets through of its own, so that what is missing is the unit's doing.
        argv.append("--system-call-filter=landlock_add_rule landlock_create_ruleset landlock_restrict_self")
        argv += ["--console=pipe", "--capability=CAP_IPC_LOCK", f"--bind-ro={debs}:/debs", "-D", world.parts_dir / "systemd-tree"]
        # Two runs at a time are two machines.
        self.machine_name = f"scm-agent-{os.getpid()}"
        argv.append(f"--machine={self.machine_name}")
        if not pathlib.Path("/run/systemd/system").exists():
            argv.append("--keep-unit")
        self.world = world
        super().__init__("machine", argv, world, stdout="log")
        try:
            self.init = wait_until(self.find_init, "the machine has no first process")
            # systemd answers once it runs; before, its socket is missing.
            wait_until(lambda: self.run("systemctl", "is-system-running", "--wait").stdout.strip() in (b"running", b"degraded"), self.tail, 60)
        except BaseException:
            super().stop()
            raise

    def find_init(self):
        self.check_alive()
        children = pathlib.Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        # Only once it is systemd, and no longer the process that becomes it.
        return next((pid for pid in children if self.name_of(pid) == "systemd\n"), None)

    @staticmethod
    def name_of(pid):
        # It may end at any moment.
        with contextlib.suppress(OSError):
            return pathlib.Path(f"/proc/{pid}/comm").read_text()

    def run(self, *argv, given=None, seconds=60):
        """A command in the machine, as root."""
        enter = ["nsenter", "-t", self.init, "-m", "-u", "-i", "-n", "-p", "-C", "--"]
        clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "GIT_TERMINAL_PROMPT=0", "SYSTEMD_PAGER="]
        return self.world.call([*enter, *clean, *argv], given=given, check=False, seconds=seconds)

    def must(self, *argv, given=None, seconds=60):
        """The same, and what it printed; a failure fails the case."""
        done = self.run(*argv, given=given, seconds=seconds)
        said = " | ".join((done.stdout + done.stderr).decode(errors="replace").strip().splitlines()[-4:])
        expect(done.returncode == 0, f"{' '.join(map(str, argv))} ended with {done.returncode}: {said}")
        return done.stdout.decode(errors="replace")

    def as_user(self, user, script, seconds=60):
        return self.run("runuser", "-u", user, "--", "env", f"HOME=/home/{user}", "sh", "-c", script, seconds=seconds)

    def write(self, path, content, mode="644"):
        self.must("install", "-D", "-m", mode, "/dev/stdin", path, given=content.encode() if isinstance(content, str) else content)

    def show(self, name, unit="scm-agent.service"):
        return self.must("systemctl", "show", "-P", name, unit).strip()

    def journal(self):
        return self.run("journalctl", "--all", "--output=export", "--no-pager", seconds=120).stdout

    def stop(self):
        if self.child.poll() is None:
            lines = self.run("journalctl", "-u", "scm-agent.service", "-u", "scm-agent.socket", "-o", "cat", "-n", "40", "--no-pager").stdout
            # Last in the log, where a failure is looked up.
            with self.log.open("ab") as log:
                log.write(b"\n" + lines)
        status = super().stop()
        with contextlib.suppress(OSError):
            os.rmdir(f"/run/systemd/nspawn/propagate/{self.machine_name}")
        return status


class Systemd(Suite):
    needs = frozenset({"venv", "issuer", "nginx", "fcgiwrap", "openssl", "binaries", "root", "systemd tree"})
    seconds = 420

    def setup(self):
        world, enter = self.world, self.stack.enter_context
        self.key = Key(world, "systemd")
        self.issuer = enter(Issuer(world, apps=["app"]))
        self.git_host = enter(GitHost(world, self.issuer.url, self.issuer.resource_server))
        self.url = self.git_host.new_repository("systemd.git")
        self.plane = enter(ControlPlane(world, self.key.registered)).start()
        self.plane.put(self.plane.integration(self.git_host.host, "app", self.key.seal(self.issuer.apps["app"]), self.issuer.url))
        self.debs = world.dir("debs")
        for version in ("0.1.0-1", "0.1.0-2"):
            world.call([sys.executable, world.root / "packaging" / "build-deb.py", world.bin_dir, self.debs, "--version", version], seconds=120)
        # Users of the machine's enter by its own names for them.
        self.debs.chmod(0o755)
        self.machine = enter(Machine(world, self.debs))
        self.before = self.files()
        for user in ("member", "other"):
            self.machine.must("useradd", "--create-home", user)

    def files(self):
        """What is installed, configured or kept, by name."""
        found = self.machine.run("sh", "-c", "find /etc /usr /var /opt /srv -xdev; find /run -xdev -name '*scm-agent*'").stdout.decode()
        return set(found.splitlines())

    def install(self, version):
        return self.machine.must("dpkg", "--install", f"/debs/scm-agent_{version}.deb", seconds=120)

    def clone(self, user, name):
        return self.machine.as_user(user, CLONE.format(names=name, url=self.url))

    def status(self):
        return json.loads(self.machine.must("scm-agent", "status", "--json"))

    def pid(self):
        return int(self.machine.show("MainPID"))

    def expect_clone(self, name, when):
        done = self.clone("member", name)
        said = (done.stdout + done.stderr).decode(errors="replace")
        expect(done.returncode == 0 and "failed" not in said, f"{when}, a clone failed: {said}")

    def case_the_package_installs_a_user_and_units_and_starts_nothing(self):
        self.install("0.1.0-1")
        expect(self.machine.must("id", "-nG", "scm-agent").split() == ["scm-agent"], "the user has other groups than its own")
        for unit in ("scm-agent.service", "scm-agent.socket"):
            expect(self.machine.show("ActiveState", unit) == "inactive", f"{unit} runs before there is a key")
        wrong = self.machine.run("sh", "-c", "cd / && find /usr/bin/*scm-agent* /usr/share/doc/scm-agent /usr/lib/systemd/system/scm-agent* /etc/scm-agent "
                                 "! -user root -o ! -type l -perm /022").stdout.decode()
        expect(not wrong, f"somebody else may change {wrong.split()}")
        self.machine.must("usermod", "--append", "--groups", "scm-agent", "member")

    def case_the_units_are_valid_and_as_closed_as_promised(self):
        done = self.machine.run("systemd-analyze", "verify", *UNITS)
        said = (done.stdout + done.stderr).decode().strip()
        expect(done.returncode == 0 and not said, f"verify says: {said}")
        argv = ["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={MOST_EXPOSED}", UNITS[0]]
        verdict = self.machine.must(*argv).strip().splitlines()[-1]
        print(f"    {verdict}")

    def case_it_starts_with_key_and_token_as_credentials(self):
        machine = self.machine
        machine.write(f"{ETC}/config.toml", CONFIG.format(url=self.plane.url, runner_id=self.plane.runner_id))
        machine.write(f"{ETC}/runner.pem", self.key.file.read_bytes(), "600")
        machine.write(f"{ETC}/control-plane-token", self.plane.token, "600")
        # Every line is to be searched.
        machine.write("/etc/systemd/system/scm-agent.service.d/log.conf", "[Service]\nLogRateLimitIntervalSec=0\n")
        machine.must("systemctl", "daemon-reload")
        if not may_raise_limits():
            # There is no LimitMEMLOCK=infinity to be had here, of nobody. A right to lock memory stands in for it, so that what the
            # unit leaves of system calls is shown to be enough all the same.
            print("    this machine cannot raise limits: CAP_IPC_LOCK stands in for LimitMEMLOCK=infinity")
            rights = "CapabilityBoundingSet=CAP_IPC_LOCK\nAmbientCapabilities=CAP_IPC_LOCK\n"
            machine.write("/etc/systemd/system/scm-agent.service.d/memory.conf", f"[Service]\n{rights}")
            machine.must("systemctl", "daemon-reload")
        machine.must("systemctl", "enable", "--now", "scm-agent.service")
        expect(machine.show("ActiveState") == "active", "it is not active")
        line = machine.show("StatusText")
        expect(line.startswith("1 integration, 0 tokens, list "), f"its status line is: {line}")
        status = self.status()
        expect(status["degraded"] == [], f"degraded: {status['degraded']}")
        expect(status["memory"]["locked"], f"memory is not locked: {status['memory']['reason']}")
        sandbox = status["sandbox"]
        expect(sandbox["landlock"].startswith("abi ") and sandbox["seccomp"] == "on" and sandbox["no_new_privs"], f"the sandbox: {sandbox}")
        expect(status["store"] == {"kind": "file", "healthy": True}, f"the store: {status['store']}")
        expect(status["pid"] == self.pid(), "another process answers")
        done = machine.run("runuser", "-u", "scm-agent", "--", "cat", f"{ETC}/runner.pem")
        expect(done.returncode != 0, "the daemon's user can read the key's file")
        expect(machine.must("stat", "-c", "%U %G %a", "/var/lib/scm-agent").split() == ["scm-agent", "scm-agent", "700"], "the state directory")
        expect(machine.must("stat", "-c", "%U %G %a", "/run/scm-agent/agent.sock").split() == ["root", "scm-agent", "660"], "the socket")

    def case_a_member_of_the_group_clones_and_another_user_does_not(self):
        self.expect_clone("first", "for a member")
        done = self.clone("other", "first")
        said = (done.stdout + done.stderr).decode(errors="replace")
        expect("failed: first" in said and "no permission to use the agent's socket" in said, f"another user: {said}")
        done = self.machine.as_user("member", "scm-agent reload")
        expect(done.returncode == 1 and b"only root and the agent's own user" in done.stderr, f"a member may reload: {done.stderr.decode()}")

    def case_no_clone_fails_through_kills_and_an_upgrade(self):
        machine, each = self.machine, CLONES // AT_ONCE
        pids = {self.pid()}

        def work(number):
            script = CLONE.format(names=f"$(seq {1 + number * each} {(number + 1) * each})", url=self.url)
            return machine.as_user("member", script, seconds=self.seconds)

        begun = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE + 1) as pool:
            running = [pool.submit(work, number) for number in range(AT_ONCE)]

            def cloned():
                return int(machine.run("sh", "-c", "ls -d /home/member/clone-[0-9]* 2>/dev/null | wc -l").stdout)

            # Spread over the whole of it: the upgrade is in the middle.
            for step in range(1, KILLS + 2):
                enough = step * CLONES // (KILLS + 2)
                wait_until(lambda enough=enough: cloned() >= enough or all(one.done() for one in running), "the clones do not go on", 240)
                if step == (KILLS + 2) // 2:
                    self.install("0.1.0-2")
                else:
                    machine.must("systemctl", "kill", "--signal=KILL", "scm-agent.service")
                expect(not all(one.done() for one in running), "the clones were over too soon to tell")
                wait_until(lambda: self.pid() not in {0, *pids}, "no other daemon came")
                pids.add(self.pid())
            ended = [one.result() for one in running]
        said = " | ".join((one.stdout + one.stderr).decode(errors="replace").strip() for one in ended).strip("| ")
        expect(not said, f"git said: {said[:600]}")
        expect(cloned() == CLONES, f"{cloned()} of {CLONES} clones are there")
        expect(machine.must("dpkg-query", "-W", "-f", "${Version}", "scm-agent") == "0.1.0-2", "it was not upgraded")
        expect(machine.must("cat", f"{ETC}/config.toml").count(self.plane.runner_id) == 1, "the upgrade changed the configuration")
        print(f"    {CLONES} clones, {KILLS} kills and an upgrade in {time.monotonic() - begun:.0f} s, none failed")

    def case_a_reload_takes_what_is_good_and_says_what_is_bad(self):
        machine, before = self.machine, self.pid()
        machine.must("systemctl", "reload", "scm-agent.service")
        machine.write(f"{ETC}/config.d/rule.toml", "[[access]]\nallow = []\n[[access]]\nusers = [\"nobody-of-that-name\"]\nallow = []\n")
        done = machine.run("systemctl", "reload", "scm-agent.service")
        expect(done.returncode != 0, "a reload of a broken configuration succeeds")
        expect(machine.show("ActiveState") == "active" and self.pid() == before, "the daemon did not survive it")
        line = machine.show("StatusText")
        expect("degraded: the settings were not taken over" in line and "access[1].users[0]" in line, f"its status line is: {line}")
        self.expect_clone("broken", "with a broken file")
        # Repaired, the same rule counts.
        machine.write(f"{ETC}/config.d/rule.toml", "[[access]]\nallow = []\n")
        machine.must("systemctl", "reload", "scm-agent.service")
        expect(b"failed: denied" in self.clone("member", "denied").stdout, "a rule that denies everybody lets somebody clone")
        machine.must("rm", f"{ETC}/config.d/rule.toml")
        machine.must("systemctl", "reload", "scm-agent.service")
        self.expect_clone("again", "with the rule taken back")
        expect(self.pid() == before and "degraded" not in machine.show("StatusText"), "something is left of it")

    def start_job(self, name, before="/bin/true"):
        """A unit of the system's that runs scripts as the member. Its file goes with this machine."""
        unit = f"{name}.service"
        self.machine.must("install", "-d", "-o", "member", f"/home/member/jobs/{unit}", "/home/member/jobs")
        self.machine.write(f"/run/systemd/system/{unit}", JOB.format(before=before))
        self.machine.must("systemctl", "daemon-reload")
        self.machine.must("systemctl", "start", unit)
        return unit

    def clones_in(self, unit, name):
        """Whether a clone in a unit succeeds."""
        folder = f"/home/member/jobs/{unit}"
        script = "export HOME=/home/member GIT_TERMINAL_PROMPT=0\n" + CLONE.format(names=name, url=self.url)
        self.machine.write(f"{folder}/{name}.new", script)
        self.machine.must("mv", f"{folder}/{name}.new", f"{folder}/{name}.sh")
        wait_until(lambda: self.machine.run("test", "-e", f"{folder}/{name}.sh.done").returncode == 0, f"{unit} does nothing", 60)
        said = self.machine.must("cat", f"{folder}/{name}.sh.out")
        expect(not said or f"failed: {name}" in said, f"in {unit}, git said: {said}")
        return not said

    def case_a_unit_with_a_grant_clones_and_another_does_not_and_neither_once_it_has_ended(self):
        machine, host = self.machine, self.url.split("/")[2]
        machine.write(f"{ETC}/config.d/units.toml", "[[access]]\nallow = []\n")
        machine.must("systemctl", "reload", "scm-agent.service")
        granted, other = self.start_job("job-1"), self.start_job("job-2")
        expect(not self.clones_in(granted, "grant-none"), "a unit clones without a grant")
        done = machine.as_user("member", f"scm-agent grant --unit {granted} --host {host}")
        expect(done.returncode == 1 and b"only root and the agent's own user" in done.stderr, "a member gives grants")
        machine.must("scm-agent", "grant", "--unit", granted, "--host", host, "--ttl", "10m")
        expect(self.clones_in(granted, "grant-first"), "a unit with a grant does not clone")
        expect(not self.clones_in(other, "grant-other"), "a unit without one clones")
        expect("failed" in self.clone("member", "grant-outside").stdout.decode(), "the same user clones outside the unit")
        # It outlives the agent, whichever way that ends.
        machine.must("systemctl", "restart", "scm-agent.service")
        expect(self.clones_in(granted, "grant-restarted"), "a restart of the agent took the grant")
        before = self.pid()
        machine.must("systemctl", "kill", "--signal=KILL", "scm-agent.service")
        wait_until(lambda: self.pid() not in (0, before), "no other daemon came")
        expect(self.clones_in(granted, "grant-killed"), "a kill of the agent took the grant")
        expect(granted in machine.must("scm-agent", "grant", "--list"), "the grant is not listed")
        # Not the unit.
        machine.must("systemctl", "restart", granted)
        expect(not self.clones_in(granted, "grant-anew"), "the next run of the unit has the grant")
        expect(machine.must("scm-agent", "grant", "--list").strip() == "no unit has a grant", "the grant is still there")
        # As docs/access.md has it: the unit is given its host as it starts, each time anew.
        own = self.start_job("job-3", f"+/usr/bin/scm-agent grant --unit %n --host {host} --ttl 5m")
        expect(self.clones_in(own, "grant-own"), "a grant before the start does not count")
        machine.must("systemctl", "restart", own)
        expect(self.clones_in(own, "grant-own-anew"), "nor does it after a restart of the unit")

    def case_a_rule_about_units_is_for_processes_of_theirs_alone(self):
        machine = self.machine
        machine.write(f"{ETC}/config.d/units.toml", "[[access]]\nunits = [\"job-*.service\"]\nallow = [\"service\"]\n")
        machine.must("systemctl", "reload", "scm-agent.service")
        expect(self.clones_in("job-2.service", "rule-in"), "a rule about units gives its processes nothing")
        expect("failed" in self.clone("member", "rule-outside").stdout.decode(), "a rule about units gives something to others")
        # A unit of the user's own with such a name is the user's manager's, and none of the system's.
        made = machine.run("systemd-run", "--uid=member", "--unit=other-1.service", "--property=Delegate=yes", "--wait", "--collect", "--quiet",
                           "sh", "-c", "cd && export HOME=/home/member GIT_TERMINAL_PROMPT=0; " + CLONE.format(names="rule-other", url=self.url))
        expect(machine.run("test", "-e", "/home/member/clone-rule-other").returncode != 0, f"another unit clones: {made.stderr.decode()}")
        looks = ["systemd-run", "--unit=looks-1.service", "--pipe", "--wait", "--collect", "--quiet"]
        explained = machine.run(*looks, "env", "HOME=/root", "scm-agent", "explain", self.url).stdout.decode()
        expect("(you are in looks-1.service)" in explained, f"explain says: {explained}")
        for job in (1, 2, 3):
            machine.must("systemctl", "stop", f"job-{job}.service")
            machine.must("rm", f"/run/systemd/system/job-{job}.service")
        machine.must("rm", f"{ETC}/config.d/units.toml")
        machine.must("systemctl", "daemon-reload")
        machine.must("systemctl", "reload", "scm-agent.service")
        self.expect_clone("after-units", "without rules again")

    def case_metrics_are_served_with_one_line_of_configuration(self):
        machine, at = self.machine, "/run/scm-agent-metrics/metrics.sock"
        machine.write(f"{ETC}/config.d/metrics.toml", f'[metrics]\nlisten = "unix:{at}"\n')
        machine.must("systemctl", "reload", "scm-agent.service")
        expect(machine.must("stat", "-c", "%U %G %a", at).split() == ["scm-agent", "scm-agent", "660"], "the socket")
        expect(machine.must("stat", "-c", "%U %a", "/run/scm-agent").split() == ["root", "755"], "the directory of the agent's own socket")
        # The unit hides most of /proc, and the daemon lets nobody look into it.
        within = UnixConnection(f"/proc/{machine.init}/root{at}")
        within.request("GET", "/metrics")
        text = within.getresponse().read().decode()
        for name in ("process_open_fds", "process_resident_memory_bytes", "process_cpu_seconds_total", "scm_agent_memory_locked"):
            value = re.search(rf"(?m)^{name} (.+)$", text)
            expect(value and float(value[1]) > 0, f"{name} is {value}")
        port = free_port()
        machine.write(f"{ETC}/config.d/metrics.toml", f'[metrics]\nlisten = "127.0.0.1:{port}"\n')
        expect(machine.run("systemctl", "reload", "scm-agent.service").returncode != 0, "a port that the sandbox does not know was opened")
        machine.must("systemctl", "restart", "scm-agent.service")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
            text = reply.read().decode()
        expect('scm_agent_reloads_total{outcome="success"}' in text and 'quit"' in text, "no scrape")
        expect(self.status()["degraded"] == [], f"degraded: {self.status()['degraded']}")
        machine.must("rm", f"{ETC}/config.d/metrics.toml")
        machine.must("systemctl", "reload", "scm-agent.service")

    def case_the_watchdog_replaces_a_daemon_that_hangs(self):
        machine = self.machine
        # Less than git's helper waits, so that who asks meanwhile is answered by the next daemon.
        machine.write("/etc/systemd/system/scm-agent.service.d/watchdog.conf", "[Service]\nWatchdogSec=5\n")
        machine.must("systemctl", "daemon-reload")
        machine.must("systemctl", "restart", "scm-agent.service")
        before = self.pid()
        # A daemon that lives is left alone.
        time.sleep(6)
        expect(self.pid() == before, "it was replaced while it was well")
        machine.must("sh", "-c", f"kill -STOP {before}")
        # git waits in the queue, or is cut off and asks again.
        self.expect_clone("hung", "while the daemon hung")
        wait_until(lambda: self.pid() not in (0, before), "nobody replaced it")
        said = ("journalctl", "-u", "scm-agent.service", "-o", "cat", "--no-pager")
        wait_until(lambda: "watchdog" in machine.must(*said), "the journal does not say why")
        machine.must("rm", "/etc/systemd/system/scm-agent.service.d/watchdog.conf")
        machine.must("systemctl", "daemon-reload")
        machine.must("systemctl", "restart", "scm-agent.service")

    def logged(self, *matches):
        """The journal's entries with these fields."""
        lines = self.machine.must("journalctl", "-o", "json", "--all", "--no-pager", *matches).splitlines()
        return [json.loads(line) for line in lines]

    def case_the_journal_has_fields_to_ask_for(self):
        member = self.machine.must("id", "-u", "member").strip()
        given = self.logged("SCM_AGENT_EVENT=token_given", f"SCM_AGENT_UID={member}")[-1]
        wanted = {"PRIORITY": "6", "SCM_AGENT_TARGET": "audit", "SYSLOG_IDENTIFIER": "scm-agent", "_TRANSPORT": "journal",
                  "_SYSTEMD_UNIT": "scm-agent.service"}
        expect(wanted.items() <= given.items(), f"an entry of the audit log is {given}")
        expect(given["MESSAGE"].startswith("audit: answered ") and given["SCM_AGENT_HOST"] in given["MESSAGE"], f"it says {given['MESSAGE']}")
        expect(given["SCM_AGENT_INTEGRATION"] and given["SCM_AGENT_TOKEN"], f"an entry of the audit log is {given}")
        denied = self.logged("SCM_AGENT_EVENT=denied")
        expect(denied and {one["PRIORITY"] for one in denied} == {"4"}, f"refusals are {denied[:1]}")
        # A journal that stands still holds nobody up, and one that was started anew gets what comes then.
        machine = self.machine
        machine.must("systemctl", "kill", "--signal=STOP", "systemd-journald.service")
        try:
            self.expect_clone("still", "while the journal stood still")
        finally:
            machine.must("systemctl", "kill", "--signal=CONT", "systemd-journald.service")
        machine.must("systemctl", "restart", "systemd-journald.service")
        before = len(self.logged("SCM_AGENT_EVENT=token_given"))
        self.expect_clone("anew", "after the journal was started anew")
        wait_until(lambda: len(self.logged("SCM_AGENT_EVENT=token_given")) > before, "the new journal gets nothing")

    def case_the_audit_log_is_a_file_too_that_is_the_operators_alone(self):
        machine, file = self.machine, "/var/log/scm-agent/audit.jsonl"
        machine.write(f"{ETC}/config.d/audit.toml", f'[log]\naudit_file = "{file}"\n')
        machine.must("systemctl", "reload", "scm-agent.service")
        self.expect_clone("audited", "with an audit log of its own")
        lines = [json.loads(line) for line in machine.must("cat", file).splitlines()]
        expect({"reloaded", "token_given"} <= {line["event"] for line in lines}, f"the audit log has {lines}")
        owner = machine.must("stat", "-c", "%U %a", "/var/log/scm-agent", file).split()
        expect(owner == ["scm-agent", "700", "scm-agent", "600"], f"the audit log is {owner}")
        done = machine.as_user("member", f"cat {file}")
        expect(done.returncode != 0, "git's users can read who got what")
        # As logrotate's file does it.
        machine.must("mv", file, f"{file}.1")
        script = re.search(r"(?m)^\t\t(systemctl .*)$", machine.must("cat", "/etc/logrotate.d/scm-agent")).group(1)
        machine.must("sh", "-c", script)
        wait_until(lambda: machine.run("grep", "-q", "reloaded", file).returncode == 0, "the audit log does not follow its name")
        machine.must("rm", f"{ETC}/config.d/audit.toml")
        machine.must("systemctl", "reload", "scm-agent.service")

    def doctor(self, user="root"):
        """What doctor finds, and the command in each remedy."""
        done = self.machine.run("runuser", "-u", user, "--", "scm-agent", "doctor", "--json")
        checks = json.loads(done.stdout)["checks"]
        expect(done.returncode == any(check["state"] == "fail" for check in checks), f"doctor ended with {done.returncode}: {checks}")
        return checks

    def doctor_says(self, name, state, words, user="root"):
        """Checks that doctor names a fault; what it says to do."""
        checks = self.doctor(user)
        found = [check for check in checks if (check["name"], check["state"]) == (name, state) and words in check["detail"]]
        expect(found, f"doctor does not say {words!r}: {[check for check in checks if check['state'] in ('fail', 'warn')]}")
        return found[0].get("next", "")

    def case_doctor_names_what_is_wrong_with_the_units_and_its_commands_mend_it(self):
        machine = self.machine

        def sound():
            checks = {(check["name"], check["state"]) for check in self.doctor()}
            return {("service", "ok"), ("daemon", "ok"), ("key", "ok"), ("config", "ok")} <= checks and ("service", "warn") not in checks

        wait_until(sound, lambda: f"doctor does not find it well: {self.doctor()}")
        for breaks, state, words in (
            (["systemctl", "stop", *UNIT_NAMES], "fail", "neither scm-agent.service nor scm-agent.socket is running"),
            (["systemctl", "mask", "--now", "scm-agent.service"], "fail", "scm-agent.service is masked"),
            (["systemctl", "disable", *UNIT_NAMES], "warn", "does not start with the machine"),
            (["sh", "-c", "echo '[Service]' > /etc/systemd/system/scm-agent.service.d/later.conf"], "warn", "changed after systemd read them"),
        ):
            machine.must(*breaks)
            machine.must("sh", "-c", self.doctor_says("service", state, words))
            wait_until(sound, lambda: f"after {breaks}: {self.doctor()}")
        # A credential that is not there: the key comes back, and the rest is the command for a unit that has given up.
        machine.must("mv", f"{ETC}/runner.pem", f"{ETC}/away.pem")
        machine.run("systemctl", "restart", "scm-agent.service")
        self.doctor_says("service", "fail", f"{ETC}/runner.pem, the credential runner-key of scm-agent.service, is not there")
        machine.must("mv", f"{ETC}/away.pem", f"{ETC}/runner.pem")
        machine.run("systemctl", "reset-failed", "scm-agent.service")
        machine.must("systemctl", "restart", *UNIT_NAMES)
        wait_until(sound, lambda: f"with its key back: {self.doctor()}")
        # Somebody who may not ask, until the command that is told was run and a new session is there.
        told = self.doctor_says("daemon", "fail", "no scm-agent answers", "other")
        command = re.search(r"sudo (usermod -aG scm-agent other)", told)
        expect(command, f"another user is told: {told}")
        machine.must("sh", "-c", command[1])
        self.doctor_says("daemon", "ok", "", "other")

    def case_the_journal_holds_no_secret(self):
        journal = self.machine.journal()
        expect(b"answered" in journal and b"SCM_AGENT_LEVEL=DEBUG" in journal, "the journal has nothing finer than what operators see")
        print(f"    {len(journal) // 1024} KiB of journal with {journal.count(b'audit: answered')} answers")
        secrets = {*self.issuer.apps.values(), *self.issuer.ask({"do": "tokens"})["tokens"], self.plane.token}
        secrets |= {line for line in self.key.file.read_text().splitlines() if not line.startswith("-----") and len(line) > 20}
        expect(len(secrets) > 10, "there is little to search for")
        found = sum(form.encode() in journal for secret in secrets for form in forms(secret))
        expect(found == 0, f"{found} secrets are in the journal")
        planted = f"x {self.plane.token} y".encode()
        expect(any(form.encode() in planted for form in forms(self.plane.token)), "the search would find nothing at all")

    def case_removed_it_keeps_what_is_the_operators_and_purged_it_leaves_nothing(self):
        machine = self.machine
        machine.must("dpkg", "--remove", "scm-agent", seconds=120)
        kept = self.files()
        expect({f"{ETC}/config.toml", f"{ETC}/runner.pem", "/var/lib/scm-agent/grants.redb"} <= kept, "removing it took the operator's files away")
        expect(not any("agent.sock" in name or name.startswith("/usr/bin/scm") for name in kept), "removed, it is still there")
        machine.must("dpkg", "--purge", "scm-agent", seconds=120)
        ours = re.compile(r"^(/var/lib/dpkg/|/var/log/(?!scm-agent)|/var/cache/|/var/tmp/|/var/lib/systemd/|/etc/\.pwd\.lock|/etc/(passwd|group|shadow|gshadow|subuid|subgid)-?$)"
                          r"|^/var/(mail|spool/mail)/(member|other)$")
        left = sorted(name for name in self.files() - self.before if not ours.match(name))
        expect(not left, f"purged, it leaves {left}")
        named = machine.run("sh", "-c", "grep -l scm-agent /etc/passwd /etc/group /etc/shadow /etc/gshadow; ls -d /run/*scm-agent*; "
                            "systemctl list-units --all --no-legend 'scm-agent*'; ps ax -o comm= | grep scm-agent").stdout.decode().split()
        expect(not named, f"purged, it is still in {named}")
        expect(machine.run("dpkg", "-s", "scm-agent").returncode != 0, "dpkg still knows it")
