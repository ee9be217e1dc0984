"""The vendor's control plane and the OAuth issuer, as the suites use them."""

import base64
import contextlib
import json
import pathlib
import secrets
import socket
import uuid

from git_host import post_form
from harness import Part, expect

HERE = pathlib.Path(__file__).parent
RESOURCE_SERVER = "git-host"
# Of the apps that users sign in to; an authorization server lets the port be any (RFC 8252 section 7.3).
REDIRECT_URIS = ["http://127.0.0.1/callback", "http://127.0.0.1/", "http://127.0.0.1"]


def new_secret():
    """A client secret with every character that form and Basic encoding treat specially."""
    return f"{secrets.token_hex(12)}+%/=:& ~'\"\\{secrets.token_hex(12)}"


class Issuer(Part):
    """oidc-provider with one OAuth app per given client id, and the git host as the one who may introspect.

    `apps` are client ids, or client ids with their secrets where another issuer has the same. Users sign in to `user_apps`, on
    the issuer's own pages.
    """

    def __init__(self, world, apps=("app",), token_lifetime=600, public_url=None, user_apps=()):
        self.apps = dict(apps) if isinstance(apps, dict) else {app: new_secret() for app in apps}
        self.apps |= {app: new_secret() for app in user_apps}
        self.resource_server = (RESOURCE_SERVER, secrets.token_hex(16))
        world.secrets.update(self.apps.values())
        rows = [(app, secret, "user" if app in user_apps else "service") for app, secret in self.apps.items()]
        rows.append((*self.resource_server, "none"))
        clients = [{"client_id": app, "client_secret": secret, "grant": grant} for app, secret, grant in rows]
        settings = {"clients": clients, "resource_server": RESOURCE_SERVER, "token_lifetime": token_lifetime}
        settings["redirect_uris"] = REDIRECT_URIS
        if public_url is not None:
            settings["public_url"] = public_url
        super().__init__("issuer", [world.node, HERE / "issuer" / "issuer.mjs", world.parts_dir / "issuer"], settings, world)
        self.world = world
        self.url = self.ready["url"]

    def client(self, app):
        return app, self.apps[app]

    def mint(self, app):
        """A token by the client credentials grant, as anybody else would get one."""
        reply = post_form(f"{self.url}/token", self.client(app), {"grant_type": "client_credentials"})
        return json.loads(reply)["access_token"]

    def revoke(self, app, token):
        """RFC 7009: the token is dead at once."""
        post_form(f"{self.url}/token/revocation", self.client(app), {"token": token})

    def rotate(self, app):
        """Gives the app a new secret; the old one is refused from now on."""
        self.apps[app] = new_secret()
        self.world.secrets.add(self.apps[app])
        self.ask({"do": "secret", "client": app, "secret": self.apps[app]})
        return self.apps[app]

    def stats(self):
        return self.ask({"do": "stats"})

    def issued(self, app):
        """How many tokens this app has been given."""
        return self.stats()["by_client"].get(app, 0)

    def token_requests(self):
        return self.stats()["token"]

    def people(self):
        """What it saw of users' grants."""
        return self.ask({"do": "people"})

    def lifetime(self, seconds):
        """How long tokens live that are issued from now on."""
        self.ask({"do": "lifetime", "seconds": seconds})

    def device(self, interval=1, lifetime=600):
        """How often a device may ask, and for how long, from the next login on."""
        self.ask({"do": "device", "interval": interval, "lifetime": lifetime})

    def delay(self, before=0.0, after=0.0):
        """How many seconds token requests wait to be looked at, and their answers to be sent."""
        self.ask({"do": "delay", "before": before * 1000, "after": after * 1000})

    @contextlib.contextmanager
    def slow(self, **seconds):
        """`delay` for the length of a block."""
        self.delay(**seconds)
        try:
            yield
        finally:
            self.delay()

    def expire(self, user_code):
        expect(self.ask({"do": "expire", "user_code": user_code})["expired"], "the issuer has no such user code")

    def end(self, token):
        """Ends an access token before its time; its grant goes on."""
        self.ask({"do": "end", "token": token})

    def kill(self, user):
        """Ends all grants of a user, as that user may on any host's settings page."""
        expect(self.ask({"do": "kill", "user": user})["killed"], f"{user} has no grant")

    def grants_of(self, user):
        """The access and refresh tokens that each grant of a user's ever had, oldest grant first."""
        grants = self.ask({"do": "grants", "user": user})["grants"]
        return [set(grant["access"] + grant["refresh"]) for grant in grants]

    def introspect(self, token):
        """RFC 7662: what the issuer says of a token."""
        return json.loads(post_form(f"{self.url}/token/introspection", self.resource_server, {"token": token}))

    def stop(self):
        try:
            if self.child.poll() is None and self.ready is not None:
                self.world.secrets.update(self.ask({"do": "tokens"})["tokens"])
        finally:
            super().stop()


