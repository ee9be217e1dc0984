"""Containers of a real engine's: git in one with the daemon outside, and the daemon in one with git outside."""

import json
import os
import pathlib
import signal

from agent import Agent, Key
from git_host import GitHost
from harness import Process, Suite, expect, wait_until
from parts import ControlPlane, Issuer

# The socket's group on the host, and what it is called in a container that lets it in.
GROUP = 43_210
GROUP_INSIDE = 5_000
# Where a container's ids begin on the host, and how many it has.
FIRST, COUNT = 100_000, 65_536
# The daemon's user in a container, which no /etc/passwd there knows, and any other of the host's.
DAEMON, STRANGER = 990, 54_321
# The id that stands for those without one.
OVERFLOW = 65_534
AUDIT = "the caller's user has no number in the daemon's user namespace"

CONFIG = f"""\
[control_plane]
file = "list.json"
[key]
files = ["runner.pem"]
[agent]
socket = "agent.sock"
state_dir = "state"
socket_group = "{OVERFLOW}"
[[access]]
users = ["nobody"]
allow = ["service", "own"]
"""
# podman with storage of its own, which ends with the suite, and a root that is the tree that install.sh made and what is written
# since, in memory: the container's root has to be able to make what the engine mounts on. The engine's runtime wants the one kind
# of control groups, and a machine may have both.
PODMAN = """\
set -e
mkdir -p "$0/over"
mount -t tmpfs none "$0/over"
mkdir "$0/over/upper" "$0/over/upper/run" "$0/over/work" "$0/over/root"
chown "$OWNER:$OWNER" "$0/over/upper" "$0/over/upper/run"
mount -t overlay overlay -o "lowerdir=$TREE,upperdir=$0/over/upper,workdir=$0/over/work" "$0/over/root"
if [ ! -e /sys/fs/cgroup/cgroup.controllers ]; then umount -R /sys/fs/cgroup 2>/dev/null; mount -t cgroup2 none /sys/fs/cgroup || exit 125; fi
exec podman --root "$0/storage" --runroot "$0/run" --tmpdir "$0/tmp" --cgroup-manager cgroupfs --storage-driver vfs --events-backend none "$@"
"""
MAPPED = ["--uidmap", f"0:{FIRST}:{COUNT}"]
ALL_GROUPS = ["--gidmap", f"0:{FIRST}:{COUNT}"]
# One of the host's groups is one of the container's.
ONE_GROUP = ["--gidmap", f"0:{FIRST}:{GROUP_INSIDE}", "--gidmap", f"{GROUP_INSIDE}:{GROUP}:1"]
ONE_GROUP += ["--gidmap", f"{GROUP_INSIDE + 1}:{FIRST + GROUP_INSIDE + 1}:{COUNT - GROUP_INSIDE - 1}"]


