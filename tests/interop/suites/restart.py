"""What the daemon keeps on disk: the last list serves while the control plane is down, whatever ended the daemon before."""

import base64
import concurrent.futures
import os
import random
import signal
import time

from agent import Agent, Key, brief, forms
from harness import Suite, expect, wait_until
from parts import ControlPlane, Issuer

KILLS = 20
# Long enough for a few saves, short enough to hit one.
LONGEST_LIFE = 1.5
CHURN_SECONDS = 0.1
INTERVAL = 1
# A poll may be a tenth late, the machine is shared, and each look starts a process.
WITHIN = 30 * INTERVAL


class Restart(Suite):
    needs = frozenset({"venv", "issuer", "openssl", "binaries"})

    def setup(self):
        world, enter = self.world, self.stack.enter_context
        key = self.key = Key(world, "restart")
        self.issuer = enter(Issuer(world, apps=["app", "second"]))
        plane = self.plane = enter(ControlPlane(world, key.registered))
        self.kept = plane.integration("kept.example.test", "app", key.seal(self.issuer.apps["app"]), self.issuer.url)
        self.gone = plane.integration("gone.example.test", "second", key.seal(self.issuer.apps["second"]), self.issuer.url)
        plane.start(self.kept, self.gone)
        self.agent = self.start()
        self.agent.wait_secrets(self.kept["id"], self.gone["id"])
        self.agent.password("kept.example.test")

    def start(self, directory=None):
        return self.stack.enter_context(Agent(self.world, self.plane, self.key, directory=directory))

    def restart(self):
        """A daemon that takes over what the last one left."""
        self.agent = self.start(self.agent.dir)

    def damaged(self):
        return sorted(path.name for path in self.agent.state_dir.iterdir() if ".damaged-" in path.name)

    def is_stale(self, status):
        return status["sync"]["stale"] is True

    def case_the_kept_list_serves_at_once(self):
        learned = self.agent.status()["sync"]["last_success"]
        status, _ = self.agent.quit()
        expect(status == 0, f"it ended with {status}")
        self.plane.stop()
        stopped = time.time()
        self.restart()
        # From the first moment: as soon as the socket is there, and with nobody to ask.
        answer = wait_until(lambda: self.agent.socket.exists() and self.agent.ask(protocol="https", host="kept.example.test"), "no socket")
        expect("password" in answer[0], f"the first answer has no password: {answer[1].strip()}")
        expect(not answer[1], f"the helper said {answer[1].strip()}")
        given = b"protocol=https\nhost=gone.example.test\n\n"
        expect(b"password=" in self.agent.git("credential", "fill", given=given).stdout, "git gets no password")
        status = self.agent.status()
        expect(self.is_stale(status), f"the list is not said to be stale: {status['sync']}")
        expect(learned - 1 <= status["sync"]["last_success"] <= stopped, f"{status['sync']['last_success']} is not of the earlier run")
        self.agent.wait_for(lambda status: any("list" in line for line in status["degraded"]), "`degraded` does not name it")
        expect(self.agent.command("status").returncode == 0, "`status` fails")

    def case_what_was_removed_meanwhile_is_gone_within_an_interval(self):
        expect("password" in self.agent.ask(protocol="https", host="gone.example.test")[0], "there is no token to lose")
        self.plane.start(self.kept)
        wait_until(lambda: self.agent.ask(protocol="https", host="gone.example.test")[0] == {}, "its token is still given out", WITHIN + 5)
        status = self.agent.wait_for(lambda status: not self.is_stale(status), "it is still stale", WITHIN)
        expect([one["id"] for one in status["integrations"]] == [self.kept["id"]], "another list than the control plane's")
        expect(status["degraded"] == [], f"`degraded` says {status['degraded']}")
        self.agent.password("kept.example.test")

    def case_no_secret_is_in_the_state_directory(self):
        files = [path for path in self.agent.state_dir.rglob("*") if path.is_file()]
        expect(any(path.stat().st_size > 0 for path in files), f"nothing is kept: {[path.name for path in files]}")
        tokens = set(self.issuer.ask({"do": "tokens"})["tokens"])
        secrets = {*self.issuer.apps.values(), *tokens, self.plane.token, self.agent.token_file.read_text()}
        # The list itself is sealed as well: not even its ciphertexts and hosts are there to be read.
        sealed = self.kept["oauth"]["encryptedClientSecret"]
        needles = {form.encode() for secret in secrets for form in forms(secret)}
        needles |= {sealed.encode(), base64.b64decode(sealed), b"kept.example.test", self.kept["id"].encode()}
        for path in files:
            content = path.read_bytes()
            found = sum(needle in content for needle in needles)
            expect(found == 0, f"{found} things that must not be there are in {path.name}")
            expect(path.stat().st_mode & 0o077 == 0, f"others can read {path.name}")
        expect(self.agent.state_dir.stat().st_mode & 0o777 == 0o700, "others can look into the state directory")

    def case_a_damaged_file_is_set_aside(self):
        self.agent.quit()
        self.plane.stop()
        for path in self.agent.state_dir.iterdir():
            if path.is_file() and path.name != "lock":
                content = bytearray(path.read_bytes())
                for position in range(len(content) // 3, len(content), max(1, len(content) // 7)):
                    content[position] ^= 0x41
                path.write_bytes(content)
        self.restart()
        status = self.agent.wait_for(lambda status: status["degraded"], "`degraded` is empty")
        expect(status["integrations"] == [], "something was taken from a damaged file")
        expect(any("damaged" in line for line in status["degraded"]), f"`degraded` does not say it: {status['degraded']}")
        expect(self.damaged(), f"nothing was set aside: {os.listdir(self.agent.state_dir)}")
        expect("damaged" in self.agent.log.read_text(), "the log does not say it")
        answer, _ = self.agent.ask(protocol="https", host="kept.example.test")
        expect("password" not in answer, "an answer from a damaged list")
        self.plane.start(self.kept, self.gone)
        self.agent.wait_secrets(self.kept["id"], self.gone["id"])
        self.agent.password("kept.example.test")

    def case_what_came_after_the_damage_is_kept_again(self):
        before = self.damaged()
        self.agent.quit()
        self.plane.stop()
        self.restart()
        self.agent.wait_secrets(self.kept["id"], self.gone["id"])
        expect(self.damaged() == before, f"set aside again: {self.damaged()}")
        self.agent.password("gone.example.test")
        self.plane.start(self.kept, self.gone)

    def case_twenty_kills_while_the_list_changes_lose_nothing(self):
        before = self.damaged()
        # Without an app, so that another host asks nobody's trust.
        moving = self.plane.integration("churn.example.test", "", "", pat=True)
        del moving["oauth"]
        self.plane.churn(CHURN_SECONDS, moving)
        wanted = {self.kept["id"], self.gone["id"], moving["id"]}
        self.agent.wait_for(lambda status: wanted <= {one["id"] for one in status["integrations"]}, "the changing one is not there")
        lived = random.Random(20)
        for number in range(KILLS):
            time.sleep(lived.uniform(0, LONGEST_LIFE))
            self.agent.check_alive()
            self.agent.snapshot()
            os.kill(self.agent.pid, signal.SIGKILL)
            self.agent.child.wait()
            # Nobody gives it a new list before it has shown the kept one.
            self.plane.fail("unavailable", times=1_000_000)
            self.restart()
            status = self.agent.wait_for(lambda status: status["integrations"], f"after kill {number + 1} there is no list")
            held = {one["id"] for one in status["integrations"]}
            expect(wanted <= held, f"after kill {number + 1} it holds {len(held)}")
            expect(self.is_stale(status), f"after kill {number + 1} the list is not from the disk: {brief(status)}")
            expect(self.damaged() == before, f"after kill {number + 1}: {self.damaged()}")
            self.plane.fail("unavailable", times=0)
            self.agent.wait_for(lambda status: not self.is_stale(status), f"after kill {number + 1} it stays stale")
        leftovers = [path.name for path in self.agent.state_dir.iterdir() if "tmp" in path.name]
        expect(len(leftovers) <= 1, f"unfinished files pile up: {leftovers}")
        self.agent.password("kept.example.test")

    def case_lookups_go_on_through_a_restart_of_the_control_plane(self):
        self.plane.stop()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            tokens = list(pool.map(lambda _: self.agent.password("kept.example.test"), range(40)))
        expect(len(set(tokens)) == 1, f"{len(set(tokens))} different tokens")
        self.plane.start(self.kept, self.gone)
        self.agent.wait_for(lambda status: not self.is_stale(status) and not status["sync"]["consecutive_failures"], "it does not recover")
