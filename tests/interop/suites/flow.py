"""The main job: stock git clones and pushes over smart HTTP with a token made from a sealed secret."""

import time

from agent import Agent, Key
from git_host import GitHost
from harness import Suite, expect, wait_until
from parts import ControlPlane, Issuer


class Flow(Suite):
    needs = frozenset({"venv", "issuer", "nginx", "fcgiwrap", "openssl", "binaries"})

    def setup(self):
        world, enter = self.world, self.stack.enter_context
        key = self.key = Key(world, "flow")
        issuer = self.issuer = enter(Issuer(world, apps=["app", "second"]))
        self.git_host = enter(GitHost(world, issuer.url, issuer.resource_server))
        self.url = self.git_host.new_repository("flow.git")
        plane = self.plane = enter(ControlPlane(world, key.registered)).start()
        self.main = plane.integration(self.git_host.host, "app", key.seal(issuer.apps["app"]), issuer.url)
        self.foreign = plane.integration("openssl.example.test", "second", key.seal_with_openssl(issuer.apps["second"]), issuer.url)
        plane.put(self.main, self.foreign)
        self.agent = enter(Agent(world, plane, key))
        self.agent.wait_secrets(self.main["id"], self.foreign["id"])
        self.clone = world.scratch / "clone"

    def token(self):
        return self.agent.password(self.git_host.host, "http")

    def case_status_tells_what_it_holds(self):
        status = self.agent.status()
        row = next(one for one in status["integrations"] if one["id"] == self.main["id"])
        expected = {"scm_id": "custom-git", "host": self.git_host.host, "client_id": "app", "oauth": True, "pat": False, "grant": "service"}
        wrong = {name: row.get(name) for name, value in expected.items() if row.get(name) != value}
        expect(not wrong, f"wrong in the row: {wrong}")
        expect(status["pid"] == self.agent.pid, "another process answered")
        expect(status["key"][0]["fingerprint"], "no key fingerprint")

    def case_the_registered_public_key_is_the_loaded_one(self):
        self.agent.wait_for(lambda status: status["key"][0]["registered"], "it does not see its key registered")

    def case_git_clones(self):
        self.agent.git("clone", "-q", self.url, str(self.clone))
        expect((self.clone / "README").read_text() == "flow.git\n", "the clone has something else in it")
        username, password, live = self.git_host.visits[-1]
        expect(live and username, "the host saw no live token")
        expect(password == self.token(), "the host saw another token than the helper gives out")

    def case_git_pushes(self):
        (self.clone / "CHANGE").write_text("pushed\n")
        self.agent.git("-C", str(self.clone), "add", "CHANGE")
        self.agent.git("-C", str(self.clone), "commit", "-q", "-m", "Change")
        self.agent.git("-C", str(self.clone), "push", "-q", "origin", "main")
        expect(self.git_host.commits("flow.git") == 2, "the commit did not arrive")

    def case_git_fetches_what_was_pushed(self):
        second = self.world.scratch / "second-clone"
        self.agent.git("clone", "-q", self.url, str(second))
        expect((second / "CHANGE").read_text() == "pushed\n", "the push is not in a new clone")

    def case_all_that_took_one_token(self):
        stats = self.issuer.ask({"do": "stats"})
        expect(stats["by_client"].get("app") == 1, f"tokens issued: {stats['by_client']}")

    def case_an_answer_has_username_password_and_expiry_only(self):
        answer, said = self.agent.ask(protocol="http", host=self.git_host.host)
        expect(sorted(answer) == ["password", "password_expiry_utc", "username"], f"the answer has {sorted(answer)}")
        left = int(answer["password_expiry_utc"]) - time.time()
        expect(0 < left <= 600, f"the token of 600 s is said to live {left:.0f} s more")
        expect(not said, f"it said something: {said}")

    def case_a_secret_sealed_by_openssl_makes_a_token(self):
        token = self.agent.password("openssl.example.test")
        expect(self.git_host.is_live(token), "the issuer does not know the token")

    def case_other_hosts_get_silence(self):
        for attributes in [
            {"protocol": "https", "host": "elsewhere.example.test"},
            {"protocol": "https", "host": f"{self.git_host.host}.example.test"},
            {"protocol": "http", "host": "openssl.example.test"},
        ]:
            answer, _ = self.agent.ask(**attributes)
            expect(answer == {}, f"{attributes} got an answer with {sorted(answer)}")

    def case_other_actions_are_silent(self):
        for action in ("store", "an-action-of-the-future"):
            answer, said = self.agent.ask(action, protocol="http", host=self.git_host.host, username="x", password="y")
            expect(answer == {} and not said, f"{action} is not silent")

    def case_wrong_credentials_are_refused_without_a_prompt(self):
        helper = "credential.helper=!f() { test \"$1\" = get && echo username=x && echo password=wrong; }; f"
        done = self.agent.git("-c", helper, "ls-remote", self.url, helper=False, check=False)
        expect(done.returncode == 128 and b"Authentication failed" in done.stderr, f"git ended with {done.returncode}")

    def case_erase_of_another_password_drops_nothing(self):
        token = self.token()
        self.agent.ask("erase", protocol="http", host=self.git_host.host, username="x", password="not-that-one")
        expect(self.token() == token, "the token was dropped")

    def case_a_revoked_token_is_replaced(self):
        stale = self.token()
        self.issuer.revoke("app", stale)
        # An old git gives up on the first 401, after telling the helper to erase; the next command must work in any case.
        self.agent.git("ls-remote", self.url, check=self.agent.git_heals())
        self.agent.git("ls-remote", self.url)
        fresh = self.token()
        expect(fresh != stale and self.git_host.is_live(fresh), "the revoked token is still given out")

    def case_a_new_secret_is_used_without_a_restart(self):
        oauth = {"clientId": "second", "encryptedClientSecret": self.key.seal(self.issuer.apps["second"]), "issuerUrl": self.issuer.url}
        before = self.issuer.ask({"do": "stats"})["by_client"].get("second", 0)
        self.plane.put({**self.main, "oauth": oauth})
        self.agent.wait_for(lambda status: any(one["id"] == self.main["id"] and one["client_id"] == "second" for one in status["integrations"]), "not seen")
        wait_until(lambda: self.agent.ask(protocol="http", host=self.git_host.host)[0].get("password"), "no token any more")
        self.agent.git("ls-remote", self.url)
        after = self.issuer.ask({"do": "stats"})["by_client"]["second"]
        expect(after == before + 1, f"the second app made {after - before} tokens")

    def case_a_removed_integration_answers_no_more(self):
        self.plane.remove(self.main["id"])
        self.agent.wait_for(lambda status: all(one["id"] != self.main["id"] for one in status["integrations"]), "it is still listed")
        answer, _ = self.agent.ask(protocol="http", host=self.git_host.host)
        expect(answer == {}, "a token of a removed integration was given out")
        self.agent.password("openssl.example.test")

    def case_sigterm_ends_it_in_good_order(self):
        status, seconds = self.agent.quit()
        expect(status == 0, f"it ended with {status}: {self.agent.tail()}")
        expect(seconds < 5, f"it took {seconds:.1f} s")
        expect(not self.agent.socket.exists(), "the socket is still there")

    def case_without_a_daemon_the_helper_is_silent(self):
        answer, said = self.agent.ask(protocol="http", host=self.git_host.host)
        expect(answer == {}, "an answer from nowhere")
        expect(len(said.strip().splitlines()) == 1, f"it should say one line, and said: {said!r}")
