"""What git's own tests ask of a credential helper, through `git credential` of every version: to read, and with PATs to store too.

`SCM_AGENT_TEST_GIT_TREE` names a source tree of git's; where it is set, git's script for helpers by others runs from there, too.
"""

import os
import pathlib
import secrets

from agent import Agent, Key
from gits import Git, last
from harness import Suite, expect
from parts import ControlPlane, Issuer

# What stands for a person at the prompt.
ASKED = "asked"
ASKPASS = f"""#!/bin/sh
echo {ASKED}
"""
HOST = "service.example.test"
# An integration of a part of a host.
PART = "parts.example.test/group"
# Hosts of git's own script.
EXAMPLE, VICTIM = "example.com", "victim.example.com"
PAT_HOSTS = [EXAMPLE, VICTIM, "other.tld", "badguy.example.com", "sso.tld", "timeout.tld"]
TREE = os.environ.get("SCM_AGENT_TEST_GIT_TREE")
SCRIPT = "t0303-credential-external.sh"
# Stands where git's tests have their library: enough of it for the script, which finds it in its working folder.
TEST_LIBRARY = r"""
TEST_DIRECTORY='{tree}/t'
say () { printf '%s\n' "$*"; }
write_script () { { echo '#!/bin/sh'; cat; } >"$1" && chmod +x "$1"; }
test_cmp () { diff -u "$@"; }
test_must_be_empty () { ! test -s "$1"; }
test_config () { git config --global "$@"; restore="git config --global --unset-all $1"; }
test_done () { exit 0; }
test_expect_success () {
    restore=:
    if (eval "$2" && eval "$restore") >>log 2>&1; then echo "ok $1"; else echo "not ok $1"; git config --global --unset-all credential.usehttppath; fi
}
"""


class ConformanceSuite(Suite):
    """What both halves share: a daemon, and every git with an askpass that can be told from a helper."""

    needs = frozenset({"venv", "issuer", "openssl", "binaries", "gits"})

    def begin(self, key, issuer, *rows):
        world, enter = self.world, self.stack.enter_context
        self.plane = enter(ControlPlane(world, key.registered)).start()
        rows = [row(self.plane) for row in rows]
        self.plane.put(*rows)
        self.agent = enter(Agent(world, self.plane, key))
        self.agent.wait_for(lambda status: len(status["integrations"]) == len(rows), "not every integration is there")
        self.agent.wait_secrets(*(row["id"] for row in rows if "oauth" in row))
        self.issuer = issuer
        self.gits = Git.all(world)
        self.askpass = world.dir("askpass") / "askpass"
        self.askpass.write_text(ASKPASS)
        self.askpass.chmod(0o755)

    def ask(self, git, action, *lines, path=False, **attributes):
        """`git credential ACTION`; `lines` come before the attributes, of which `path_` is git's path, told to helpers with `path`."""
        text = "".join(f"{line}\n" for line in lines) + "".join(f"{name.rstrip('_')}={value}\n" for name, value in attributes.items())
        options = ["-c", "credential.useHttpPath=true"] if path else []
        more = {"GIT_ASKPASS": str(self.askpass)}
        done = git.run(self.agent, *options, "credential", action, given=text.encode(), more=more)
        expect(not done.stderr, f"it says: {last(done)}")
        return dict(line.split("=", 1) for line in done.stdout.decode().splitlines() if "=" in line)

    def fill(self, git, *lines, path=False, protocol="https", **attributes):
        return self.ask(git, "fill", *lines, path=path, protocol=protocol, **attributes)

    def expect_asked(self, git, *lines, path=False, **attributes):
        answer = self.fill(git, *lines, path=path, **attributes)
        wanted = attributes.get("username", ASKED)
        expect((answer["username"], answer["password"]) == (wanted, ASKED), f"an answer for {attributes}")

    def run_gits_own(self, git, helper_options=""):
        """git's script with our helper: (names of the tests that passed, of those that failed)."""
        folder = self.world.dir("t0303")
        (folder / "test-lib.sh").write_text(TEST_LIBRARY.replace("{tree}", TREE))
        config = folder / "gitconfig"
        config.write_text("")
        environment = git.environment(config)
        environment["PATH"] = os.pathsep.join([str(self.world.bin_dir), environment["PATH"]])
        environment |= {"SCM_AGENT__AGENT__SOCKET": str(self.agent.socket), "GIT_TEST_CREDENTIAL_HELPER": f"scm-agent{helper_options}"}
        script = pathlib.Path(TREE) / "t" / SCRIPT
        done = self.world.call(["sh", script], cwd=folder, environment=environment, check=False, seconds=100)
        results = done.stdout.decode().splitlines()
        held = {said: {line.removeprefix(f"{said} ") for line in results if line.startswith(f"{said} ")} for said in ("ok", "not ok")}
        short = {said: {name.split(") ", 1)[1] for name in names} for said, names in held.items()}
        expect(done.returncode == 0 and short["ok"], f"it ended with {done.returncode}: {last(done)}")
        self.log = folder / "log"
        return short["ok"], short["not ok"]


