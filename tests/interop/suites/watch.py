"""Changes reach git by the watch alone: the poll interval is an hour wherever a case does not say otherwise."""

import statistics
import time

from agent import Agent, Key
from harness import Failed, Suite, expect, wait_until
from parts import ControlPlane, Issuer

ROUNDS = 5
# Generous, since machines are noisy; what was measured is printed.
LIMIT = 10
# Hints that come more often than once a second are in the end followed once a second; that is not to be measured.
APART = 1.5
BURST = 100
BURST_LISTS = 5
FLOOD = 2_000
FLOOD_SECONDS = 10
# One a second, after some that may follow each other faster.
FLOOD_LISTS = FLOOD_SECONDS + 15
# A stream that ended early is opened anew after a pause that grows.
REOPEN = 60


class Watch(Suite):
    needs = frozenset({"venv", "issuer", "openssl", "binaries"})

    def setup(self):
        self.key = Key(self.world, "watch")
        self.issuer = self.stack.enter_context(Issuer(self.world, apps=["app", "rotating"]))
        self.plane, self.agent, _ = self.pair("first.example.test")
        self.wait_stream(self.plane)
        self.serial = 0

    def pair(self, host, watch="on", poll_interval="1h"):
        """A control plane with one integration, and a daemon that holds it."""
        plane = self.stack.enter_context(ControlPlane(self.world, self.key.registered))
        row = self.row(plane, host)
        plane.start(row)
        plane.watch(watch)
        agent = self.stack.enter_context(Agent(self.world, plane, self.key, poll_interval=poll_interval))
        agent.wait_secrets(row["id"])
        return plane, agent, row

    def row(self, plane, host, app="app", **more):
        """An integration with a ciphertext of its own: one that turns up under another id or host is not to be trusted."""
        return {**plane.integration(host, app, self.key.seal(self.issuer.apps[app]), self.issuer.url), **more}

    def host(self):
        """A host that nobody has used."""
        self.serial += 1
        return f"host-{self.serial}.example.test"

    def fill(self, host, agent=None):
        """The password that `git credential fill` gets, or nothing."""
        given = f"protocol=https\nhost={host}\n\n".encode()
        done = (agent or self.agent).git("credential", "fill", given=given, check=False)
        return next((line[9:] for line in done.stdout.decode().splitlines() if line.startswith("password=")), None)

    def wait_stream(self, plane):
        wait_until(lambda: plane.stats()["streams_open"] == 1, "it has no stream open", REOPEN)

    def watching(self, agent=None):
        return (agent or self.agent).status()["sync"]["watching"]

    def measure(self, what, prepare):
        """Times each change until it is seen, as `prepare()` gives (change, seen); prints the median."""
        times = []
        for _ in range(ROUNDS):
            change, seen = prepare()
            time.sleep(APART)
            begun = time.monotonic()
            change()
            wait_until(seen, f"{what} is not seen", LIMIT)
            times.append(time.monotonic() - begun)
        print(f"    {what} → git credential fill: median {statistics.median(times):.3f} s, worst {max(times):.3f} s of {ROUNDS}", flush=True)

    def case_it_asks_for_the_events_of_integrations(self):
        expected = {"organization": True, "resourceTypeFilters": [{"resourceType": "RESOURCE_TYPE_RUNNER_SCM_INTEGRATION"}]}
        expect(self.plane.stats()["watches"] == [expected], f"it asked {self.plane.stats()['watches']}")

    def case_a_new_integration_answers(self):
        def prepare():
            row = self.row(self.plane, self.host())
            return (lambda: self.plane.put(row)), (lambda: self.fill(row["host"]))

        self.measure("a new integration", prepare)
        expect(self.watching(), "`sync.watching` is not true")

    def case_a_rotated_secret_makes_the_next_token(self):
        row = self.row(self.plane, self.host(), "rotating")
        self.plane.put(row)
        wait_until(lambda: self.fill(row["host"]), "no token before the rotation", LIMIT)

        def prepare():
            before, issued = self.fill(row["host"]), self.issuer.issued("rotating")
            self.issuer.rotate("rotating")
            rotated = self.row(self.plane, row["host"], "rotating", id=row["id"])

            def seen():
                # What the old secret made is dropped; the issuer takes only the new one.
                after = self.fill(row["host"])
                return after and after != before and self.issuer.issued("rotating") == issued + 1

            return (lambda: self.plane.put(rotated)), seen

        self.measure("a rotated secret", prepare)

    def case_a_changed_host_answers_there_and_no_more_at_the_old_one(self):
        row = self.row(self.plane, self.host())
        self.plane.put(row)
        wait_until(lambda: self.fill(row["host"]), "no token before the move", LIMIT)
        place = {"now": row["host"]}

        def prepare():
            left, place["now"] = place["now"], self.host()
            moved = self.row(self.plane, place["now"], id=row["id"])
            return (lambda: self.plane.put(moved)), (lambda: self.fill(place["now"]) and not self.fill(left))

        self.measure("a changed host", prepare)

    def case_a_removed_integration_is_refused(self):
        def prepare():
            row = self.row(self.plane, self.host())
            self.plane.put(row)
            wait_until(lambda: self.fill(row["host"]), "no token before the removal", LIMIT)
            return (lambda: self.plane.remove(row["id"])), (lambda: not self.fill(row["host"]))

        self.measure("a removed integration", prepare)
        expect(self.fill("first.example.test"), "another integration answers no more")

    def case_a_burst_of_changes_causes_few_fetches(self):
        rows = [self.row(self.plane, self.host()) for _ in range(BURST)]
        time.sleep(APART)
        before, sent = self.plane.lists(), self.plane.stats()["events_sent"]
        begun = time.monotonic()
        self.plane.put(*rows)
        wanted = {row["id"] for row in rows}
        self.agent.wait_for(lambda status: wanted <= {one["id"] for one in status["integrations"]}, "not all of the burst", LIMIT)
        seconds = time.monotonic() - begun
        # Whatever was still to come of it.
        time.sleep(APART)
        fetches, events = self.plane.lists() - before, self.plane.stats()["events_sent"] - sent
        print(f"    {BURST} changed at once: all there after {seconds:.3f} s, {fetches} fetches", flush=True)
        expect(events == BURST, f"only {events} events were sent")
        expect(fetches <= BURST_LISTS, f"{fetches} fetches")
        wait_until(lambda: self.fill(rows[-1]["host"]), "the last of them gives no token", LIMIT)

    def case_killed_streams_are_opened_again_and_nothing_is_missed(self):
        # Some servers send a stream's headers with its first event only, as the vendor's runtime does.
        for at_once in (True, False):
            self.plane.headers_at_once(at_once)
            # As it was before, whatever the case before left.
            self.wait_stream(self.plane)
            opened, row = self.plane.stats()["streams_opened"], self.row(self.plane, self.host())
            self.plane.watch("unavailable")
            expect(self.plane.kill_streams() == 1, "there was no stream to kill")
            wait_until(lambda: not self.watching(), "`sync.watching` is still true", LIMIT)
            self.plane.put(row)
            self.plane.watch("on")
            wait_until(lambda: self.fill(row["host"]), f"a change of the meantime is not seen, headers at once: {at_once}", REOPEN)
            expect(self.plane.stats()["streams_opened"] > opened, "it was not the watch that brought it")
            wait_until(self.watching, "`sync.watching` is not true again", LIMIT)

    def case_a_silent_server_leaves_sync(self):
        self.plane.watch("silent")
        row = self.row(self.plane, self.host())
        self.plane.put(row)
        time.sleep(APART)
        expect(not self.fill(row["host"]), "it was told by a server that says nothing")
        done = self.agent.command("sync")
        expect(done.returncode == 0, f"sync ended with {done.returncode}: {done.stderr.decode()}")
        wait_until(lambda: self.fill(row["host"]), "not there after sync", LIMIT)
        self.plane.watch("on")

    def case_a_flood_of_events_causes_few_fetches(self):
        self.wait_stream(self.plane)
        before, sent = self.plane.lists(), self.plane.stats()["events_sent"]
        self.plane.flood(FLOOD, FLOOD_SECONDS)
        begun, answers = time.monotonic(), []
        while time.monotonic() < begun + FLOOD_SECONDS:
            answers.append(self.fill("first.example.test"))
            time.sleep(0.2)
        wait_until(lambda: self.plane.stats()["events_sent"] == sent + FLOOD, "not all events were taken", LIMIT)
        time.sleep(APART)
        fetches = self.plane.lists() - before
        print(f"    {FLOOD} events in {FLOOD_SECONDS} s: {fetches} fetches", flush=True)
        expect(all(answers), f"{answers.count(None)} of {len(answers)} lookups failed")
        expect(fetches <= FLOOD_LISTS, f"{fetches} fetches")
        row = self.row(self.plane, self.host())
        self.plane.put(row)
        wait_until(lambda: self.fill(row["host"]), "a change after the flood is not seen", LIMIT)

    def case_a_server_without_events_is_polled(self):
        for mode in ("unimplemented", "permission_denied", "missing"):
            plane, agent, row = self.pair(f"{mode.replace('_', '-')}.example.test", mode, "1s")
            asked = len(plane.stats()["watches"])
            expect(not self.watching(agent), f"{mode}: `sync.watching` is true")
            new, moved = self.row(plane, self.host()), self.host()
            plane.put(new, self.row(plane, moved, id=row["id"]))
            wait_until(lambda: self.fill(new["host"], agent) and self.fill(moved, agent), f"{mode}: not polled", LIMIT)
            plane.remove(new["id"])
            wait_until(lambda: not self.fill(new["host"], agent), f"{mode}: a removal is not polled", LIMIT)
            # Long enough for another try, if there were one.
            time.sleep(2 * APART)
            again = len(plane.stats()["watches"]) - asked
            expect(again == 0, f"{mode}: it was asked {again} times more")
            said = [line for line in agent.log.read_text().splitlines() if self.says_that_it_polls(line)]
            expect(len(said) == 1, f"{mode}: the log says so {len(said)} times: {said[:2]}")
            expect(agent.status()["degraded"] == [], f"{mode}: {agent.status()['degraded']}")

    @staticmethod
    def says_that_it_polls(line):
        return ("INFO" in line or "WARN" in line) and "polled" in line

    def case_all_that_gave_the_daemon_no_trouble(self):
        self.agent.check_alive()
        text = self.agent.log.read_text()
        if " ERROR " in text or '"level":"ERROR"' in text:
            raise Failed(next(line for line in text.splitlines() if " ERROR " in line))
