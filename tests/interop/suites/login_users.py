"""What one user of the machine signed in to is not another's: with two real users."""

import grp
import json
import pwd
import shutil
import subprocess

from harness import expect
from suites.login import LoginSuite


class LoginUsers(LoginSuite):
    needs = LoginSuite.needs | {"root"}

    def setup(self):
        super().setup()
        self.other = pwd.getpwnam("nobody")
        self.agent.quit()
        directory = self.agent.dir
        drop_in = directory / "config.d" / "group.toml"
        drop_in.parent.mkdir()
        drop_in.write_text(f'[agent]\nsocket_group = "{grp.getgrgid(self.other.pw_gid).gr_name}"\n')
        self.restart()
        # The other user reaches the socket, the configuration and copies of the programs; the token and the key stay closed.
        self.programs = {name: directory / name for name in ("scm-agent", "git-credential-scm-agent")}
        for name, copy in self.programs.items():
            shutil.copy(self.world.bin_dir / name, copy)
            copy.chmod(0o755)
            self.stack.callback(copy.unlink)
        for path, mode in [(self.world.scratch, 0o711), (directory, 0o711), (self.agent.config, 0o644)]:
            path.chmod(mode)
        self.stack.callback(self.world.scratch.chmod, 0o700)
        self.identity = {"user": self.other.pw_uid, "group": self.other.pw_gid, "extra_groups": []}

    def as_other(self, program, *arguments, given=None):
        """Runs one of our programs as the other user."""
        argv = [str(part) for part in [self.programs[program], *arguments]]
        options = {"capture_output": True, "text": True, "timeout": 30, "check": False, "input": given or ""}
        done = subprocess.run(argv, env=self.world.environment(), cwd="/", **self.identity, **options)
        self.agent.seen.append(done.stderr)
        return done

    def ask_as_other(self):
        given = f"protocol=http\nhost={self.host}\n\n"
        done = self.as_other("git-credential-scm-agent", "--socket", self.agent.socket, "get", given=given)
        return dict(line.split("=", 1) for line in done.stdout.splitlines() if line), done.stderr

    def accounts_of_other(self):
        done = self.as_other("scm-agent", "accounts", "--json", "--config", self.agent.config)
        expect(done.returncode == 0, f"accounts ended with {done.returncode}: {done.stderr}")
        return [one["account"] for one in json.loads(done.stdout)["accounts"]]

    def case_another_user_is_told_to_log_in(self):
        self.signed_in("alice")
        expect(self.owner(self.token()) == "alice", "the user who signed in gets no token")
        self.expect_told_to_log_in(*self.ask_as_other())
        expect(self.accounts_of_other() == [], "another user's account is listed")

    def case_another_user_cannot_log_the_first_out(self):
        for account in (["--account", "alice"], []):
            done = self.as_other("scm-agent", "logout", f"http://{self.host}", *account, "--config", self.agent.config)
            expect(done.returncode == 1 and "not signed in" in done.stderr, f"logout ended with {done.returncode}: {done.stderr}")
        expect(self.owner(self.token()) == "alice", "the first user's grant is gone")

    def case_another_user_has_a_grant_of_its_own(self):
        self.signed_in("zoe", program=self.programs["scm-agent"], **self.identity)
        answer, said = self.ask_as_other()
        expect("password" in answer, f"no password: {said}")
        expect(self.owner(answer["password"]) == "zoe", "the token is not the other user's own")
        expect(self.accounts_of_other() == ["zoe"], f"it sees {self.accounts_of_other()}")
        expect(self.owner(self.token()) == "alice" and list(self.accounts()) == ["alice"], "the first user sees the other's")

    def case_the_same_account_of_two_users_is_two_grants(self):
        self.signed_in("alice", program=self.programs["scm-agent"], **self.identity)
        done = self.as_other("scm-agent", "logout", f"http://{self.host}", "--account", "alice", "--config", self.agent.config)
        expect(done.returncode == 0, f"logout ended with {done.returncode}: {done.stderr}")
        expect(self.accounts_of_other() == ["zoe"], f"it sees {self.accounts_of_other()}")
        expect(self.owner(self.token()) == "alice", "the first user's grant is gone")