class Conformance(ConformanceSuite):
    """The half of a helper that reads, with the app's tokens."""

    def setup(self):
        key = Key(self.world, "conformance")
        apps = ["app", "part", "example", "victim"]
        issuer = self.stack.enter_context(Issuer(self.world, apps=apps))

        def row(host, app):
            return lambda plane: plane.integration(host, app, key.seal(issuer.apps[app]), issuer.url)

        self.begin(key, issuer, *(row(host, app) for host, app in zip([HOST, PART, EXAMPLE, VICTIM], apps)))

    def token(self):
        return self.agent.password(HOST)

    def expect_ours(self, git, *lines, path=False, app="app", **attributes):
        answer = self.fill(git, *lines, path=path, **attributes)
        expect(answer["password"] in self.issuer.ask({"do": "tokens"})["tokens"], f"no token for {attributes}")
        expect(answer["protocol"] == "https" and answer["host"] == attributes["host"], "the answer is for another place")
        return answer

    def case_it_answers_for_its_host_and_no_other(self):
        def check(git):
            answer = self.expect_ours(git, host=HOST)
            expect(answer["password"] == self.token(), "another token than the helper gives out")
            for same in (f"{HOST}:443", HOST.upper()):
                expect(self.expect_ours(git, host=same)["password"] == answer["password"], f"another token for {same}")
            for other in (f"other.{HOST}", f"{HOST}.other.test", f"{HOST}:8443", HOST.replace(".", "-"), "example.test"):
                self.expect_asked(git, host=other)
            self.expect_asked(git, host=HOST, protocol="http")

        Git.each(self.gits, check)

    def case_a_user_name_narrows(self):
        def check(git):
            answer = self.expect_ours(git, host=HOST)
            again = self.expect_ours(git, host=HOST, username=answer["username"])
            expect(again["username"] == answer["username"] and again["password"] == answer["password"], "another answer for its own name")
            self.expect_asked(git, host=HOST, username="somebody-else")

        Git.each(self.gits, check)

    def case_a_path_narrows_where_the_integration_has_one(self):
        host, part = PART.split("/")

        def check(git):
            for inside in (f"{part}/one.git", f"{part}/deep/er/one.git", part):
                self.expect_ours(git, host=host, path=True, path_=inside)
            for outside in ("one.git", f"{part}-other/one.git", f"other/{part}/one.git", f"{part}/../other/one.git"):
                self.expect_asked(git, host=host, path=True, path_=outside)
            # Without a path the only integration that can be meant answers.
            self.expect_ours(git, host=host, path_=f"{part}/one.git")
            self.expect_ours(git, host=HOST, path=True, path_="any/one.git")

        Git.each(self.gits, check)

    def case_storing_changes_nothing(self):
        def check(git):
            before = self.fill(git, host=HOST)
            for more in ({}, {"password_expiry_utc": 9_999_999_999}, {"oauth_refresh_token": "xyzzy"}):
                self.ask(git, "approve", protocol="https", host=HOST, username=before["username"], password="stored", **more)
            after = self.fill(git, host=HOST)
            expect(after["password"] == before["password"] and "oauth_refresh_token" not in after, f"it kept something: {sorted(after)}")

        Git.each(self.gits, check)

    def case_only_the_token_itself_is_erased(self):
        def check(git):
            answer = self.fill(git, host=HOST)
            name, token = answer["username"], answer["password"]
            for reject in (
                {"host": HOST, "username": name, "password": "another"},
                {"host": HOST, "username": name},
                {"host": HOST},
                {"host": f"other.{HOST}", "username": name, "password": token},
            ):
                self.ask(git, "reject", protocol="https", **reject)
                expect(self.token() == token, f"it forgot its token for {sorted(reject)}")
            self.ask(git, "reject", protocol="https", host=HOST, username=name, password=token)
            fresh = self.expect_ours(git, host=HOST)["password"]
            expect(fresh != token, "the token that was refused is given out again")
            # As git does when the host takes it.
            self.ask(git, "approve", protocol="https", host=HOST, username=name, password=fresh)

        Git.each(self.gits, check)

    def case_a_long_challenge_names_no_other_host(self):
        def check(git):
            for buffer in (256, 1024, 4096, 8192, 65_535 - 64):
                realm = "a" * (buffer - len("wwwauth[]=basic realm=") - 1)
                self.expect_asked(git, f"wwwauth[]=basic realm={realm}host={HOST}", host="badguy.example.test")

        Git.each(self.gits, check)

    if TREE:

        def case_gits_own_script_passes_as_far_as_it_reads(self):
            ok, _ = self.run_gits_own(self.gits[-1])
            reads = {f"requires matching {what}" for what in ("protocol", "host", "username", "path")}
            reads |= {"not confused by long header", "stores password", "stores password_expiry_utc", "stores oauth_refresh_token"}
            expect(reads <= ok, f"these fail: {sorted(reads - ok)}")


