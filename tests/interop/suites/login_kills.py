"""kill -9 in the middle of a refresh, at an issuer where a refresh token serves once and a second use ends the grant."""

import concurrent.futures
import contextlib
import os
import random
import signal
import threading
import time

from harness import Failed, expect, wait_until
from suites.login import LoginSuite

KILLS = 20
SHARP_KILLS = 5
# Seconds. Short, so that the next refresh is never far.
LIFETIME = 2


class LoginKills(LoginSuite):
    # Many restarts, each after a while of waiting for a refresh.
    seconds = 300

    def setup(self):
        super().setup()
        self.issuer.lifetime(LIFETIME)
        self.issuer.ask({"do": "rotation", "destructive": True})

    def crash(self):
        """kill -9."""
        self.agent.snapshot()
        os.kill(self.agent.pid, signal.SIGKILL)
        self.agent.child.wait()

    def settle(self):
        """What a restarted daemon comes to: a live token, or nothing when it says to log in again."""
        self.restart()
        end = time.monotonic() + 20
        while time.monotonic() < end:
            answer, said = self.ask()
            if "password" in answer and self.owner(answer["password"]):
                return answer["password"]
            if "scm-agent login" in said:
                self.expect_told_to_log_in(answer, said)
                return None
            time.sleep(0.1)
        raise Failed(f"it comes to nothing; the helper said {said.strip()!r}")

    def kill_in_a_refresh(self, after):
        """Waits until a refresh has arrived at the issuer, and ends the daemon that long after."""
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            over = threading.Event()
            asking = pool.submit(self.ask_until, over)
            try:
                arrived = self.issuer.token_requests()
                wait_until(lambda: self.issuer.token_requests() > arrived, "nothing is refreshed")
                time.sleep(after)
                self.crash()
            finally:
                over.set()
            asking.result()
        wait_until(lambda: self.issuer.people()["in_flight"] == 0, "the issuer is still at it")

    def ask_until(self, over):
        """Wants tokens all the time, whatever becomes of the daemon."""
        while not over.wait(0.1):
            with contextlib.suppress(Failed):
                self.ask()

    def case_before_the_issuer_looked_at_it_nothing_is_lost(self):
        self.signed_in("alice")
        for number in range(SHARP_KILLS):
            self.issuer.delay(before=1.5)
            before = self.issuer.people()
            self.kill_in_a_refresh(number / 10)
            killed = self.issuer.people()
            expect(killed["abandoned"] == before["abandoned"] + 1, f"kill {number + 1} did not hit a refresh: {killed}")
            self.issuer.delay()
            expect(self.settle(), f"after kill {number + 1} the grant is lost, though it was not used")
            expect(self.issuer.people()["replays"] == before["replays"], f"after kill {number + 1} a used token was used again")

    def case_after_the_issuer_rotated_it_the_user_is_told(self):
        for number in range(SHARP_KILLS):
            self.signed_in("alice")
            self.issuer.delay(after=1.5)
            before = self.issuer.people()
            self.kill_in_a_refresh(number / 10)
            killed = self.issuer.people()
            expect(killed["rotations"] > before["rotations"], f"kill {number + 1} did not hit a refresh: {killed}")
            self.issuer.delay()
            expect(self.settle() is None, f"after kill {number + 1} there is a token that nobody received")
            for _ in range(5):
                self.expect_told_to_log_in(*self.ask())
            expect(self.accounts()["alice"]["state"] == "needs_login", f"accounts says {self.accounts()['alice']['state']}")
            after = self.issuer.people()
            expect(after["replays"] - before["replays"] <= 1, f"after kill {number + 1}: {after}")
            expect(after["refused"] - before["refused"] <= 1, f"after kill {number + 1} it goes on asking: {after}")

    def case_kills_at_random_use_a_token_twice_at_most_once(self):
        moment, lost, replays = random.Random(20), 0, 0
        self.signed_in("alice")
        for number in range(KILLS):
            self.issuer.delay(before=0.1, after=0.1)
            before = self.issuer.people()
            self.kill_in_a_refresh(moment.uniform(0, 0.3))
            killed = self.issuer.people()
            self.issuer.delay()
            token = self.settle()
            after = self.issuer.people()
            replayed = after["replays"] - before["replays"]
            expect(replayed <= 1, f"after kill {number + 1} a used token was used {replayed} times again")
            expect(killed["replays"] == before["replays"], f"before kill {number + 1} a used token was used again")
            replays += replayed
            if token is None:
                expect(killed["rotations"] > before["rotations"], f"after kill {number + 1} the grant is lost, though it was not used")
                lost += 1
                self.signed_in("alice")
        print(f"    {KILLS} kills in refreshes: {lost} grants lost, {replays} tokens used again", flush=True)
