"""The in-process fake control plane of the Rust tests, as the vendor's own client sees it."""

import contextlib
import json
import os
import re
import subprocess

from harness import Failed, Process, Suite, expect, wait_until

TEST = "api::serve_for_the_vendors_client"
# The test harness may have begun the line; what follows is ours.
LINE = re.compile(r'\{"[^{}]*"url"[^{}]*\}')


def relay(world, url, token, runner_id):
    """Runs the vendor's client and returns what it did not like."""
    argv = [world.python, world.root / "tests" / "interop" / "vendor_client.py", url, runner_id]
    done = world.call(argv, given=f"{token}\n".encode(), check=False)
    lines = done.stdout.decode().splitlines()
    if not lines:
        raise Failed(f"the vendor's client said nothing: {done.stderr.decode().strip().splitlines()[-1:]}")
    return [line for line in lines if line.startswith("not ok")]


class ServingTest(Process):
    """The ignored Rust test that serves until its standard input closes."""

    def __init__(self, world):
        argv = [*world.cargo_test, TEST, "--ignored", "--exact", "--nocapture"]
        super().__init__("fake-control-plane", argv, world, stdin=subprocess.PIPE, stdout="log", cwd=world.root, env=dict(os.environ))

    def terminate(self):
        with contextlib.suppress(BrokenPipeError):
            self.child.stdin.close()


class Fake(Suite):
    needs = frozenset({"venv", "rust tests"})

    def setup(self):
        self.serving = self.stack.enter_context(ServingTest(self.world))

        def line():
            self.serving.check_alive()
            return LINE.search(self.serving.log.read_text(errors="replace"))

        self.about = json.loads(wait_until(line, "it does not print its address", 60).group())

    def case_the_vendors_client_is_content_with_the_fake(self):
        failed = relay(self.world, self.about["url"], self.about["token"], self.about["runnerId"])
        expect(not failed, "; ".join(failed))

    def case_it_ends_with_its_standard_input(self):
        expect(self.serving.stop() == 0, f"it ended badly: {self.serving.tail()}")