class ConformancePats(ConformanceSuite):
    """The half of a helper that stores, with personal access tokens."""

    def setup(self):
        key = Key(self.world, "pats")
        issuer = self.stack.enter_context(Issuer(self.world))

        def row(host):
            def make(plane):
                one = plane.integration(host, "", "", pat=True)
                del one["oauth"]
                return one

            return make

        self.begin(key, issuer, *(row(host) for host in [HOST, PART, *PAT_HOSTS]))
        self.pats = {}

    def pat(self, name):
        """The PAT that the cases call so; the leak search looks for it."""
        if name not in self.pats:
            self.pats[name] = f"{name}-{secrets.token_hex(16)}"
            self.world.secrets.add(self.pats[name])
        return self.pats[name]

    def store(self, git, username, pat, host=HOST, path=False, **more):
        self.ask(git, "approve", path=path, protocol="https", host=host, username=username, password=self.pat(pat), **more)

    def forget(self, git, host=HOST, pat=None, path=False, **which):
        password = {"password": self.pat(pat)} if pat else {}
        self.ask(git, "reject", path=path, protocol="https", host=host, **which, **password)

    def expect_held(self, git, username, pat, named=True, host=HOST, path=False, **more):
        attributes = {"username": username} if named else {}
        answer = self.fill(git, host=host, path=path, **attributes, **more)
        expect((answer["username"], answer["password"]) == (username, self.pat(pat)), f"not the PAT of {username}'s for {attributes}")

    def clean(self, git):
        """The preconditions of each case, as far as a helper without a fault leaves any."""
        self.forget(git)
        self.expect_asked(git, host=HOST)

    def case_what_is_stored_comes_back(self):
        def check(git):
            self.clean(git)
            self.store(git, "someone", "pat-1")
            self.expect_held(git, "someone", "pat-1", named=False)
            self.expect_held(git, "someone", "pat-1")
            self.expect_asked(git, host=HOST, protocol="http")
            self.expect_asked(git, host=f"other.{HOST}")
            self.expect_asked(git, host=EXAMPLE)
            self.expect_asked(git, host=HOST, username="someone-else")

        Git.each(self.gits, check)

    def case_another_password_takes_the_place_of_the_first(self):
        def check(git):
            self.clean(git)
            self.store(git, "someone", "pat-1")
            self.store(git, "someone", "pat-2")
            self.expect_held(git, "someone", "pat-2")
            self.forget(git, username="someone", pat="pat-2")
            self.expect_asked(git, host=HOST, username="someone")

        Git.each(self.gits, check)

    def case_another_password_than_the_stored_one_erases_nothing(self):
        def check(git):
            self.clean(git)
            self.store(git, "someone", "pat-1")
            self.forget(git, username="someone", pat="pat-2")
            self.expect_held(git, "someone", "pat-1")
            self.forget(git, username="someone-else", pat="pat-1")
            self.expect_held(git, "someone", "pat-1")

        Git.each(self.gits, check)

    def case_several_users_are_kept_apart(self):
        def check(git):
            self.clean(git)
            self.store(git, "one", "pat-1")
            self.store(git, "two", "pat-2")
            self.expect_held(git, "one", "pat-1")
            self.expect_held(git, "two", "pat-2")
            self.forget(git, username="one")
            self.expect_asked(git, host=HOST, username="one")
            self.expect_held(git, "two", "pat-2")

        Git.each(self.gits, check)

    def case_a_host_is_forgotten_with_all_its_users(self):
        def check(git):
            self.clean(git)
            self.store(git, "one", "pat-same")
            self.store(git, "two", "pat-same")
            self.store(git, "one", "pat-other", host=EXAMPLE)
            self.forget(git)
            for name in ("one", "two"):
                self.expect_asked(git, host=HOST, username=name)
            self.expect_held(git, "one", "pat-other", host=EXAMPLE)
            self.forget(git, host=EXAMPLE)

        Git.each(self.gits, check)

    def case_a_path_means_a_part_of_a_host(self):
        host, part = PART.split("/")

        def check(git):
            where = {"host": host, "path": True}
            self.store(git, "someone", "pat-part", **where, path_=f"{part}/one.git")
            self.expect_held(git, "someone", "pat-part", named=False, **where, path_=f"{part}/two.git")
            for outside in ("one.git", f"{part}-other/one.git"):
                self.expect_asked(git, **where, path_=outside)
            self.forget(git, **where, path_=f"{part}/three.git", username="someone", pat="pat-part")
            self.expect_asked(git, **where, path_=f"{part}/one.git")

        Git.each(self.gits, check)

    def case_what_is_no_pat_is_not_kept(self):
        # By the helper itself: some of this git keeps back, and an old git leaves out what it does not know.
        attributes = {"protocol": "https", "host": HOST, "username": "someone", "password": self.pat("pat-1")}
        for more in (
            {"password_expiry_utc": 1_000_000_000},
            {"ephemeral": 1},
            {"oauth_refresh_token": "xyzzy"},
            {"password": ""},
        ):
            self.clean(self.gits[-1])
            answer, said = self.agent.ask("store", **{**attributes, **more})
            expect(answer == {} and not said, f"`store` is not silent: {said}")
            self.expect_asked(self.gits[-1], host=HOST, username="someone")
        self.agent.ask("store", **attributes)
        self.expect_held(self.gits[-1], "someone", "pat-1")

    def case_a_long_challenge_names_no_other_host(self):
        def check(git):
            self.clean(git)
            self.store(git, "someone", "pat-to-be-stolen")
            for buffer in (1024, 4096, 65_535 - 64):
                realm = "a" * (buffer - len("wwwauth[]=basic realm=") - 1)
                self.expect_asked(git, f"wwwauth[]=basic realm={realm}host={HOST}", host="badguy.example.com")

        Git.each(self.gits, check)

    if TREE:

        def case_gits_own_script_passes(self):
            ok, failed = self.run_gits_own(self.gits[-1])
            # A PAT is never empty, and what comes with an end or a refresh token is another helper's token, not a PAT.
            never = {"can store empty username", "gets password_expiry_utc", "overwrites when password_expiry_utc changes", "gets oauth_refresh_token"}
            expect(failed <= never, f"these fail: {sorted(failed - never)}: {self.log.read_text()[-500:]}")
            print(f"    {len(ok)} pass, and of those that cannot {len(failed)} do not", flush=True)