class ControlPlane:
    """The vendor's services on a port that is known, and refuses, before `start` and after `stop`."""

    def __init__(self, world, public_key=b""):
        self.world = world
        self.token = secrets.token_urlsafe(24)
        self.runner_id = str(uuid.uuid4())
        self.public_key = public_key
        self.socket = self.bind(0)
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.part = None
        world.secrets.add(self.token)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.part is not None:
            self.part.stop()
        self.socket.close()

    @staticmethod
    def bind(port):
        """A socket that holds the port and refuses, since nobody listens on it."""
        held = socket.socket()
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", port))
        return held

    def start(self, *integrations):
        """Starts the services with these integrations and no other."""
        settings = {
            "token": self.token,
            "runner_id": self.runner_id,
            "public_key": base64.b64encode(self.public_key).decode(),
            "integrations": list(integrations),
        }
        descriptor = self.socket.fileno()
        argv = [self.world.python, HERE / "control_plane.py", descriptor]
        self.part = Part("control-plane", argv, settings, self.world, pass_fds=[descriptor])
        return self

    def stop(self):
        """Stops the services; the port refuses until the next `start`."""
        self.part.stop()
        self.part = None
        # Our own copy of the socket would go on listening.
        self.socket.close()
        self.socket = self.bind(self.port)

    def integration(self, host, client_id, sealed, issuer_url="", scm_id="custom-git", **more):
        """An SCMIntegration as proto3 JSON, with a new id."""
        oauth = {"clientId": client_id, "encryptedClientSecret": sealed, "issuerUrl": issuer_url}
        return {"id": str(uuid.uuid4()), "runnerId": self.runner_id, "scmId": scm_id, "host": host, "oauth": oauth, **more}

    def put(self, *integrations):
        self.part.ask({"do": "put", "integrations": list(integrations)})

    def remove(self, *ids):
        self.part.ask({"do": "remove", "ids": list(ids)})

    def churn(self, every, integration):
        """From now on gives that integration another host every so many seconds."""
        self.part.ask({"do": "churn", "every": every, "integration": integration})

    def watch(self, mode):
        """What WatchEvents does from now on: `on`, `silent`, `missing`, or the code of the error that it ends with."""
        self.part.ask({"do": "watch", "mode": mode})

    def headers_at_once(self, at_once):
        """Whether streams send their headers before there is an event to tell."""
        self.part.ask({"do": "headers", "at_once": at_once})

    def kill_streams(self):
        """Cuts every open stream; returns how many there were."""
        return self.part.ask({"do": "kill"})["killed"]

    def flood(self, events, seconds):
        self.part.ask({"do": "flood", "events": events, "seconds": seconds})

    def fail(self, how, times, retry_after=None):
        self.part.ask({"do": "fail", "with": how, "times": times, "retry_after": retry_after})

    def accept_only(self, token):
        self.part.ask({"do": "token", "token": token})
        self.token = token
        self.world.secrets.add(token)

    def stats(self):
        return self.part.ask({"do": "stats"})

    def lists(self):
        """How many times somebody began to read the list."""
        return sum(not one["token"] for one in self.stats()["lists"])