class Containers(Suite):
    needs = frozenset({"venv", "issuer", "nginx", "fcgiwrap", "openssl", "binaries", "root", "systemd tree", "podman"})

    def setup(self):
        world, enter = self.world, self.stack.enter_context
        # Other users come by: a container's root is one of them.
        world.scratch.chmod(0o711)
        self.stack.callback(world.scratch.chmod, 0o700)
        self.engine = world.dir("podman")
        self.engine.chmod(0o711)
        self.key = Key(world, "containers")
        issuer = enter(Issuer(world, apps=["app"]))
        self.git_host = enter(GitHost(world, issuer.url, issuer.resource_server))
        self.url = self.git_host.new_repository("containers.git")
        plane = enter(ControlPlane(world, self.key.registered)).start()
        row = plane.integration(self.git_host.host, "app", self.key.seal(issuer.apps["app"]), issuer.url)
        plane.put(row)
        # A folder for the socket alone: it is what a container gets to see.
        self.sockets = world.dir("sockets")
        self.sockets.chmod(0o755)
        self.programs = world.dir("programs")
        self.programs.chmod(0o755)
        for name in ("scm-agent", "git-credential-scm-agent"):
            world.call(["install", "-m", "755", world.bin_dir / name, self.programs / name])
        self.variables = {"SCM_AGENT__AGENT__SOCKET": str(self.sockets / "agent.sock"), "SCM_AGENT__AGENT__SOCKET_GROUP": str(GROUP)}
        self.agent = enter(Agent(world, plane, self.key, environment=self.variables))
        wait_until(lambda: self.host_status().get("sync", {}).get("last_success"), self.agent.tail)

    def host_status(self):
        done = self.world.call([self.world.bin_dir / "scm-agent", "status", "--json"], check=False, environment=self.variables)
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def podman(self, owner, *arguments):
        variables = [f"TREE={self.world.parts_dir}/systemd-tree", f"OWNER={owner}"]
        return ["env", *variables, "unshare", "--mount", "sh", "-c", PODMAN, self.engine, *arguments]

    def container(self, *options, argv, folder, path="/run/scm-agent"):
        """The arguments that run a container on a read-only system, with a folder and the programs in it."""
        fixed = ["--rm", "--read-only", "--read-only-tmpfs=false", "--tmpfs", "/run:mode=0755", "--tmpfs", "/tmp", "--network", "host", "--no-hosts", "--dns", "none", "--cgroups", "disabled"]
        # As high as here at most: not everybody may raise them.
        fixed += ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
        mounts = ["--volume", f"{folder}:{path}", "--volume", f"{self.programs}:/run/programs:ro"]
        root = ["--rootfs", self.engine / "over" / "root"]
        owner = FIRST if MAPPED[0] in options else 0
        return self.podman(owner, "run", *fixed, *mounts, *options, *root, *argv)

    def clone(self, *options, path="/run/scm-agent", socket=None):
        """git in a container; the socket's folder is mounted so that nothing can be written to it."""
        helper = "/run/programs/git-credential-scm-agent" + (f" --socket {socket}" if socket else "")
        argv = ["git", "-c", "credential.helper=", "-c", f"credential.helper={helper}", "clone", "-q", self.url, "/tmp/clone"]
        options = [*options, "--env", "HOME=/tmp", "--env", "GIT_TERMINAL_PROMPT=0"]
        done = self.world.call(self.container(*options, argv=argv, folder=self.sockets, path=f"{path}:ro"), check=False, seconds=90)
        return done.returncode, done.stderr.decode(errors="replace")

    def case_a_member_s_container_clones(self):
        before = len(self.git_host.visits)
        code, said = self.clone(*MAPPED, *ONE_GROUP, "--user", "1000:1000", "--group-add", str(GROUP_INSIDE))
        expect(code == 0 and len(self.git_host.visits) > before, f"git ended with {code}: {said}")
        # As text or as JSON.
        names = [f"uid={FIRST + 1000} ", f'"uid":{FIRST + 1000},']
        wait_until(lambda: any(name in self.agent.log.read_text() for name in names), "the daemon's log does not name the host's number of that user")

    def case_nobody_else_s_does(self):
        for user in ("1000:1000", "0:0"):
            code, said = self.clone(*MAPPED, *ONE_GROUP, "--user", user)
            expect(code == 128 and "git-credential-scm-agent: " in said and "no permission to use" in said, f"{user}: {code}, {said}")

    def case_without_a_user_namespace_its_root_is_the_host_s(self):
        code, said = self.clone()
        expect(code == 0, f"git ended with {code}: {said}")

    def case_the_folder_may_be_mounted_elsewhere(self):
        options = [*MAPPED, *ONE_GROUP, "--user", "1000:1000", "--group-add", str(GROUP_INSIDE)]
        code, said = self.clone(*options, path="/run/elsewhere", socket="/run/elsewhere/agent.sock")
        expect(code == 0, f"git ended with {code}: {said}")

    # From here on the daemon is in the container, as its first process.

    def case_a_daemon_in_a_container_serves(self):
        world = self.world
        self.inner = world.dir("inner")
        (self.inner / "config.toml").write_text(CONFIG)
        (self.inner / "list.json").write_text('{"integrations": []}')
        (self.inner / "runner.pem").write_bytes(self.key.file.read_bytes())
        (self.inner / "runner.pem").chmod(0o600)
        (self.inner / "state").mkdir(mode=0o700)
        for path in (self.inner, *self.inner.iterdir()):
            os.chown(path, FIRST + DAEMON, FIRST + DAEMON)
        self.inner.chmod(0o755)
        options = [*MAPPED, *ALL_GROUPS, "--user", f"{DAEMON}:{DAEMON}", "--group-add", str(OVERFLOW), "--ulimit", "memlock=65536:65536"]
        argv = ["env", "--unset=HOME", "/run/programs/scm-agent", "run", "--config", "/run/inner/config.toml"]
        command = [str(part) for part in self.container(*options, argv=argv, folder=self.inner, path="/run/inner")]
        self.inside = self.stack.enter_context(Process("inside", command, world, stdout="log", env=world.environment()))
        status = json.loads(wait_until(lambda: self.ask(FIRST + DAEMON, FIRST + DAEMON)[0], self.inside.tail))
        expect(status["pid"] == 1, f"it is not the first process: {status['pid']}")
        expect(not status["degraded"], f"degraded: {status['degraded']}")
        expect(not status["memory"]["locked"] and "RLIMIT_MEMLOCK is 64 KiB" in status["memory"]["reason"], f"{status['memory']}")
        sandbox = status["sandbox"]
        expect(sandbox["seccomp"] == "on" and sandbox["no_new_privs"], f"{sandbox}")
        # Whether the engine's own filter lets Landlock through is for the engine to say, and for the daemon to tell.
        expect(sandbox["landlock"].startswith("abi") or (sandbox["landlock"] == "unsupported" and sandbox["reason"]), f"{sandbox}")

    def ask(self, uid, gid, *groups):
        """What `status` prints for a user of the host's, and what it says on standard error."""
        identity = ["setpriv", f"--reuid={uid}", f"--regid={gid}", f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"]
        variables = {"SCM_AGENT__AGENT__SOCKET": str(self.inner / "agent.sock")}
        done = self.world.call([*identity, self.programs / "scm-agent", "status", "--json"], check=False, environment=variables, cwd="/")
        return done.stdout.decode(), done.stderr.decode(errors="replace")

    def case_whoever_has_no_number_in_there_is_nobody_in_particular(self):
        # Whoever it is, the file lets them in: what refuses them is the daemon.
        (self.inner / "agent.sock").chmod(0o666)
        for who in [(0, 0), (STRANGER, STRANGER), (STRANGER, FIRST + OVERFLOW), (OVERFLOW, OVERFLOW, FIRST + OVERFLOW)]:
            before = self.inside.log.read_text().count(AUDIT)
            said, error = self.ask(*who)
            expect(not said and error, f"{who} was answered")
            wait_until(lambda: self.inside.log.read_text().count(AUDIT) > before, f"no line about {who}: {self.inside.tail()}")

    def case_a_group_without_a_number_is_not_the_socket_s(self):
        # The socket's group is the very number that stands for those without one.
        for groups in [(STRANGER,), (FIRST + 1000, STRANGER), (FIRST + 1000, FIRST + OVERFLOW)]:
            said, _ = self.ask(FIRST + 1000, *groups)
            expect(not said, f"a user with the groups {groups} was answered")
        expect(self.ask(FIRST + DAEMON, STRANGER)[0], "the daemon's own user is not answered")

    def case_it_ends_when_it_is_told_to_as_the_first_process(self):
        # What podman runs under passes signals on.
        self.inside.child.send_signal(signal.SIGTERM)
        wait_until(lambda: self.inside.child.poll() is not None, "it does not end", 20)
        expect(self.inside.child.returncode == 0, f"it ended with {self.inside.child.returncode}: {self.inside.tail()}")
        expect(not (self.inner / "agent.sock").exists(), "its socket is left behind")
        expect(not list(pathlib.Path(self.inner).glob(".[0-9]*")), "something is left behind")
