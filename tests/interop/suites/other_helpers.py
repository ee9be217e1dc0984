"""The app that `oauth-app` gives, in other people's credential helpers, which complete a login of their own with it; and git with
nothing but `GIT_ASKPASS`."""

import contextlib
import http.client
import http.server
import os
import pathlib
import sys
import threading

from agent import Agent, Key
from git_host import GitHost
from harness import Suite, expect
from parts import ControlPlane, Issuer

APP = "helpers-app"
SERVICE_APP = "askpass-app"
SCOPES = '["openid", "offline_access", "repository"]'
PERSON = "carol"

MORE = """
[[provider]]
host = "{host}"
grant = "user"
scopes = {scopes}

[[access]]
users = ["{uid}"]
allow = ["service", "own", "app-secret"]
"""

# What a helper takes for the desktop's way to open a page. It returns at once: one helper takes no answer before it has ended.
XDG_OPEN = """\
#!/bin/sh
'{python}' -B - "$1" >>'{log}' 2>&1 <<'END' &
import sys
sys.path.insert(0, {here!r})
from browser import Browser
print("opened", sys.argv[1].split("?")[0])
page = Browser({person!r}).decide(sys.argv[1])
print("ended with", page.status)
END
"""


class Relay(http.server.BaseHTTPRequestHandler):
    """Passes a request on: for a repository to the git host, else to the issuer."""

    def relay(self):
        one = self.server.one_origin
        target = one.git_host if ".git/" in self.path else one.issuer
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        dropped = {"connection", "transfer-encoding", "keep-alive"}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
        headers |= {"X-Forwarded-Proto": "http", "X-Forwarded-Host": one.host, "Connection": "close"}
        with contextlib.closing(http.client.HTTPConnection(target, timeout=30)) as connection:
            connection.request(self.command, self.path, body, headers)
            reply = connection.getresponse()
            answer = reply.read()
        self.send_response(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in dropped | {"content-length", "date", "server"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = relay

    def log_message(self, *_):
        """Silent: the default handler prints each request to the terminal."""


class OneOrigin:
    """A git host and its issuer at one address, as most of them are. Both are told to it when they are there."""

    def __init__(self):
        self.issuer = self.git_host = None
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Relay)
        self.server.one_origin = self
        self.host = f"127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class OtherHelpers(Suite):
    """What the suites below share: a host whose users sign in, an app for that, and a person with a browser and a home."""

    # Whether the issuer is at the git host's own address.
    one_origin = False
    parts = frozenset({"venv", "issuer", "nginx", "fcgiwrap", "openssl", "binaries", "login"})

    def setup(self):
        world, enter = self.world, self.stack.enter_context
        key = Key(world, "helpers")
        front = enter(OneOrigin()) if self.one_origin else None
        self.issuer = enter(Issuer(world, apps=[], user_apps=[APP], public_url=front and f"http://{front.host}"))
        self.git_host = enter(GitHost(world, self.issuer.url, self.issuer.resource_server))
        self.other_host = enter(GitHost(world, self.issuer.url, self.issuer.resource_server))
        self.url = self.git_host.new_repository("helpers.git")
        self.other_url = self.other_host.new_repository("other.git")
        plane = enter(ControlPlane(world, key.registered))
        self.host, self.issuer_url = self.git_host.host, self.issuer.url
        if front:
            front.git_host, front.issuer = self.git_host.host, self.issuer.url.removeprefix("http://")
            self.host, self.issuer_url = front.host, f"http://{front.host}"
            self.url = self.url.replace(self.git_host.host, front.host)
        row = plane.integration(self.host, APP, key.seal(self.issuer.apps[APP]), self.issuer_url)
        plane.start(row)
        more = MORE.format(host=self.host, scopes=SCOPES, uid=os.geteuid())
        self.agent = enter(Agent(world, plane, key, more=more))
        self.agent.wait_secrets(row["id"])
        self.tools = world.dir("tools")
        self.opened = self.tools / "opened"
        browser = self.tools / "xdg-open"
        here = str(pathlib.Path(__file__).parent.parent)
        browser.write_text(XDG_OPEN.format(python=sys.executable, log=self.opened, here=here, person=PERSON))
        browser.chmod(0o755)

    def app(self, form):
        """What `oauth-app` prints, as a shell command."""
        return f"'{self.world.bin_dir}/scm-agent' oauth-app 'http://{self.host}' --format {form} --config '{self.agent.config}'"

    def home(self, name, with_app=True):
        """A person's home in which git knows the helper, and the app where that is wanted."""
        home = self.world.dir(f"home-{name}")
        config = home / ".gitconfig"
        config.touch(mode=0o600)
        config.write_text(self.settings(home))
        if with_app:
            self.world.call(["sh", "-c", f"{self.app('git-config')} >>'{config}'"])
        return home

    def git(self, home, *arguments, before="", check=True):
        """git as that person on a desktop, after a shell did what stands `before`."""
        environment = {
            "HOME": home, "PATH": f"{self.tools}:{self.path()}:{os.environ['PATH']}", "DISPLAY": ":99",
            # No window of Git Credential Manager's own, nor a question of its on the terminal.
            "GCM_GUI_PROMPT": "false", "DOTNET_BUNDLE_EXTRACT_BASE_DIR": home / "bundle",
        }
        pairs = [f"{name}={value}" for name, value in environment.items()]
        self.opened.write_text("")
        return self.world.call(["env", *pairs, "sh", "-c", f'{before}\nexec git "$@"', "git", *arguments], check=check)

    def expect_signed_in(self):
        """The last visit at the host was with a live token that this person had the app get."""
        expect(self.git_host.visits, "the host saw no token")
        username, token, live = self.git_host.visits[-1]
        about = self.issuer.introspect(token)
        expect(live and about["sub"] == PERSON and about["client_id"] == APP, f"the host saw a token of {about}")
        expect(username == self.username, f"the token came with the user name {username}")
        self.world.secrets.add(token)

    def without_the_app(self):
        done = self.git(self.home("plain", with_app=False), "ls-remote", self.url, check=False)
        expect(done.returncode != 0, "it works without the app, so the rest shows nothing")
        expect(self.opened.read_text() == "", f"it opened {self.opened.read_text()}")

    def with_the_section(self):
        home = self.home("section")
        visits = len(self.git_host.visits)
        self.git(home, "clone", "-q", self.url, str(home / "clone"))
        self.expect_signed_in()
        expect(f"opened {self.issuer_url}/auth" in self.opened.read_text(), f"no browser at the issuer: {self.opened.read_text()}")
        expect(len(self.git_host.visits) > visits, "the host saw nobody")

    def with_the_environment(self):
        home = self.home("environment", with_app=False)
        before = f'eval "$({self.app("env")})" || exit 1'
        self.git(home, "ls-remote", self.url, before=before)
        self.expect_signed_in()

    def with_another_host(self):
        """The app is of no use to any other host."""
        home = self.home("other", with_app=False)
        before = f'eval "$({self.app("env")})" || exit 1'
        done = self.git(home, "ls-remote", self.other_url, before=before, check=False)
        expect(done.returncode != 0, "another host got something")
        expect(self.other_host.visits == [] and self.opened.read_text() == "", f"a login for another host: {self.opened.read_text()}")

    def with_a_wrong_secret(self):
        """That the secret counts: with another one the issuer gives nothing."""
        home = self.home("wrong")
        config = home / ".gitconfig"
        name = f"credential.http://{self.host}.oauthClientSecret"
        self.world.call(["git", "config", "-f", config, name, "another secret altogether"])
        done = self.git(home, "ls-remote", self.url, check=False)
        expect(done.returncode != 0 and b"invalid_client" in done.stderr, f"git ended with {done.returncode}: {done.stderr.decode()}")


class GitCredentialManager(OtherHelpers):
    needs = OtherHelpers.parts | {"git-credential-manager"}
    # The default of its "generic" provider comes from us.
    username = "oauth2"

    def path(self):
        return self.world.gcm.parent

    def settings(self, home):
        return f'[credential]\n\thelper = "{self.world.gcm}"\n\tcredentialStore = plaintext\n\tplaintextStorePath = "{home}/store"\n'

    def case_does_nothing_without_the_app(self):
        self.without_the_app()

    def case_signs_in_with_the_git_configuration_and_clones(self):
        self.with_the_section()

    def case_signs_in_with_the_environment(self):
        self.with_the_environment()

    def case_does_not_use_it_for_another_host(self):
        self.with_another_host()

    def case_shows_the_secret(self):
        self.with_a_wrong_secret()

    def case_renews_what_it_got_by_itself(self):
        """The refresh token is bound to the app, so this takes its secret once more."""
        home = self.home("renewal")
        self.git(home, "ls-remote", self.url)
        self.expect_signed_in()
        first = self.git_host.visits[-1][1]
        self.issuer.end(first)
        # It is told that the token is bad, and has another with the next command.
        self.git(home, "ls-remote", self.url, check=False)
        self.git(home, "ls-remote", self.url)
        self.expect_signed_in()
        expect(self.git_host.visits[-1][1] != first, "the dead token was used again")
        expect(self.opened.read_text() == "", "it asked the person once more")


class GitCredentialOAuth(OtherHelpers):
    needs = OtherHelpers.parts | {"git-credential-oauth"}
    one_origin = True
    username = "oauth2"

    def path(self):
        return self.world.gco.parent

    def settings(self, home):
        return "[credential]\n\thelper = oauth\n"

    def case_does_nothing_without_the_app(self):
        self.without_the_app()

    def case_signs_in_with_the_git_configuration_and_clones(self):
        self.with_the_section()

    def case_signs_in_with_the_environment(self):
        self.with_the_environment()

    def case_does_not_use_it_for_another_host(self):
        self.with_another_host()

    def case_shows_the_secret(self):
        self.with_a_wrong_secret()


class GitCredentialOAuthElsewhere(GitCredentialOAuth):
    """Where the issuer has an address of its own, which the settings then have to name in full."""

    one_origin = False

    def case_signs_in_with_the_git_configuration_and_clones(self):
        self.with_the_section()


class Askpass(Suite):
    """git that is told of our helper as `GIT_ASKPASS` and in no other way."""

    needs = frozenset({"venv", "issuer", "nginx", "fcgiwrap", "openssl", "binaries"})

    def setup(self):
        world, enter = self.world, self.stack.enter_context
        key = Key(world, "askpass")
        issuer = enter(Issuer(world, apps=[SERVICE_APP]))
        self.git_host = enter(GitHost(world, issuer.url, issuer.resource_server))
        self.url = self.git_host.new_repository("askpass.git")
        plane = enter(ControlPlane(world, key.registered))
        row = plane.integration(self.git_host.host, SERVICE_APP, key.seal(issuer.apps[SERVICE_APP]), issuer.url)
        plane.start(row)
        self.agent = enter(Agent(world, plane, key))
        self.agent.wait_secrets(row["id"])

    def git(self, *arguments):
        environment = [f"GIT_ASKPASS={self.world.helper}", f"SCM_AGENT__AGENT__SOCKET={self.agent.socket}"]
        user = ["-c", "credential.helper=", "-c", "user.name=dev", "-c", "user.email=dev@example.test"]
        return self.world.call(["env", *environment, "git", *user, *arguments])

    def case_git_clones_and_pushes(self):
        clone = self.world.scratch / "askpass-clone"
        self.git("clone", "-q", self.url, str(clone))
        username, _, live = self.git_host.visits[-1]
        expect(live and username == "oauth2", f"the host saw {username}")
        self.git("-C", str(clone), "commit", "-q", "--allow-empty", "-m", "Change")
        self.git("-C", str(clone), "push", "-q", "origin", "main")
        expect(self.git_host.commits("askpass.git") == 2, "the commit did not arrive")

    def case_the_user_name_may_stand_in_the_url(self):
        self.git("ls-remote", self.url.replace("://", "://oauth2@"))
