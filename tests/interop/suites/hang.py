"""Nothing keeps git waiting: not a daemon that stands still, not a full socket, not an issuer that says nothing."""

import contextlib
import os
import signal
import socket
import threading
import time

from agent import Agent, Key
from git_host import GitHost
from gits import Git, at_once, last
from harness import Suite, expect
from parts import ControlPlane, Issuer

# Far beyond the ten seconds that the helper gives itself, so that only what hangs comes near it.
BOUND = 60
# More than the daemon takes at once from one user.
CROWD = 300
RESUMED_AFTER = 2
PREFIX = b"git-credential-scm-agent: "


class Hang(Suite):
    needs = frozenset({"venv", "issuer", "nginx", "fcgiwrap", "openssl", "binaries", "gits"})

    def setup(self):
        world, enter = self.world, self.stack.enter_context
        key = Key(world, "hang")
        # One issuer for the host's own questions, and another that is to be in trouble.
        self.well = enter(Issuer(world, apps=["app"]))
        self.issuer = enter(Issuer(world, apps=["sick"]))
        self.git_host = enter(GitHost(world, self.well.url, self.well.resource_server))
        self.url = self.git_host.new_repository("hang.git")
        self.sick = f"localhost:{self.git_host.host.rpartition(':')[2]}"
        plane = enter(ControlPlane(world, key.registered)).start()
        rows = [
            plane.integration(self.git_host.host, "app", key.seal(self.well.apps["app"]), self.well.url),
            plane.integration(self.sick, "sick", key.seal(self.issuer.apps["sick"]), self.issuer.url),
        ]
        plane.put(*rows)
        self.agent = enter(Agent(world, plane, key))
        self.agent.wait_secrets(*(row["id"] for row in rows))
        self.gits = Git.all(world)

    def all_at_once(self, url=None):
        """`ls-remote` with every git at the same time; how each ended, and how long the last took."""
        begun = time.monotonic()
        ended = at_once(self.agent, [(git, ["ls-remote", "-q", url or self.url]) for git in self.gits], BOUND)
        return ended, time.monotonic() - begun

    def expect_reason(self, ended, seconds, *words):
        """Each git fails, and the helper says why in one line."""
        print(f"    given up after {seconds:.1f} s", flush=True)
        for one in ended:
            expect(one.returncode == 128, f"{one.args[0]} ended with {one.returncode}: {last(one)}")
            lines = [line for line in one.stderr.splitlines() if line.startswith(PREFIX)]
            expect(len(lines) == 1, f"{one.args[0]} should show one line of the helper's, and shows {len(lines)}: {last(one)}")
            missing = [word for word in words if word.encode() not in lines[0]]
            expect(not missing, f"{one.args[0]}: no {missing} in: {lines[0].decode()}")

    def expect_answers(self, ended):
        for one in ended:
            expect(one.returncode == 0 and not one.stderr, f"{one.args[0]} ended with {one.returncode}: {last(one)}")

    @contextlib.contextmanager
    def standing_still(self, process):
        os.kill(process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(process.pid, signal.SIGCONT)

    def connect(self, stack):
        """A connection to the daemon's socket that says nothing; or nothing, where its queue is full."""
        one = stack.enter_context(socket.socket(socket.AF_UNIX))
        one.setblocking(False)
        try:
            one.connect(str(self.agent.socket))
        except BlockingIOError:
            return None
        return one

    def case_a_daemon_that_stands_still_is_given_up(self):
        self.expect_answers(self.all_at_once()[0])
        with self.standing_still(self.agent):
            self.expect_reason(*self.all_at_once(), "took too long")
        self.expect_answers(self.all_at_once()[0])

    def case_a_daemon_that_goes_on_in_time_is_waited_for(self):
        with self.standing_still(self.agent):
            threading.Timer(RESUMED_AFTER, os.kill, (self.agent.pid, signal.SIGCONT)).start()
            self.expect_answers(self.all_at_once()[0])

    def case_a_full_queue_is_given_up(self):
        with self.standing_still(self.agent), contextlib.ExitStack() as stack:
            queued = 0
            while self.connect(stack):
                queued += 1
                expect(queued < 20_000, "the queue has no end")
            print(f"    {queued} connections in the queue", flush=True)
            self.expect_reason(*self.all_at_once(), "took too long")
        self.expect_answers(self.all_at_once()[0])

    def case_connections_that_say_nothing_keep_nobody_out(self):
        with contextlib.ExitStack() as stack:
            for _ in range(CROWD):
                self.connect(stack)
            self.expect_answers(self.all_at_once()[0])

    def case_an_issuer_that_says_nothing_is_given_up(self):
        with self.standing_still(self.issuer):
            self.expect_reason(*self.all_at_once(f"http://{self.sick}/hang.git"), "no answer in time")
            self.expect_answers(self.all_at_once()[0])

    def case_an_issuer_that_is_gone_is_given_up(self):
        self.issuer.stop()
        self.expect_reason(*self.all_at_once(f"http://{self.sick}/hang.git"), self.sick)
        self.expect_answers(self.all_at_once()[0])

    def case_a_daemon_that_is_gone_is_said(self):
        self.agent.quit()
        self.expect_reason(*self.all_at_once(), "no such socket")
