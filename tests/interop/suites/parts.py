"""The parts by themselves: if these do not hold, nothing that the other suites say counts."""

import json
import subprocess
import urllib.error

from git_host import GitHost
from harness import Failed, Process, Suite, expect, wait_until
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

    def case_the_vendors_client_is_told_of_changes(self):
        plane = self.control_plane
        row = plane.integration("watched.example.test", "app", "AAAA")
        steps = [
            ("RESOURCE_OPERATION_CREATE", lambda: plane.put(row)),
            ("RESOURCE_OPERATION_UPDATE", lambda: plane.put({**row, "host": "moved.example.test"})),
            ("RESOURCE_OPERATION_DELETE", lambda: plane.remove(row["id"])),
        ]
        argv = [self.world.python, self.world.root / "tests/interop/vendor_client.py", plane.url, plane.runner_id, "--watch", len(steps)]
        # The runtime sends its headers with the first event; a server may as well send them at once.
        for at_once in (False, True):
            plane.headers_at_once(at_once)
            before = plane.stats()["events_sent"]
            with Process("vendor-watch", argv, self.world, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watching:
                watching.child.stdin.write(f"{plane.token}\n")
                watching.child.stdin.flush()
                wait_until(lambda: plane.stats()["streams_open"] == 1, watching.tail)
                for operation, step in steps:
                    step()
                    event = json.loads(watching.child.stdout.readline() or "{}")
                    expected = {"operation": operation, "type": "RESOURCE_TYPE_RUNNER_SCM_INTEGRATION", "id": row["id"]}
                    expect(event == expected, f"instead of {expected} it was told {event}: {watching.tail()}")
                expect(plane.stats()["events_sent"] == before + len(steps), f"{plane.stats()['events_sent'] - before} events were sent")
            wait_until(lambda: plane.stats()["streams_open"] == 0, "the stream of a client that went away is still open")

    def case_a_killed_stream_ends_for_the_vendors_client(self):
        plane = self.control_plane
        argv = [self.world.python, self.world.root / "tests/interop/vendor_client.py", plane.url, plane.runner_id, "--watch", 1]
        endings = [("killed", plane.kill_streams), *((mode, None) for mode in ("unimplemented", "permission_denied", "missing"))]
        for name, act in endings:
            plane.watch("on" if act else name)
            with Process("vendor-watch", argv, self.world, stdin=subprocess.PIPE, text=True) as watching:
                watching.child.stdin.write(f"{plane.token}\n")
                watching.child.stdin.flush()
                if act:
                    wait_until(lambda: plane.stats()["streams_open"] == 1, watching.tail)
                    expect(act() == 1, "no stream was killed")
                wait_until(lambda: watching.child.poll() is not None, f"{name}: the client does not notice")
                expect(watching.child.returncode != 0, f"{name}: the client saw a good end")
        plane.watch("on")

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

    def case_the_issuer_takes_the_new_secret_of_an_app_only(self):
        old = self.issuer.apps["app"]
        token = self.issuer.mint("app")
        new, bytes_before = self.issuer.rotate("app"), self.issuer.stats()["bytes"]
        self.issuer.mint("app")
        expect(self.git_host.is_live(token), "a token of before is dead")
        expect(self.issuer.stats()["bytes"] > bytes_before, "it does not count what it gets")
        self.issuer.apps["app"] = old
        try:
            self.issuer.mint("app")
        except urllib.error.HTTPError as refused:
            expect(refused.code in (400, 401), f"the old secret gets {refused.code}")
        else:
            raise Failed("the old secret still makes tokens")
        self.issuer.apps["app"] = new
