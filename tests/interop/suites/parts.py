"""The parts by themselves: if these do not hold, nothing that the other suites say counts."""

import subprocess

from git_host import GitHost
from harness import Suite, expect
from parts import ControlPlane, Issuer
from suites.fake import relay


class Parts(Suite):
    needs = frozenset({"venv", "issuer", "nginx", "fcgiwrap"})

    def setup(self):
        self.control_plane = self.stack.enter_context(ControlPlane(self.world))
        self.issuer = self.stack.enter_context(Issuer(self.world))
        self.git_host = self.stack.enter_context(GitHost(self.world, self.issuer.url, self.issuer.resource_server))
        self.url = self.git_host.new_repository("parts.git")

    def ls_remote(self, password):
        helper = "!f() { test \"$1\" = get && echo username=any && echo password=$PASSWORD; }; f"
        argv = ["git", "-c", "credential.helper=", "-c", f"credential.helper={helper}", "ls-remote", self.url]
        env = self.world.environment(PASSWORD=password)
        return subprocess.run(argv, env=env, capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False)

    def case_the_control_plane_refuses_before_it_starts(self):
        argv = [self.world.python, self.world.root / "tests/interop/vendor_client.py", self.control_plane.url, self.control_plane.runner_id]
        done = self.world.call(argv, given=b"x\n", check=False)
        expect(done.returncode != 0 and b"ok lists" not in done.stdout, "a control plane that is down answered")

    def case_the_vendors_client_is_content_with_the_vendors_services(self):
        self.control_plane.start()
        mine = [self.control_plane.integration(f"h{n}.example.test", "app", "AAAA") for n in range(5)]
        other = {**self.control_plane.integration("other.example.test", "app", "AAAA"), "runnerId": "11111111-2222-4333-8444-555555555555"}
        self.control_plane.put(*mine, other)
        failed = relay(self.world, self.control_plane.url, self.control_plane.token, self.control_plane.runner_id)
        expect(not failed, "; ".join(failed))

    def case_the_git_host_takes_a_live_token(self):
        token = self.issuer.mint("app")
        done = self.ls_remote(token)
        expect(done.returncode == 0, f"git ended with {done.returncode}: {done.stderr.decode()}")
        expect(self.git_host.visits[-1] == ("any", token, True), "the host saw something else")

    def case_the_git_host_takes_nothing_else(self):
        revoked = self.issuer.mint("app")
        self.issuer.revoke("app", revoked)
        for name, password in [("an invented token", "wrong"), ("a revoked token", revoked)]:
            done = self.ls_remote(password)
            expect(done.returncode != 0 and b"Authentication failed" in done.stderr, f"{name} opened the host")
        argv = ["git", "-c", "credential.helper=", "ls-remote", self.url]
        expect(self.world.call(argv, check=False).returncode != 0, "no token at all opened the host")
