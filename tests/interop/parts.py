"""The vendor's control plane and the OAuth issuer, as the suites use them."""

import base64
import json
import pathlib
import secrets
import socket
import uuid

from git_host import post_form
from harness import Part

HERE = pathlib.Path(__file__).parent
RESOURCE_SERVER = "git-host"


def new_secret():
    """A client secret with every character that form and Basic encoding treat specially."""
    return f"{secrets.token_hex(12)}+%/=:& ~'\"\\{secrets.token_hex(12)}"


class Issuer(Part):
    """oidc-provider with one OAuth app per given client id, and the git host as the one who may introspect.

    `apps` are client ids, or client ids with their secrets where another issuer has the same.
    """

    def __init__(self, world, apps=("app",), token_lifetime=600, public_url=None):
        self.apps = dict(apps) if isinstance(apps, dict) else {app: new_secret() for app in apps}
        self.resource_server = (RESOURCE_SERVER, secrets.token_hex(16))
        world.secrets.update(self.apps.values())
        clients = [{"client_id": app, "client_secret": secret, "grant": True} for app, secret in self.apps.items()]
        clients.append({"client_id": self.resource_server[0], "client_secret": self.resource_server[1], "grant": False})
        settings = {"clients": clients, "resource_server": RESOURCE_SERVER, "token_lifetime": token_lifetime}
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
