"""Users sign in once, and git works from then on: device and code grants, refresh, several accounts, logout."""

import contextlib
import json
import signal
import time
import urllib.parse

from agent import Agent, Key, forms
from browser import Browser
from git_host import GitHost
from harness import Failed, Suite, expect, wait_until
from parts import ControlPlane, Issuer

APP = "users-app"
SCOPES = ["openid", "repository", "repository:write"]
LONG = 600
SHORT = 3
# Of a token that lives for SHORT seconds, with what the issuer rounds away.
UNTIL_EXPIRED = SHORT + 1
CROWD = 100

PROVIDER = """
[[provider]]
host = "{host}"
grant = "user"
scopes = {scopes}
"""


class LoginSuite(Suite):
    """What the suites below share: one host where users sign in, and nobody has yet."""

    needs = frozenset({"venv", "issuer", "nginx", "fcgiwrap", "openssl", "binaries", "login"})

    def setup(self):
        world, enter = self.world, self.stack.enter_context
        self.key = Key(world, "login")
        self.issuer = enter(Issuer(world, apps=[], user_apps=[APP]))
        self.git_host = enter(GitHost(world, self.issuer.url, self.issuer.resource_server))
        self.host = self.git_host.host
        self.url = self.git_host.new_repository("login.git")
        self.plane = enter(ControlPlane(world, self.key.registered))
        self.row = self.plane.integration(self.host, APP, self.key.seal(self.issuer.apps[APP]), self.issuer.url)
        self.plane.start(self.row)
        self.agent = self.start(world.dir("agent"))
        self.agent.wait_secrets(self.row["id"])

    def start(self, directory):
        more = PROVIDER.format(host=self.host, scopes=json.dumps(SCOPES))
        return self.stack.enter_context(Agent(self.world, self.plane, self.key, more=more, directory=directory))

    def restart(self):
        """A daemon that takes over what the last one left, and answers."""
        self.agent = self.start(self.agent.dir)
        self.agent.wait_secrets(self.row["id"])

    def sign_in(self, person, yes=True, by="device", **options):
        """Signs a person in, or has them say no; returns how the login ended. The options are those of `Agent.login`."""
        with self.agent.login(f"http://{self.host}", f"--{by}", "--account", person, **options) as login:
            Browser(person).decide(self.page_of(login), yes)
            return login.result()

    def page_of(self, login):
        """Where a login sends the person."""
        return login.begun.get("authorize_url") or login.begun["verification_uri_complete"]

    def signed_in(self, person, **options):
        result = self.sign_in(person, **options)
        expect(result["state"] == "done", f"{person} is not signed in: {result}")
        expect(result["account"] == person, f"the account is called {result['account']}")
        return result

    def ask(self, user=None):
        """The helper's answer for the host, and what it said."""
        attributes = {"username": user} if user else {}
        return self.agent.ask(protocol="http", host=self.host, **attributes)

    def token(self, user=None):
        answer, said = self.ask(user)
        expect("password" in answer, f"no password: {said.strip()}")
        return answer["password"]

    def owner(self, token):
        """Whose live token this is."""
        about = self.issuer.introspect(token)
        return about["sub"] if about["active"] else None

    def expect_told_to_log_in(self, answer, said):
        expect("password" not in answer, "a password is given out")
        lines = said.strip().splitlines()
        expect(len(lines) == 1 and "scm-agent login" in said, f"it should say one line that names `scm-agent login`: {said!r}")

    def accounts(self):
        done = self.agent.command("accounts", "--json")
        expect(done.returncode == 0, f"accounts ended with {done.returncode}: {done.stderr.decode()}")
        return {one["account"]: one for one in json.loads(done.stdout)["accounts"]}

    @contextlib.contextmanager
    def counted(self, **expected):
        """Fails unless the issuer's counters grow by just that much in the block, and no refresh token is used twice."""
        before = self.issuer.people()
        yield
        after = self.issuer.people()
        grown = {name: after[name] - before[name] for name in {**expected, "replays": 0}}
        expect(grown == {"replays": 0, **expected}, f"the issuer counted {grown}")


