"""100 `git credential fill` at once on a cold cache make one token request."""

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
        answers = self.agent.crowd(CROWD, b"protocol=https\nhost=crowd.example.test\n\n")
        passwords = [line for out, _ in answers for line in out.splitlines() if line.startswith("password=")]
        silent = [said for out, said in answers if "password=" not in out]
        expect(not silent, f"{len(silent)} of {CROWD} got no password; one said: {silent[:1]}")
        expect(len(set(passwords)) == 1, f"{len(set(passwords))} different passwords")
        expect(self.issuer.token_requests() == 1, f"{self.issuer.token_requests()} token requests")
