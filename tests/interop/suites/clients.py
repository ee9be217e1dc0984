"""Callers that are not git: libgit2, dulwich, gitoxide, and cargo, each as it comes to a credential."""

import json
import os
import pathlib

from agent import Agent, Key
from git_host import GitHost
from gits import Git, configuration, last
from harness import Failed, Suite, expect
from parts import HERE, ControlPlane, Issuer

MANIFEST = """\
[package]
name = "{name}"
version = "0.1.0"
edition = "2021"

[dependencies]
{dependencies}
"""


class Clients(Suite):
    needs = frozenset({"venv", "issuer", "nginx", "fcgiwrap", "openssl", "binaries", "callers", "gitoxide", "cargo", "gits"})

    def setup(self):
        world, enter = self.world, self.stack.enter_context
        key = self.key = Key(world, "clients")
        self.issuer = enter(Issuer(world, apps=["app", "second"]))
        self.git_host = enter(GitHost(world, self.issuer.url, self.issuer.resource_server))
        self.host = self.git_host.host
        plane = self.plane = enter(ControlPlane(world, key.registered)).start()
        row = plane.integration(self.host, "app", key.seal(self.issuer.apps["app"]), self.issuer.url)
        # For callers that ask with a name only, and not with an address.
        self.named = f"localhost:{self.host.rpartition(':')[2]}"
        named = plane.integration(self.named, "second", key.seal(self.issuer.apps["second"]), self.issuer.url)
        plane.put(row, named)
        self.agent = enter(Agent(world, plane, key))
        self.rows = [row["id"], named["id"]]
        self.agent.wait_secrets(*self.rows)
        self.config = configuration(self.agent)
        self.gits = Git.all(world)
        self.git = self.gits[-1]

    def restart(self):
        """A daemon that has seen no token refused: too many in a row are taken for a fault of the host's, and not replaced."""
        self.agent.quit()
        self.agent = self.stack.enter_context(Agent(self.world, self.plane, self.key, directory=self.agent.dir))
        self.agent.wait_secrets(*self.rows)

    def token(self):
        return self.agent.password(self.host, "http")

    def issued(self):
        return self.issuer.issued("app")

    def revoke(self):
        stale = self.token()
        self.issuer.revoke("app", stale)
        expect(not self.git_host.is_live(stale), "the host did not take it back")
        return self.issued()

    def expect_last_visit(self):
        """Whoever came last to the host brought the token that the helper gives out."""
        _, password, live = self.git_host.visits[-1]
        expect(live and password == self.token(), "the host saw another token than the helper gives out")

    def call(self, argv, check=True, more=None, git=None, **options):
        """Runs a caller with the configuration of before; it finds `git` where it looks for it."""
        environment = {**(git or self.git).environment(self.config), **(more or {})}
        done = self.world.call(argv, check=False, environment=environment, **options)
        self.agent.seen.append(done.stderr.decode(errors="replace"))
        if check and done.returncode != 0:
            raise Failed(f"{pathlib.Path(argv[0]).name} ended with {done.returncode}: {last(done)}")
        return done

    def python(self, tool, action, *arguments, git=None):
        done = self.call([self.world.callers_python, "-B", HERE / "callers.py", tool, action, *arguments], git=git)
        return json.loads(done.stdout)

    def expect_library_works(self, tool):
        """A library clones, fetches and pushes with what `git credential fill` says, with each git, and gets over a revoked token."""
        self.restart()
        name = f"{tool}.git"
        url, commits = self.git_host.new_repository(name), 1
        for git in self.gits:
            clone = self.world.dir(tool) / git.name
            said = self.python(tool, "clone", url, clone, git=git)
            expect((clone / "README").read_text() == f"{name}\n", "the clone has something else in it")
            self.expect_last_visit()
            (clone / git.name).write_text("pushed\n")
            git.run(self.agent, "-C", clone, "add", "-A")
            git.run(self.agent, "-C", clone, "commit", "-q", "-m", "Change")
            self.python(tool, "push", clone, git=git)
            commits += 1
            expect(self.git_host.commits(name) == commits, "the commit did not arrive")
            before = self.revoke()
            fetched = self.python(tool, "fetch", clone, git=git)
            expect(fetched["asked"] == 2, f"it asked {fetched['asked']} times")
            expect(self.issued() == before + 1, f"{self.issued() - before} tokens were made")
            self.expect_last_visit()
        print(f"    {said['version']}", flush=True)

    def case_libgit2_clones_pushes_and_fetches(self):
        self.expect_library_works("libgit2")

    def case_dulwich_clones_pushes_and_fetches(self):
        self.expect_library_works("dulwich")

    def gitoxide(self, url, *verdict, check=True):
        helper = f"{self.world.helper} --socket {self.agent.socket}"
        done = self.call([self.world.gitoxide, helper, url, *verdict], check=check)
        return dict(line.split("=", 1) for line in done.stdout.decode().splitlines() if "=" in line), done

    def case_gitoxide_asks_stores_and_erases(self):
        self.restart()
        url = f"http://{self.host}/any.git"
        locked = (HERE / "gix" / "Cargo.lock").read_text().split('name = "gix-credentials"\nversion = "')[1].split('"')[0]
        print(f"    gix-credentials {locked}", flush=True)
        first, _ = self.gitoxide(url, "store")
        expect(first["password"] == self.token() and self.git_host.is_live(first["password"]), "another token than the helper gives out")
        before = self.issued()
        again, _ = self.gitoxide(url, "erase")
        expect(again == first and self.issued() == before, "`store` changed something")
        fresh, _ = self.gitoxide(url, "store")
        expect(fresh["password"] != first["password"] and self.issued() == before + 1, "`erase` changed nothing")

    def case_gitoxide_gets_nothing_for_others_hosts(self):
        before = len(self.agent.log.read_text())
        for url in (f"https://{self.host}.example.test/any.git", "https://elsewhere.example.test/any.git"):
            answer, done = self.gitoxide(url, check=False)
            expect("password" not in answer and done.returncode != 0, f"an answer for {url}")
        expect("panic" not in self.agent.log.read_text()[before:], "the daemon is in trouble")

    def rustup_home(self):
        """Where `cargo` is rustup's, it has to find the toolchain."""
        return os.environ.get("RUSTUP_HOME") or str(pathlib.Path.home() / ".rustup")

    def cargo(self, package, with_git, git, check=True):
        """`cargo fetch` of a package whose one dependency is on the host; it has no registry to ask."""
        # libgit2 knows of no variable that names a user's configuration.
        user = self.world.dir("user")
        (user / ".gitconfig").write_text(self.config.read_text())
        more = {
            "HOME": str(user),
            "CARGO_HOME": str(self.world.dir("cargo")),
            "CARGO_NET_GIT_FETCH_WITH_CLI": str(with_git).lower(),
            "CARGO_TERM_COLOR": "never",
            "RUSTUP_HOME": self.rustup_home(),
        }
        (package / "Cargo.lock").unlink(missing_ok=True)
        return self.call(["cargo", "fetch", "--manifest-path", package / "Cargo.toml"], more=more, git=git, check=check, cwd=package)

    def new_package(self, name, dependencies=""):
        package = self.world.dir(name)
        (package / "src").mkdir()
        (package / "src" / "lib.rs").write_text("")
        (package / "Cargo.toml").write_text(MANIFEST.format(name=name, dependencies=dependencies))
        return package

    def case_cargo_fetches_a_private_dependency(self):
        self.restart()
        url = self.git_host.new_repository("private.git")
        private = self.new_package("private")
        for arguments in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "Begin"], ["push", "-q", "-f", url, "main"]):
            self.git.run(self.agent, "-C", private, *arguments)
        package = self.new_package("public", f'private = {{ git = "{url}" }}')
        version = self.call(["cargo", "--version"], more={"RUSTUP_HOME": self.rustup_home()}).stdout.decode().strip()
        print(f"    {version}", flush=True)
        for git in self.gits:
            visits = len(self.git_host.visits)
            self.cargo(package, True, git)
            expect(len(self.git_host.visits) > visits, "it did not come to the host")
            self.expect_last_visit()
            before = self.revoke()
            done = self.cargo(package, True, git, check=False)
            if git.heals:
                expect(done.returncode == 0, f"with git {git.name} and a revoked token: {last(done)}")
            else:
                self.cargo(package, True, git)
            expect(self.issued() == before + 1, f"{self.issued() - before} tokens were made")
            self.expect_last_visit()

    def case_cargo_by_itself_fetches_a_private_dependency(self):
        # Its own libgit2 asks helpers without git.
        package = self.new_package("public", f'private = {{ git = "http://{self.named}/private.git" }}')
        visits = len(self.git_host.visits)
        self.cargo(package, False, self.git)
        expect(len(self.git_host.visits) > visits, "it did not come to the host")
        _, password, live = self.git_host.visits[-1]
        expect(live and password == self.agent.password(self.named, "http"), "the host saw another token than the helper gives out")
