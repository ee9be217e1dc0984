"""`git setup` on a real machine: an unprivileged user's plain `git clone` works after it, and nothing is left of it after `git unset`."""

import grp
import json
import os
import pathlib
import pwd
import shutil
import subprocess

from agent import Agent, Key
from git_host import GitHost
from harness import Suite, expect
from parts import ControlPlane, Issuer

# A file as a person has it: another helper that would write tokens down, a comment, CR and LF, and no line end at the end.
BEFORE = b"# mine\r\n[user]\r\n\tname = dev\r\n\temail = dev@example.test\r\n[credential]\r\n\thelper = store"


class Setup(Suite):
    needs = frozenset({"venv", "issuer", "nginx", "fcgiwrap", "openssl", "binaries", "root"})

    def setup(self):
        world, enter = self.world, self.stack.enter_context
        key = self.key = Key(world, "setup")
        issuer = self.issuer = enter(Issuer(world, apps=["app", "second"]))
        self.git_host = enter(GitHost(world, issuer.url, issuer.resource_server))
        self.url = self.git_host.new_repository("setup.git")
        plane = self.plane = enter(ControlPlane(world, key.registered)).start()
        self.main = plane.integration(self.git_host.host, "app", key.seal(issuer.apps["app"]), issuer.url)
        plane.put(self.main)
        self.user = pwd.getpwnam("nobody")
        directory = world.dir("agent")
        drop_in = directory / "config.d" / "group.toml"
        drop_in.parent.mkdir()
        drop_in.write_text(f'[agent]\nsocket_group = "{grp.getgrgid(self.user.pw_gid).gr_name}"\n')
        self.agent = enter(Agent(world, plane, key, directory=directory))
        self.agent.wait_secrets(self.main["id"])
        # The user has the programs in the path, and reads the configuration; the token and the key stay closed.
        self.bin = directory / "bin"
        self.bin.mkdir()
        for name in ("scm-agent", "git-credential-scm-agent"):
            shutil.copy(world.bin_dir / name, self.bin / name)
            (self.bin / name).chmod(0o755)
        self.stack.callback(shutil.rmtree, self.bin)
        for path, mode in [(world.scratch, 0o711), (directory, 0o711), (self.bin, 0o755), (self.agent.config, 0o644)]:
            path.chmod(mode)
        self.stack.callback(world.scratch.chmod, 0o700)
        self.home = world.dir("home-of-nobody")
        os.chown(self.home, self.user.pw_uid, self.user.pw_gid)
        self.gitconfig = self.home / ".gitconfig"
        self.gitconfig.write_bytes(BEFORE)
        os.chown(self.gitconfig, self.user.pw_uid, self.user.pw_gid)
        self.gitconfig.chmod(0o600)
        self.clones = 0

    def run_as(self, *argv, user=True, **extra):
        """A command as the user, or as root with the user's home folder."""
        path = os.pathsep.join([str(self.bin), os.environ["PATH"]])
        environment = self.world.environment(HOME=str(self.home), PATH=path, **extra)
        if "GIT_CONFIG_SYSTEM" in extra:
            del environment["GIT_CONFIG_NOSYSTEM"]
        identity = {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []} if user else {}
        argv = [str(part) for part in argv]
        done = subprocess.run(argv, env=environment, cwd=self.home, capture_output=True, text=True, timeout=60, check=False, **identity)
        self.agent.seen += [done.stdout, done.stderr]
        return done

    def agent_git(self, *arguments, status=0, **options):
        done = self.run_as("scm-agent", "git", *arguments, "--config", self.agent.config, **options)
        expect(done.returncode == status, f"git {arguments[0]} ended with {done.returncode}: {done.stderr}")
        return done.stdout + done.stderr

    def clone(self, git="git", **options):
        """`git clone` as the user types it; whether it worked."""
        self.clones += 1
        target = self.home / f"clone-{self.clones}"
        done = self.run_as(git, "clone", "-q", self.url, target, **options)
        expect((done.returncode == 0) == (target / "README").exists(), f"git ended with {done.returncode}: {done.stderr}")
        return done.returncode == 0

    def doctor(self):
        """What doctor says of git that is not well."""
        done = self.run_as("scm-agent", "doctor", "--json", "--config", self.agent.config)
        return [one["detail"] for one in json.loads(done.stdout)["checks"] if one["name"] in ("git", "helper") and one["state"] != "ok"]

    def case_without_it_git_asks_nobody(self):
        expect(not self.clone(), "a clone worked without a helper")
        expect(any("does not ask" in one for one in self.doctor()), f"doctor says {self.doctor()}")

    def case_a_dry_run_changes_nothing(self):
        said = self.agent_git("setup", "--dry-run")
        expect("+\thelper = scm-agent --socket " in said and "dev@" not in said, f"it says {said}")
        expect(self.gitconfig.read_bytes() == BEFORE, "the file is another")

    def case_a_plain_clone_works_after_it(self):
        self.agent_git("setup")
        expect(self.clone(), "the clone failed")
        token = self.agent.password(self.git_host.host, "http")
        expect(self.git_host.visits[-1][1:] == (token, True), "the host saw another token")
        expect(not (self.home / ".git-credentials").exists(), "the other helper was told of the token")
        said = self.doctor()
        expect(said == [], f"doctor says {said}")

    def case_every_git_of_this_machine_reads_it(self):
        gits = {str(path) for path in (pathlib.Path("/usr/bin/git"), pathlib.Path("/usr/local/bin/git")) if path.exists()}
        for git in sorted(gits | {shutil.which("git")}):
            expect(self.clone(git=git), f"{git} does not clone")

    def case_twice_is_once(self):
        once = self.gitconfig.read_bytes()
        self.agent_git("setup")
        expect(self.gitconfig.read_bytes() == once, "it changed again")

    def case_the_owner_stays_when_root_does_it(self):
        second = self.plane.integration("second.example.test", "second", self.key.seal(self.issuer.apps["second"]), self.issuer.url)
        self.plane.put(self.main, second)
        self.agent.wait_secrets(second["id"])
        said = self.doctor()
        expect(len(said) == 1 and "second.example.test" in said[0], f"doctor says {said}")
        self.agent_git("setup", "--file", self.gitconfig, user=False)
        now = self.gitconfig.stat()
        expect((now.st_uid, now.st_gid, now.st_mode & 0o7777) == (self.user.pw_uid, self.user.pw_gid, 0o600), "owner or mode changed")
        expect(self.doctor() == [], f"doctor says {self.doctor()}")

    def case_unset_leaves_the_file_as_it_was(self):
        self.agent_git("unset")
        expect(self.gitconfig.read_bytes() == BEFORE, "the file is another")
        expect(not self.clone(), "git still asks")

    def case_the_systems_file_is_for_everybody(self):
        system = self.home.parent / "system-gitconfig"
        said = self.agent_git("setup", user=False, GIT_CONFIG_SYSTEM=str(system))
        # The user's own helper comes after it.
        expect("\"store\" is asked beside" in said, f"it says {said}")
        expect(system.stat().st_mode & 0o004, "others cannot read it")
        self.gitconfig.rename(self.home / "put-away")
        expect(self.clone(GIT_CONFIG_SYSTEM=str(system)), "the clone failed")
        self.agent_git("unset", "--system", user=False, GIT_CONFIG_SYSTEM=str(system))
        expect(not system.exists(), "the file is still there")
        (self.home / "put-away").rename(self.gitconfig)

    def case_a_user_cannot_write_what_is_not_theirs(self):
        folder = self.home.parent / "roots"
        folder.mkdir(mode=0o755)
        theirs = folder / "config"
        theirs.write_text("[user]\n")
        theirs.chmod(0o644)
        for file in (theirs, folder / "new"):
            said = self.agent_git("setup", "--file", file, status=1)
            expect("cannot write" in said and "hint: " in said, f"it says {said}")
        expect([path.name for path in folder.iterdir()] == ["config"] and theirs.read_text() == "[user]\n", "something changed")
        theirs.chmod(0o666)
        folder.chmod(0o777)
        said = self.agent_git("setup", "--file", theirs, status=1)
        expect("belongs to another user" in said, f"it says {said}")
        expect([path.name for path in folder.iterdir()] == ["config"] and theirs.read_text() == "[user]\n", "something changed")
