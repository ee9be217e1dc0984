"""What the daemon does while others are down, ill, old or strict."""

import secrets
import signal
import time

from agent import Agent, Key
from front import Front
from harness import Suite, expect, wait_until
from parts import ControlPlane, Issuer

HOST = "outage.example.test"
# Twelve seconds each of five ways to be down.
OUTAGE_SECONDS = 12
LOOKUP_SECONDS = 0.2
# With a poll each second the pause after a failure is 0.75 s at the least.
CALLS_PER_SECOND = 1 / 0.75
SLACK = 4


class Outages(Suite):
    needs = frozenset({"venv", "issuer", "openssl", "binaries"})

    def setup(self):
        world, enter = self.world, self.stack.enter_context
        self.key = Key(world, "outages")
        self.issuer = enter(Issuer(world))
        # The issuer is an old one for the whole suite: RFC 8414 metadata only.
        self.issuer.ask({"do": "metadata", "serve": ["rfc8414"]})
        self.plane = enter(ControlPlane(world, self.key.registered))
        self.agent = enter(Agent(world, self.plane, self.key))
        self.row = self.plane.integration(HOST, "app", self.key.seal(self.issuer.apps["app"]), self.issuer.url)

    def failures(self, status):
        return status["sync"]["consecutive_failures"]

    def case_it_runs_while_the_control_plane_is_down(self):
        status = self.agent.wait_for(self.failures, "it does not count failed polls")
        expect(status["sync"]["last_success"] is None, "a success with nobody there")
        expect(status["degraded"], "`degraded` is empty")
        answer, _ = self.agent.ask(protocol="https", host=HOST)
        expect("password" not in answer, "an answer from nowhere")

    def case_it_serves_without_a_restart_once_the_control_plane_is_up(self):
        self.plane.start()
        self.plane.put(self.row)
        self.agent.wait_secrets(self.row["id"])
        self.agent.password(HOST)

    def case_an_issuer_with_rfc_8414_metadata_only_will_do(self):
        stats = self.issuer.ask({"do": "stats"})
        expect(stats["issued"] >= 1 and stats["discovery"] >= 1, f"the issuer saw {stats}")

    def case_a_failing_control_plane_leaves_the_last_list(self):
        for how in ("internal", "permission_denied"):
            before = self.plane.stats()["calls"]["ListSCMIntegrations"]
            # As many as it takes to be seen.
            self.plane.fail(how, times=1_000_000)
            status = self.agent.wait_for(self.failures, f"{how}: no failure counted")
            expect([one["id"] for one in status["integrations"]] == [self.row["id"]], f"{how}: the list is gone")
            self.agent.password(HOST)
            self.plane.fail("internal", times=0)
            self.agent.wait_for(lambda status: not self.failures(status), f"{how}: it does not recover")
            expect(self.plane.stats()["calls"]["ListSCMIntegrations"] >= before, "the counter went back")

    def case_a_rate_limit_is_waited_out(self):
        self.plane.fail("resource_exhausted", times=1_000_000, retry_after=3)
        self.agent.wait_for(self.failures, "no failure counted")
        self.plane.fail("internal", times=0)
        self.agent.wait_for(lambda status: not self.failures(status), "it does not recover")

    def case_a_new_bearer_token_in_the_file_is_picked_up(self):
        token = secrets.token_urlsafe(24)
        self.plane.accept_only(token)
        self.agent.wait_for(self.failures, "the old token still works")
        self.agent.use_token(token)
        self.agent.wait_for(lambda status: not self.failures(status), "the new token is not used")

    def case_a_failing_issuer_is_said_in_one_line_and_passes(self):
        sick = self.plane.integration("sick.example.test", "app", self.key.seal(self.issuer.apps["app"]), self.issuer.url)
        self.plane.put(sick)
        self.agent.wait_secrets(sick["id"])
        self.issuer.ask({"do": "fail", "times": 1000, "status": 503})
        answer, said = self.agent.ask(protocol="https", host="sick.example.test")
        expect("password" not in answer, "a token from an issuer that gave none")
        expect(len(said.strip().splitlines()) == 1, f"it should say one line, and said: {said!r}")
        self.agent.password(HOST)
        self.issuer.ask({"do": "fail", "times": 0, "status": 503})
        wait_until(lambda: self.agent.ask(protocol="https", host="sick.example.test")[0].get("password"), "no token afterwards", 60)

    def case_a_minute_of_every_outage_fails_no_lookup(self):
        front = self.stack.enter_context(Front(self.world, self.plane.port))
        agent = Agent(self.world, self.plane, self.key, control_plane=f'ca_file = "{front.ca_file}"\n', url=front.url)
        self.stack.enter_context(agent)
        agent.wait_secrets(self.row["id"])
        agent.password(HOST)
        outages = [
            ("429", lambda: self.plane.fail("resource_exhausted", times=1_000_000), lambda: self.plane.fail("", times=0)),
            ("503", lambda: self.plane.fail("unavailable", times=1_000_000), lambda: self.plane.fail("", times=0)),
            ("reset", lambda: front.set("reset"), lambda: front.set("pass")),
            ("HTML", lambda: self.plane.fail("html", times=1_000_000), lambda: self.plane.fail("", times=0)),
            ("certificate", lambda: front.set("certificate"), lambda: front.set("pass")),
        ]
        # The suite's own daemon would be counted too.
        self.agent.quit()
        for name, begin, end in outages:
            agent.wait_for(lambda status: not self.failures(status), f"{name}: it is not well before")
            connections, lists, lookups, failed = front.connections, self.list_calls(), 0, 0
            begin()
            until = time.monotonic() + OUTAGE_SECONDS
            while time.monotonic() < until:
                due = time.monotonic() + LOOKUP_SECONDS
                lookups += 1
                failed += "password" not in agent.ask(protocol="https", host=HOST)[0]
                time.sleep(max(0, due - time.monotonic()))
            status = agent.status()
            calls, lists = front.connections - connections, self.list_calls() - lists
            end()
            print(f"    {name}: {failed} of {lookups} lookups failed, {calls} calls, {lists} of them for the list", flush=True)
            expect(failed == 0, f"{name}: {failed} of {lookups} lookups failed")
            expect(self.failures(status) and status["degraded"], f"{name}: the status shows no failure")
            most = OUTAGE_SECONDS * CALLS_PER_SECOND + SLACK
            expect(0 < calls and lists <= most, f"{name}: {lists} fetches, of {most:.0f} at the most")
            # The list, the watch and the registered key: none may be asked for more often than the list.
            expect(calls <= 2 * most, f"{name}: {calls} calls")
        agent.wait_for(lambda status: not self.failures(status), "it does not recover")
        expect(agent.quit()[0] == 0, "it does not end well")
        self.agent = self.stack.enter_context(Agent(self.world, self.plane, self.key, directory=self.agent.dir))
        self.agent.wait_secrets(self.row["id"])

    def list_calls(self):
        return self.plane.stats()["calls"]["ListSCMIntegrations"]

    def case_a_second_daemon_leaves_the_first_ones_socket(self):
        argv = [self.world.bin_dir / "scm-agent", "run", "--config", self.agent.config]
        done = self.world.call(argv, check=False, seconds=20)
        expect(done.returncode in (1, 2), f"it ended with {done.returncode}")
        self.agent.password(HOST)

    def case_sigint_ends_it_in_good_order(self):
        status, seconds = self.agent.quit(signal.SIGINT)
        expect(status == 0 and seconds < 5, f"it ended with {status} after {seconds:.1f} s")
