"""100 `git credential fill` at once on a cold cache make one token request."""

import subprocess

from agent import Agent, Key
from harness import Suite, expect
from parts import ControlPlane, Issuer

CROWD = 100


class Crowd(Suite):
    needs = frozenset({"venv", "issuer", "openssl", "binaries"})

    def setup(self):
        world, enter = self.world, self.stack.enter_context
        key = Key(world, "crowd")
        self.issuer = enter(Issuer(world))
        plane = enter(ControlPlane(world, key.registered)).start()
        row = plane.integration("crowd.example.test", "app", key.seal(self.issuer.apps["app"]), self.issuer.url)
        plane.put(row)
        self.agent = enter(Agent(world, plane, key))
        self.agent.wait_secrets(row["id"])

    def case_one_hundred_fills_make_one_token_request(self):
        expect(self.issuer.token_requests() == 0, "the cache is not cold")
        helper = f"credential.helper={self.world.helper} --socket {self.agent.socket}"
        argv = ["git", "-c", "credential.helper=", "-c", helper, "credential", "fill"]
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": self.world.environment()}
        crowd = []
        try:
            crowd += [subprocess.Popen(argv, **options) for _ in range(CROWD)]
            for one in crowd:
                one.stdin.write(b"protocol=https\nhost=crowd.example.test\n\n")
                one.stdin.flush()
            answers = [one.communicate(timeout=60) for one in crowd]
        finally:
            for one in crowd:
                one.kill()
                one.wait()
        passwords = [line for out, _ in answers for line in out.decode().splitlines() if line.startswith("password=")]
        silent = [said.decode().strip() for out, said in answers if b"password=" not in out]
        expect(not silent, f"{len(silent)} of {CROWD} got no password; one said: {silent[:1]}")
        expect(len(set(passwords)) == 1, f"{len(set(passwords))} different passwords")
        expect(self.issuer.token_requests() == 1, f"{self.issuer.token_requests()} token requests")