class Login(LoginSuite):
    def case_before_a_login_the_helper_names_it(self):
        self.expect_told_to_log_in(*self.ask())
        done = self.agent.git("ls-remote", self.url, check=False)
        expect(done.returncode != 0 and b"scm-agent login" in done.stderr, f"git says {done.stderr.decode()}")
        expect(self.accounts() == {}, "there are accounts")
        row = self.agent.status()["integrations"][0]
        expect(row["grant"] == "user", f"status says {row['grant']}")

    def case_a_device_login_ends_when_the_user_agrees(self):
        with self.agent.login(f"http://{self.host}", "--device", "--account", "alice") as login:
            begun = login.begun
            expect(begun["mode"] == "device" and begun["host"] == self.host, f"it begins with {sorted(begun)}")
            expect(begun["verification_uri"] == f"{self.issuer.url}/device", "another page than the issuer's")
            expect(begun["interval_seconds"] == 1 and 590 <= begun["expires_in_seconds"] <= 600, "other times than the issuer's")
            time.sleep(2)
            expect(login.child.poll() is None, "it ended before the user decided")
            Browser("alice").decide(begun["verification_uri"], user_code=begun["user_code"])
            result = login.result()
        expect((result["state"], result["account"], result["host"]) == ("done", "alice", self.host), f"it ends with {result}")
        one = self.accounts()["alice"]
        expect((one["host"], one["integration_id"], one["state"]) == (self.host, self.row["id"], "valid"), f"accounts says {one}")
        expect(self.issuer.people()["too_fast"] == 0, "it asked more often than it may")

    def case_git_clones_and_pushes_as_the_user(self):
        clone = self.world.scratch / "login-clone"
        self.agent.git("clone", "-q", self.url, str(clone))
        _, password, live = self.git_host.visits[-1]
        expect(live and self.owner(password) == "alice", "the host saw no live token of the user's")
        (clone / "CHANGE").write_text("pushed\n")
        for arguments in (["add", "CHANGE"], ["commit", "-q", "-m", "Change"], ["push", "-q", "origin", "main"]):
            self.agent.git("-C", str(clone), *arguments)
        expect(self.git_host.commits("login.git") == 2, "the commit did not arrive")
        expect(self.issuer.people()["refreshes"] == 0, "a fresh token was refreshed")

    def case_an_expired_token_is_refreshed_once(self):
        self.issuer.lifetime(SHORT)
        self.signed_in("alice")
        self.issuer.lifetime(LONG)
        stale = self.token()
        with self.counted(refreshes=1, rotations=1, refused=0):
            time.sleep(UNTIL_EXPIRED)
            self.agent.git("ls-remote", self.url)
            fresh = self.token()
        expect(fresh != stale and self.owner(fresh) == "alice", "the token is the old one, or dead")

    def case_every_refresh_brings_another_pair(self):
        rounds, seen = 3, [self.token()]
        held = self.issuer.grants_of("alice")[-1]
        self.issuer.lifetime(SHORT)
        self.issuer.end(seen[0])
        self.agent.ask("erase", protocol="http", host=self.host, username="x", password=seen[0])
        with self.counted(refreshes=rounds, rotations=rounds, refused=0):
            seen.append(self.token())
            for number in range(1, rounds):
                if number == rounds - 1:
                    self.issuer.lifetime(LONG)
                time.sleep(UNTIL_EXPIRED)
                self.agent.git("ls-remote", self.url)
                seen.append(self.token())
        expect(len(set(seen)) == rounds + 1, f"{len(set(seen))} different tokens of {rounds + 1}")
        live = {token for token in self.issuer.grants_of("alice")[-1] if self.issuer.introspect(token)["active"]}
        # The last access token and the last refresh token.
        expect(len(live) == 2 and seen[-1] in live and not live & held, f"{len(live)} tokens of the grant are live")

    def case_a_token_that_died_early_is_refreshed(self):
        stale = self.token()
        self.issuer.end(stale)
        with self.counted(refreshes=1):
            # An old git gives up on the first 401, after telling the helper to erase; the next command must work in any case.
            self.agent.git("ls-remote", self.url, check=self.agent.git_heals())
            self.agent.git("ls-remote", self.url)
        expect(self.token() != stale, "the dead token is still given out")

    def case_two_accounts_are_told_apart_by_username(self):
        self.signed_in("bob")
        expect(sorted(self.accounts()) == ["alice", "bob"], f"accounts says {sorted(self.accounts())}")
        for user in ("alice", "bob"):
            expect(self.owner(self.token(user)) == user, f"{user} gets another's token")
            choice = ("-c", f"credential.http://{self.host}.username={user}")
            self.agent.git(*choice, "ls-remote", self.url)
            expect(self.owner(self.git_host.visits[-1][1]) == user, f"git did not come as {user}")
        answer, _ = self.ask("nobody-of-that-name")
        expect("password" not in answer, "a token for an account that there is not")

    def case_a_restart_keeps_the_grants(self):
        with self.counted(refreshes=0):
            status, _ = self.agent.quit()
            expect(status == 0, f"it ended with {status}")
            self.restart()
            for user in ("alice", "bob"):
                expect(self.owner(self.token(user)) == user, f"{user} has no token of theirs after the restart")

    def case_a_denied_login_leaves_nothing(self):
        result = self.sign_in("denied", yes=False)
        expect(result["state"] == "denied", f"it ends with {result}")
        expect(sorted(self.accounts()) == ["alice", "bob"], f"accounts says {sorted(self.accounts())}")

    def case_an_expired_device_code_ends_the_login(self):
        with self.agent.login(f"http://{self.host}", "--device", "--account", "late") as login:
            self.issuer.expire(login.begun["user_code"])
            result = login.result()
        expect(result["state"] == "expired", f"it ends with {result}")
        # This time the issuer has forgotten the code altogether.
        self.issuer.device(lifetime=3)
        try:
            with self.agent.login(f"http://{self.host}", "--device", "--account", "late") as login:
                result = login.result()
        finally:
            self.issuer.device()
        expect(result["state"] == "expired", f"it ends with {result}")
        expect("late" not in self.accounts(), "an account without a grant")

    def case_a_slow_device_waits_as_long_as_it_is_told(self):
        before = self.issuer.people()["too_fast"]
        self.issuer.ask({"do": "slow_down", "times": 1})
        with self.agent.login(f"http://{self.host}", "--device", "--account", "slow") as login:
            polls = self.issuer.people()["polls"]
            wait_until(lambda: self.issuer.people()["polls"] > polls + 1, "it does not ask")
            Browser("slow").decide(self.page_of(login))
            result = login.result()
        expect(result["state"] == "done", f"it ends with {result}")
        expect(self.issuer.people()["too_fast"] == before, "it asked sooner than it was told to")
        expect(self.agent.command("logout", f"http://{self.host}", "--account", "slow").returncode == 0, "logout fails")

    def case_a_browser_login_proves_who_began_it(self):
        with self.agent.login(f"http://{self.host}", "--browser", "--account", "carol") as login:
            expect(login.begun["mode"] == "browser", f"it begins with {sorted(login.begun)}")
            asked = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(login.begun["authorize_url"]).query))
            expect(asked["code_challenge_method"] == "S256" and len(asked["state"]) >= 16, f"it asks with {sorted(asked)}")
            back = urllib.parse.urlsplit(asked["redirect_uri"])
            expect((back.scheme, back.hostname) == ("http", "127.0.0.1") and back.port, "it comes back to another machine")
            # Somebody who guesses the port, but not the state.
            with contextlib.suppress(OSError):
                Browser("mallory").open(f"{asked['redirect_uri']}?code=stolen&state=guessed")
            page = Browser("carol").decide(login.begun["authorize_url"])
            result = login.result()
        expect(page.status == 200, f"the person sees {page.status}")
        expect((result["state"], result["account"]) == ("done", "carol"), f"it ends with {result}")
        self.agent.git("-c", f"credential.http://{self.host}.username=carol", "ls-remote", self.url)
        expect(self.owner(self.git_host.visits[-1][1]) == "carol", "git did not come with a token of hers")
        expect(self.issuer.ask({"do": "kinds"})["code_verifier"], "the issuer was shown no verifier")

    def case_a_browser_login_may_be_denied(self):
        result = self.sign_in("denied", yes=False, by="browser")
        expect(result["state"] == "denied", f"it ends with {result}")
        expect("denied" not in self.accounts(), "an account without a grant")

    def case_a_grant_by_code_is_refreshed_as_well(self):
        stale = self.token("carol")
        self.issuer.end(stale)
        choice = ("-c", f"credential.http://{self.host}.username=carol")
        with self.counted(refreshes=1, rotations=1, refused=0):
            self.agent.git(*choice, "ls-remote", self.url, check=False)
            self.agent.git(*choice, "ls-remote", self.url)
        expect(self.token("carol") != stale and self.owner(self.token("carol")) == "carol", "the dead token is still given out")

    def give_up(self, login, number):
        """Ends a login as a terminal does: with Ctrl-C, or by being closed."""
        login.child.send_signal(number)
        wait_until(lambda: login.child.poll() is not None, "it does not end", 10)
        wanted = 130 if number == signal.SIGINT else 1
        expect(login.child.returncode == wanted, f"signal {number} ends it with {login.child.returncode}")

    def case_an_interrupted_login_leaves_nothing(self):
        # More of them than one user may have open at a time, so that one that stays would be in the way.
        for number in [signal.SIGINT, signal.SIGTERM, signal.SIGHUP] * 2:
            with self.agent.login(f"http://{self.host}", "--device", "--account", "gone") as login:
                self.give_up(login, number)
                Browser("gone").decide(self.page_of(login))
        with self.agent.login(f"http://{self.host}", "--browser", "--account", "gone") as login:
            self.give_up(login, signal.SIGINT)
            try:
                Browser("gone").decide(self.page_of(login))
            except OSError:
                pass
            else:
                raise Failed("somebody still listens for the browser")
        polls = self.issuer.people()["polls"]
        time.sleep(3)
        expect(self.issuer.people()["polls"] == polls, "somebody still asks for it")
        expect("gone" not in self.accounts(), "an account without a login")

    def case_one_hundred_at_once_on_an_expired_token_make_one_refresh(self):
        self.issuer.lifetime(SHORT)
        self.signed_in("alice")
        # Nothing is refreshed ahead of time by a daemon that is not there.
        self.agent.quit()
        self.issuer.lifetime(LONG)
        time.sleep(UNTIL_EXPIRED)
        # Long enough for the crowd to find the refresh under way, whoever begins it.
        with self.counted(refreshes=1, rotations=1, refused=0), self.issuer.slow(before=2):
            self.restart()
            answers = self.agent.crowd(CROWD, f"protocol=http\nhost={self.host}\nusername=alice\n\n".encode())
        passwords = [line for out, _ in answers for line in out.splitlines() if line.startswith("password=")]
        silent = [said for out, said in answers if "password=" not in out]
        expect(not silent, f"{len(silent)} of {CROWD} got no password; one said: {silent[:1]}")
        expect(len(set(passwords)) == 1, f"{len(set(passwords))} different passwords")

    def case_logout_revokes_at_the_issuer(self):
        # Grants that a later login replaced are another matter; this is about the one that is held.
        held = self.issuer.grants_of("alice")[-1]
        live = {token for token in held if self.issuer.introspect(token)["active"]}
        expect(self.token("alice") in live and len(live) >= 2, f"{len(live)} of {len(held)} tokens are live before")
        done = self.agent.command("logout", f"http://{self.host}", "--account", "alice")
        expect(done.returncode == 0, f"logout ended with {done.returncode}: {done.stderr.decode()}")
        expect(not any(self.issuer.introspect(token)["active"] for token in live), "a token is live after logout")
        self.expect_told_to_log_in(*self.ask("alice"))
        expect(sorted(self.accounts()) == ["bob", "carol"], f"accounts says {sorted(self.accounts())}")
        expect(self.owner(self.token("bob")) == "bob", "another account lost its grant")

    def case_a_grant_that_the_user_ended_is_not_hammered(self):
        self.issuer.kill("bob")
        before = self.issuer.people()
        self.agent.git("-c", f"credential.http://{self.host}.username=bob", "ls-remote", self.url, check=False)
        wait_until(lambda: "password" not in self.ask("bob")[0], "a dead token is still given out")
        for _ in range(20):
            self.expect_told_to_log_in(*self.ask("bob"))
        after = self.issuer.people()
        expect(after["refused"] - before["refused"] <= 2, f"{after['refused'] - before['refused']} requests with a dead grant")
        expect(self.accounts()["bob"]["state"] == "needs_login", f"accounts says {self.accounts()['bob']['state']}")
        self.signed_in("bob")
        expect(self.owner(self.token("bob")) == "bob", "no token after signing in again")

    def case_no_refresh_token_was_used_twice(self):
        people = self.issuer.people()
        expect(people["refreshes"] > 0 and people["replays"] == 0, f"the issuer counted {people}")

    def case_nothing_of_a_grant_is_in_logs_and_files(self):
        kinds = self.issuer.ask({"do": "kinds"})
        expect(all(kinds.values()), f"nothing was issued of {[kind for kind, values in kinds.items() if not values]}")
        self.agent.quit()
        texts = {path.name: path.read_bytes() for path in self.agent.dir.rglob("*") if path.is_file()}
        texts |= {agent.log.name: agent.log.read_bytes() for agent in self.world.daemons if agent.dir == self.agent.dir}
        texts["what commands said"] = "\n".join(text for agent in self.world.daemons for text in agent.seen).encode()
        for kind, values in kinds.items():
            needles = [form.encode() for value in values for form in forms(value)]
            found = [name for name, text in texts.items() if any(needle in text for needle in needles)]
            expect(not found, f"{kind}: found in {found}")
