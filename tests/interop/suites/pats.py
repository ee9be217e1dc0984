"""Personal access tokens: git asks its user once, the daemon keeps what the host took; and what git's own suite expects of a helper
that stores (t0303, in our words), by `git credential` against one that is asked through `GIT_ASKPASS`."""

import secrets

from agent import Agent, Key
from git_host import GitHost
from harness import Suite, expect
from parts import ControlPlane

# Says what it was asked, and answers with what it was told to.
ASKPASS = """\
#!/bin/sh
echo "$1" >>'{log}'
case "$1" in Username*) echo '{user}' ;; *) echo '{word}' ;; esac
"""


class PatHost(GitHost):
    """Takes personal access tokens that were made here, instead of asking the issuer."""

    def __init__(self, world):
        super().__init__(world, "", None)
        self.live = set()

    def is_live(self, token):
        return token in self.live

    def new_token(self):
        token = f"glpat-{secrets.token_hex(20)}"
        self.live.add(token)
        # For the leak search.
        self.world.secrets.add(token)
        return token


class Pats(Suite):
    needs = frozenset({"venv", "nginx", "fcgiwrap", "binaries"})

    def setup(self):
        world, enter = self.world, self.stack.enter_context
        self.key = Key(world, "pats")
        self.git_host = enter(PatHost(world))
        self.url = self.git_host.new_repository("pats.git")
        self.plane = enter(ControlPlane(world, self.key.registered)).start()
        self.main = self.integration(self.git_host.host)
        self.other = self.integration("example.test")
        self.plane.put(self.main, self.other)
        self.agent = enter(Agent(world, self.plane, self.key))
        self.agent.wait_for(lambda status: len(status["integrations"]) == 2, "the integrations are not there")
        self.folder = world.dir("askpass")
        self.token = self.git_host.new_token()

    def integration(self, host):
        one = self.plane.integration(host, "", "", scm_id="gitlab", pat=True)
        del one["oauth"]
        return one

    def asking(self, user, word):
        """Options for a git whose user answers so; `asked` counts the questions."""
        script = self.folder / "askpass"
        script.write_text(ASKPASS.format(log=self.folder / "asked", user=user, word=word))
        script.chmod(0o755)
        (self.folder / "asked").write_text("")
        return ["-c", f"core.askPass={script}"]

    def asked(self):
        return len((self.folder / "asked").read_text().splitlines())

    def credential(self, action, text):
        """`git credential` with the helper and a user who is asked: the lines it prints, as a dict, and the number of questions."""
        done = self.agent.git(*self.asking("askpass-user", "askpass-word"), "credential", action, given=f"{text}\n".encode(), check=False)
        lines = [line for line in done.stdout.decode().split("\n") if line]
        return dict(line.split("=", 1) for line in lines), self.asked()

    def expect_asked(self, text, questions):
        answer, asked = self.credential("fill", text)
        expect(asked == questions and answer.get("password") == "askpass-word", f"git asked {asked} times and has {sorted(answer)}")

    def expect_kept(self, text, username, password):
        answer, asked = self.credential("fill", text)
        expect(asked == 0, f"git asked {asked} times")
        expect((answer.get("username"), answer.get("password")) == (username, password), "git has another credential")

    def case_git_asks_once_for_clone_fetch_and_push(self):
        clone = self.world.scratch / "pats-clone"
        self.agent.git(*self.asking("mona", self.token), "clone", "-q", self.url, str(clone))
        expect(self.asked() == 2, f"git asked {self.asked()} times")
        (clone / "CHANGE").write_text("pushed\n")
        self.agent.git("-C", str(clone), "add", "CHANGE")
        self.agent.git("-C", str(clone), "commit", "-q", "-m", "Change")
        self.agent.git("-C", str(clone), "push", "-q", "origin", "main")
        self.agent.git("-C", str(clone), "fetch", "-q")
        expect(self.git_host.commits("pats.git") == 2, "the commit did not arrive")
        username, password, live = self.git_host.visits[-1]
        expect(username == "mona" and password == self.token and live, "the host saw something else")

    def case_a_killed_daemon_has_it_again(self):
        self.agent.stop()
        self.agent = self.stack.enter_context(Agent(self.world, self.plane, self.key, directory=self.agent.dir))
        self.agent.wait_for(lambda status: len(status["integrations"]) == 2, "the integrations are not there")
        self.agent.git("ls-remote", self.url)

    def case_status_and_accounts_show_it_and_not_its_value(self):
        row = next(one for one in self.agent.status()["integrations"] if one["id"] == self.main["id"])
        expect([token["grant"] for token in row["tokens"]] == ["pat"], f"the tokens are {row['tokens']}")
        shown = self.agent.command("accounts").stdout.decode()
        expect("mona" in shown and self.token not in shown, f"accounts said {shown}")

    def case_a_revoked_token_is_forgotten_and_asked_for_again(self):
        self.git_host.live.discard(self.token)
        new = self.git_host.new_token()
        options = self.asking("mona", new)
        # A git that was given a credential gives up on the first 401; the next command asks.
        done = self.agent.git(*options, "ls-remote", self.url, check=False)
        expect(done.returncode == 128 and self.asked() == 0, f"git ended with {done.returncode} after {self.asked()} questions")
        self.agent.git(*options, "ls-remote", self.url)
        expect(self.asked() == 2, f"git asked {self.asked()} times")
        self.agent.git("ls-remote", self.url)

    def case_without_the_switch_it_is_gone_within_a_poll(self):
        self.plane.put({**self.main, "pat": False})
        self.agent.wait_for(lambda status: not any(one["tokens"] for one in status["integrations"]), "the token is still there")
        self.plane.put(self.main)
        self.agent.wait_for(lambda status: sum(one["pat"] for one in status["integrations"]) == 2, "the switch is not back")
        done = self.agent.git("ls-remote", self.url, check=False)
        expect(done.returncode == 128, "the token came back with the switch")

    # What follows is the store half of t0303-credential-external.sh.

    def case_a_helper_has_no_existing_data(self):
        self.expect_asked("protocol=https\nhost=example.test\n", 2)

    def case_a_helper_stores_a_password(self):
        self.credential("approve", "protocol=https\nhost=example.test\nusername=store-user\npassword=store-pass\n")
        self.expect_kept("protocol=https\nhost=example.test\n", "store-user", "store-pass")

    def case_a_helper_asks_for_another_protocol_user_and_host(self):
        self.expect_asked("protocol=http\nhost=example.test\n", 2)
        self.expect_asked("protocol=https\nhost=example.test\nusername=other\n", 1)
        self.expect_asked("protocol=https\nhost=elsewhere.test\n", 2)

    def case_a_helper_does_not_erase_a_password_distinct_from_input(self):
        self.credential("reject", "protocol=https\nhost=example.test\nusername=store-user\npassword=another\n")
        self.expect_kept("protocol=https\nhost=example.test\nusername=store-user\n", "store-user", "store-pass")

    def case_a_helper_overwrites_on_store(self):
        self.credential("approve", "protocol=https\nhost=example.test\nusername=store-user\npassword=store-pass-2\n")
        self.expect_kept("protocol=https\nhost=example.test\n", "store-user", "store-pass-2")

    def case_a_helper_forgets_a_host(self):
        self.credential("reject", "protocol=https\nhost=example.test\n")
        self.expect_asked("protocol=https\nhost=example.test\n", 2)

    def case_a_helper_stores_several_users_and_forgets_one(self):
        for user in ("one", "two"):
            self.credential("approve", f"protocol=https\nhost=example.test\nusername={user}\npassword=pass-{user}\n")
        for user in ("one", "two"):
            self.expect_kept(f"protocol=https\nhost=example.test\nusername={user}\n", user, f"pass-{user}")
        self.credential("reject", "protocol=https\nhost=example.test\nusername=one\n")
        self.expect_asked("protocol=https\nhost=example.test\nusername=one\n", 1)
        self.expect_kept("protocol=https\nhost=example.test\nusername=two\n", "two", "pass-two")
        self.credential("reject", "protocol=https\nhost=example.test\nusername=two\n")

    def case_a_helper_stores_an_empty_username(self):
        self.credential("approve", "protocol=https\nhost=example.test\nusername=\npassword=nobody\n")
        self.expect_kept("protocol=https\nhost=example.test\n", "", "nobody")
        self.credential("reject", "protocol=https\nhost=example.test\nusername=\npassword=nobody\n")

    def case_a_helper_keeps_nothing_that_has_an_end(self):
        text = "protocol=https\nhost=example.test\nusername=u\npassword=p\npassword_expiry_utc=9999999999\n"
        self.credential("approve", text)
        self.credential("approve", "protocol=https\nhost=example.test\nusername=u\npassword=p\noauth_refresh_token=r\n")
        self.expect_asked("protocol=https\nhost=example.test\n", 2)
