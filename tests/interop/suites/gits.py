"""Every git that is at hand does what developers and jobs do, also when the host takes a token back or its time is over."""

import time

from agent import Agent, Key
from git_host import GitHost
from gits import Git, at_once, last
from harness import Suite, expect
from lfs_host import LfsHost
from parts import ControlPlane, Issuer

LONG = 600
SHORT = 3
# Of a token that lives for SHORT seconds, with what the issuer rounds away.
UNTIL_EXPIRED = SHORT + 1
CLONES = 8
CROWD = 100
HEALED_CROWD = 30


class Gits(Suite):
    needs = frozenset({"venv", "issuer", "nginx", "fcgiwrap", "openssl", "binaries", "gits", "git-lfs"})
    # A hundred gits take their time on a busy machine.
    seconds = 240

    def setup(self):
        world, enter = self.world, self.stack.enter_context
        key = self.key = Key(world, "gits")
        self.issuer = enter(Issuer(world))
        self.lfs = enter(LfsHost())
        self.git_host = enter(GitHost(world, self.issuer.url, self.issuer.resource_server, locations=self.lfs.location))
        self.url = self.git_host.new_repository("gits.git")
        plane = self.plane = enter(ControlPlane(world, key.registered)).start()
        row = self.row = plane.integration(self.git_host.host, "app", key.seal(self.issuer.apps["app"]), self.issuer.url)
        plane.put(row)
        self.agent = enter(Agent(world, plane, key))
        self.agent.wait_secrets(row["id"])
        self.gits = Git.all(world)
        print(f"    git {', '.join(git.name for git in self.gits)}", flush=True)

    def restart(self):
        """A daemon that has seen no token refused: too many in a row are taken for a fault of the host's, and not replaced."""
        self.agent.quit()
        self.agent = self.stack.enter_context(Agent(self.world, self.plane, self.key, directory=self.agent.dir))
        self.agent.wait_secrets(self.row["id"])

    def dir(self, name, git):
        """A folder that is not there yet."""
        return self.world.dir(name) / git.name

    def token(self):
        return self.agent.password(self.git_host.host, "http")

    def issued(self):
        return self.issuer.issued("app")

    def clone(self, git, name="clone", url=None, *options):
        path = self.dir(name, git)
        git.run(self.agent, "clone", "-q", *options, url or self.url, path)
        return path

    def commit(self, git, clone, name, content="changed\n"):
        (clone / name).write_text(content)
        git.run(self.agent, "-C", clone, "add", "-A")
        git.run(self.agent, "-C", clone, "commit", "-q", "-m", f"Add {name}")

    def case_there_are_an_old_git_and_a_new_one(self):
        names = [git.name for git in self.gits]
        expect((2, 39) in [git.version for git in self.gits], f"2.39 is not among {names}")
        expect(not self.gits[0].heals and self.gits[-1].version >= (2, 50), f"no old one and no new one: {names}")
        for git in self.gits:
            # The helper and git's own subcommands are of the version that was started, not of the one in PATH.
            inner = git.run(self.agent, "-c", "alias.inner=!git --version", "inner").stdout.decode()
            expect(inner.strip().endswith(git.name), f"git {git.name} starts {inner.strip()}")

    def case_every_git_clones_fetches_pushes_and_lists(self):
        def check(git):
            one, other = self.clone(git), self.clone(git)
            self.commit(git, one, f"by-{git.name}")
            git.run(self.agent, "-C", one, "push", "-q", "origin", f"main:by-{git.name}")
            git.run(self.agent, "-C", other, "fetch", "-q")
            fetched = git.run(self.agent, "-C", other, "rev-parse", f"origin/by-{git.name}").stdout
            expect(fetched == git.run(self.agent, "-C", one, "rev-parse", "main").stdout, "another commit than was pushed")
            listed = git.run(self.agent, "ls-remote", self.url).stdout
            expect(fetched.strip() + f"\trefs/heads/by-{git.name}\n".encode() in listed, "ls-remote does not show it")

        Git.each(self.gits, check)
        expect(self.issued() == 1, f"{self.issued()} tokens were made")

    def case_every_git_clones_submodules(self):
        self.git_host.new_repository("inner.git")
        outer = self.git_host.new_repository("outer.git")
        git = self.gits[0]
        inner = git.run(self.agent, "ls-remote", f"http://{self.git_host.host}/inner.git", "HEAD").stdout.split()[0].decode()
        clone = self.clone(git, "outer", outer)
        (clone / ".gitmodules").write_text('[submodule "inner"]\n\tpath = inner\n\turl = ../inner.git\n')
        git.run(self.agent, "-C", clone, "update-index", "--add", "--cacheinfo", f"160000,{inner},inner")
        git.run(self.agent, "-C", clone, "add", ".gitmodules")
        git.run(self.agent, "-C", clone, "commit", "-q", "-m", "Add a submodule")
        git.run(self.agent, "-C", clone, "push", "-q", "origin", "main")

        def check(git):
            at_clone = self.clone(git, "outer", outer, "--recurse-submodules")
            later = self.clone(git, "outer", outer)
            git.run(self.agent, "-C", later, "submodule", "--quiet", "update", "--init")
            for path in (at_clone, later):
                expect((path / "inner" / "README").read_text() == "inner.git\n", "the submodule is not there")

        Git.each(self.gits, check)

    def case_parallel_clones_take_one_token(self):
        before = self.issued()
        jobs = [(git, ["clone", "-q", self.url, self.dir("many", git)]) for git in self.gits for _ in range(CLONES)]
        failed = [f"{one.args[0]}: {last(one)}" for one in at_once(self.agent, jobs) if one.returncode != 0]
        expect(not failed, f"{len(failed)} of {len(jobs)} failed; one said: {failed[:1]}")
        expect(self.issued() == before, f"{self.issued() - before} more tokens were made")

    def revoke(self):
        """The host takes back a token that was good until now; returns how many were made so far."""
        self.gits[0].run(self.agent, "ls-remote", self.url)
        stale = self.token()
        expect(self.git_host.visits[-1][1] == stale and self.git_host.is_live(stale), "it was not good before")
        self.issuer.revoke("app", stale)
        expect(not self.git_host.is_live(stale), "the host did not take it back")
        return self.issued()

    def expect_healed(self, prepare):
        """After a revocation, `prepare(git)`'s command works; with an old git, the next time."""

        def check(git):
            command = prepare(git)
            before = self.revoke()
            done = git.run(self.agent, *command, check=False)
            if git.heals:
                expect(done.returncode == 0, f"{command[-1]} ended with {done.returncode}: {last(done)}")
                expect(not done.stderr, f"it says: {last(done)}")
            else:
                expect(done.returncode == 128, f"this git cannot heal, and ended with {done.returncode}: {last(done)}")
                git.run(self.agent, *command)
            expect(self.issued() == before + 1, f"{self.issued() - before} tokens were made")
            _, seen, live = self.git_host.visits[-1]
            expect(live and seen == self.token(), "the host saw another token than the helper gives out")

        self.restart()
        Git.each(self.gits, check)

    def case_ls_remote_outlives_a_revoked_token(self):
        self.expect_healed(lambda git: ["ls-remote", "-q", self.url])

    def case_a_fetch_outlives_a_revoked_token(self):
        def prepare(git):
            clone, other = self.clone(git), self.clone(git)
            self.commit(git, other, f"to-fetch-{git.name}")
            git.run(self.agent, "-C", other, "push", "-q", "origin", f"HEAD:to-fetch-{git.name}")
            return ["-C", clone, "fetch", "-q", "origin", f"to-fetch-{git.name}"]

        self.expect_healed(prepare)

    def case_a_clone_outlives_a_revoked_token(self):
        self.expect_healed(lambda git: ["clone", "-q", self.url, self.dir("healed", git)])

    def case_a_push_outlives_a_revoked_token(self):
        def prepare(git):
            clone = self.clone(git)
            self.commit(git, clone, f"pushed-by-{git.name}")
            return ["-C", clone, "push", "-q", "origin", f"HEAD:pushed-by-{git.name}"]

        self.expect_healed(prepare)

    def case_a_clone_outlives_a_token_revoked_on_the_way(self):
        def check(git):
            self.gits[0].run(self.agent, "ls-remote", self.url)
            before, command = self.issued(), ["clone", "-q", self.url]
            self.git_host.after_next = lambda token: self.issuer.revoke("app", token)
            done = git.run(self.agent, *command, self.dir("halfway", git), check=False)
            expect(self.git_host.after_next is None, "nothing was revoked")
            if git.heals:
                expect(done.returncode == 0, f"the clone ended with {done.returncode}: {last(done)}")
            else:
                expect(done.returncode == 128, f"this git cannot heal, and ended with {done.returncode}: {last(done)}")
                git.run(self.agent, *command, self.dir("halfway", git))
            expect(self.issued() == before + 1, f"{self.issued() - before} tokens were made")

        self.restart()
        Git.each(self.gits, check)

    def case_many_at_once_outlive_a_revoked_token(self):
        self.restart()
        healing = [git for git in self.gits if git.heals]
        clones = [self.clone(git) for git in healing]
        before = self.revoke()
        jobs = [(git, ["-C", clone, "fetch", "-q"]) for _ in range(HEALED_CROWD // len(healing)) for git, clone in zip(healing, clones)]
        failed = [f"{one.args[0]}: {last(one)}" for one in at_once(self.agent, jobs) if one.returncode != 0]
        expect(not failed, f"{len(failed)} of {len(jobs)} failed; one said: {failed[:1]}")
        expect(self.issued() == before + 1, f"{self.issued() - before} tokens were made")

    def case_one_hundred_fetches_with_an_expired_token_take_one(self):
        clones = [(git, self.clone(git)) for git in self.gits]
        # The agent comes to hold a token that lives for a moment only.
        stale = self.token()
        self.issuer.lifetime(SHORT)
        try:
            self.agent.ask("erase", protocol="http", host=self.git_host.host, username="x", password=stale)
            short = self.token()
        finally:
            self.issuer.lifetime(LONG)
        expect(short != stale, "the token is the old one")
        time.sleep(UNTIL_EXPIRED)
        expect(not self.git_host.is_live(short), "the token is not over")
        before, visits = self.issued(), len(self.git_host.visits)
        jobs = [(git, ["-C", clone, "fetch", "-q"]) for _ in range(CROWD // len(clones) + 1) for git, clone in clones][:CROWD]
        begun = time.monotonic()
        failed = [f"{one.args[0]}: {last(one)}" for one in at_once(self.agent, jobs) if one.returncode != 0]
        print(f"    {len(jobs)} fetches at once with an expired token: {time.monotonic() - begun:.1f} s", flush=True)
        expect(not failed, f"{len(failed)} of {len(jobs)} failed; one said: {failed[:1]}")
        expect(self.issued() == before + 1, f"{self.issued() - before} tokens were made")
        seen = {password for _, password, _ in self.git_host.visits[visits:]}
        expect(seen == {self.token()}, f"the host saw {len(seen)} tokens")

    def case_git_lfs_uploads_and_downloads(self):
        url = self.git_host.new_repository("lfs.git")

        def check(git):
            content = f"large, by {git.name}\n" * 1000
            one = self.clone(git, "lfs", url)
            git.run(self.agent, "-C", one, "lfs", "install", "--local")
            git.run(self.agent, "-C", one, "lfs", "track", "*.bin")
            held = len(self.lfs.objects)
            self.commit(git, one, f"{git.name}.bin", content)
            git.run(self.agent, "-C", one, "push", "-q", "origin", "main")
            expect(len(self.lfs.objects) == held + 1, f"{len(self.lfs.objects) - held} objects arrived")
            expect(content.encode() in self.lfs.objects.values(), "another object arrived")
            other = self.clone(git, "lfs", url, "--no-checkout")
            git.run(self.agent, "-C", other, "lfs", "install", "--local")
            git.run(self.agent, "-C", other, "checkout", "-q", "main")
            expect((other / f"{git.name}.bin").read_text() == content, "the file has something else in it")

        Git.each(self.gits, check)
        expect(all(live for *_, live in self.git_host.visits[-1:]), "the host saw no live token")

    def case_git_lfs_goes_on_after_a_revoked_token(self):
        self.restart()
        url = f"http://{self.git_host.host}/lfs.git"

        def check(git):
            clone = self.clone(git, "lfs", url, "--no-checkout")
            git.run(self.agent, "-C", clone, "lfs", "install", "--local", "--skip-smudge")
            git.run(self.agent, "-C", clone, "checkout", "-q", "main")
            before = self.revoke()
            # It is its own client of the host: it rejects what was refused and asks once more, whatever git can do.
            git.run(self.agent, "-C", clone, "lfs", "pull")
            expect(self.issued() == before + 1, f"{self.issued() - before} tokens were made")
            expect((clone / f"{git.name}.bin").read_text().startswith("large"), "the file is still a pointer")

        Git.each(self.gits, check)

    def ask_git(self, git, action, text):
        """`git credential` as a script uses it: what it answers."""
        out = git.run(self.agent, "credential", action, given=text.encode()).stdout.decode()
        return [line.split("=", 1) for line in out.splitlines() if line]

    def case_scripts_fill_approve_and_reject(self):
        self.restart()
        place = f"protocol=http\nhost={self.git_host.host}\n"

        def check(git):
            filled = self.ask_git(git, "fill", place)
            answer = dict(filled)
            expect({"username", "password"} <= set(answer), f"the answer has {sorted(answer)}")
            expect(self.git_host.is_live(answer["password"]), "the token is not live")
            whole = "".join(f"{name}={value}\n" for name, value in filled)
            before = self.issued()
            self.ask_git(git, "approve", whole)
            self.ask_git(git, "reject", whole.replace(answer["password"], "not-that-one"))
            expect(dict(self.ask_git(git, "fill", place))["password"] == answer["password"], "the token is another one")
            self.ask_git(git, "reject", whole)
            fresh = dict(self.ask_git(git, "fill", place))["password"]
            expect(fresh != answer["password"] and self.git_host.is_live(fresh), "the token that was rejected is given out again")
            expect(self.issued() == before + 1, f"{self.issued() - before} tokens were made")
            self.ask_git(git, "approve", f"{place}username={answer['username']}\npassword={fresh}\n")

        Git.each(self.gits, check)

    def case_scripts_that_bring_the_state_back_get_another_token(self):
        self.restart()
        place = f"protocol=http\nhost={self.git_host.host}\n"

        def check(git):
            if not git.heals:
                return
            able = "capability[]=authtype\ncapability[]=state\n"
            before = self.revoke()
            filled = self.ask_git(git, "fill", able + place)
            kept = [value for name, value in filled if name == "state[]"]
            expect(len(kept) == 1 and kept[0].startswith("scm-agent:"), f"the answer has {[name for name, _ in filled]}")
            expect(["continue", "1"] in filled, "the answer is final")
            again = self.ask_git(git, "fill", f"{able}state[]={kept[0]}\n{place}")
            expect(dict(again)["password"] != dict(filled)["password"], "the same token again")
            expect("continue" not in dict(again), "the second answer is not final")
            expect(self.git_host.is_live(dict(again)["password"]) and self.issued() == before + 1, "no new token, or several")

        Git.each(self.gits, check)
