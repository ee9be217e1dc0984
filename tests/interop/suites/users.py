"""The issuer's half of users' grants, by plain HTTP: what the suite Login says of the daemon rests on this."""

import base64
import hashlib
import http.server
import json
import secrets
import socket
import threading
import urllib.error
import urllib.parse

from browser import Browser
from git_host import post_form
from harness import Suite, expect, wait_until
from parts import Issuer

APP = "users-app"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
SCOPE = "openid repository repository:write"


class Callback:
    """The loopback end of an app: an address to come back to, and what came back."""

    def __init__(self):
        self.queries = []

    def __enter__(self):
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                path, _, query = self.path.partition("?")
                if path == "/callback":
                    owner.queries.append(dict(urllib.parse.parse_qsl(query)))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                """Silent: the default handler prints each request to the terminal."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.uri = f"http://127.0.0.1:{self.server.server_address[1]}/callback"
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class Users(Suite):
    needs = frozenset({"issuer"})

    def setup(self):
        self.issuer = self.stack.enter_context(Issuer(self.world, apps=["service"], user_apps=[APP]))

    def post(self, path, **fields):
        """What the issuer answers to the app, be it good or an error."""
        try:
            return json.loads(post_form(f"{self.issuer.url}{path}", self.issuer.client(APP), fields) or b"{}")
        except urllib.error.HTTPError as refused:
            with refused:
                return json.loads(refused.read())

    def begin(self):
        return self.post("/device/auth", scope=SCOPE)

    def poll(self, begun):
        return self.post("/token", grant_type=DEVICE_GRANT, device_code=begun["device_code"])

    def refresh(self, token):
        return self.post("/token", grant_type="refresh_token", refresh_token=token)

    def sign_in(self, user):
        """A user's tokens by the device grant."""
        begun = self.begin()
        Browser(user).decide(begun["verification_uri_complete"])
        return self.poll(begun)

    def is_live(self, token):
        return self.issuer.introspect(token)["active"]

    def error_of(self, reply, wanted):
        expect(reply.get("error") == wanted, f"instead of {wanted} it says {reply.get('error', 'yes')}")

    def case_an_approved_device_gets_tokens_of_that_user(self):
        begun = self.begin()
        expect(begun["interval"] == 1 and begun["expires_in"] == 600, f"it says {begun['interval']} s, {begun['expires_in']} s")
        self.error_of(self.poll(begun), "authorization_pending")
        page = Browser("alice").decide(begun["verification_uri"], user_code=begun["user_code"])
        expect("Sign-in Success" in page.text, f"the browser ends on {page.url}")
        tokens = self.poll(begun)
        about = self.issuer.introspect(tokens["access_token"])
        expect(about["active"] and about["sub"] == "alice" and about["client_id"] == APP, f"introspection says {sorted(about)}")
        expect(set(tokens["scope"].split()) == set(SCOPE.split()), f"the scope is {tokens['scope']}")
        expect(tokens["access_token"] in self.issuer.grants_of("alice")[-1], "it is not in the record of what was issued")

    def case_a_denied_device_gets_nothing(self):
        begun = self.begin()
        Browser("alice").decide(begun["verification_uri_complete"], yes=False)
        self.error_of(self.poll(begun), "access_denied")

    def case_an_expired_device_code_gets_nothing(self):
        begun = self.begin()
        self.issuer.expire(begun["user_code"])
        self.error_of(self.poll(begun), "expired_token")

    def case_a_hasty_device_is_told_to_slow_down(self):
        begun, before = self.begin(), self.issuer.people()["too_fast"]
        self.error_of(self.poll(begun), "authorization_pending")
        self.error_of(self.poll(begun), "slow_down")
        expect(self.issuer.people()["too_fast"] == before + 1, "it does not count haste")
        begun = self.begin()
        self.issuer.ask({"do": "slow_down", "times": 1})
        self.error_of(self.poll(begun), "slow_down")

    def authorize(self, callback, **parameters):
        """The address to send the browser to."""
        fields = {"client_id": APP, "response_type": "code", "redirect_uri": callback.uri, "scope": SCOPE, "state": "s", **parameters}
        return f"{self.issuer.url}/auth?{urllib.parse.urlencode(fields)}"

    def case_a_code_needs_its_verifier(self):
        verifier = secrets.token_urlsafe(40)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        proof = {"code_challenge": challenge, "code_challenge_method": "S256"}
        with Callback() as callback:
            Browser("bob").decide(self.authorize(callback))
            self.error_of(callback.queries.pop(), "invalid_request")
            for given, wanted in [("another" * 8, "invalid_grant"), (verifier, None)]:
                Browser("bob").decide(self.authorize(callback, **proof))
                back = callback.queries.pop()
                expect(back["state"] == "s" and back["iss"] == self.issuer.url, f"it came back with {sorted(back)}")
                fields = {"grant_type": "authorization_code", "code": back["code"], "redirect_uri": callback.uri}
                reply = self.post("/token", **fields, code_verifier=given)
                if wanted:
                    self.error_of(reply, wanted)
                else:
                    expect(self.issuer.introspect(reply["access_token"])["sub"] == "bob", "not bob's token")
                    expect("refresh_token" in reply, "no refresh token")
        kinds = self.issuer.ask({"do": "kinds"})
        expect(verifier in kinds["code_verifier"] and back["code"] in kinds["code"], "the record lacks the verifier or the code")

    def case_a_person_may_say_no_in_the_browser(self):
        proof = {"code_challenge": "x" * 43, "code_challenge_method": "S256"}
        with Callback() as callback:
            Browser("bob").decide(self.authorize(callback, **proof), yes=False)
            self.error_of(callback.queries.pop(), "access_denied")

    def case_a_refresh_token_serves_once(self):
        first, before = self.sign_in("carol"), self.issuer.people()
        second = self.refresh(first["refresh_token"])
        expect(second["refresh_token"] != first["refresh_token"], "it is not rotated")
        third = self.refresh(second["refresh_token"])
        after = self.issuer.people()
        changes = {name: after[name] - before[name] for name in ("refreshes", "rotations", "replays", "refused")}
        expect(changes == {"refreshes": 2, "rotations": 2, "replays": 0, "refused": 0}, f"counted: {changes}")
        self.error_of(self.refresh(first["refresh_token"]), "invalid_grant")
        expect(self.issuer.people()["replays"] == before["replays"] + 1, "the replay is not counted")
        expect(not self.is_live(third["access_token"]), "the grant outlives a replay")
        self.error_of(self.refresh(third["refresh_token"]), "invalid_grant")
        expect(self.issuer.people()["refused"] == before["refused"] + 1, "what was refused is not counted")

    def case_a_refresh_may_end_the_access_tokens_of_before(self):
        first = self.sign_in("hanna")
        second = self.refresh(first["refresh_token"])
        expect(self.is_live(first["access_token"]), "the first access token is dead")
        self.issuer.ask({"do": "rotation", "destructive": True})
        third = self.refresh(second["refresh_token"])
        self.issuer.ask({"do": "rotation", "destructive": False})
        live = [self.is_live(tokens["access_token"]) for tokens in (first, second, third)]
        expect(live == [False, False, True], f"which are live: {live}")

    def case_a_token_that_ends_early_leaves_its_grant(self):
        first = self.sign_in("ida")
        self.issuer.end(first["access_token"])
        expect(not self.is_live(first["access_token"]), "the token is still live")
        expect(self.is_live(self.refresh(first["refresh_token"])["access_token"]), "the grant is dead, too")

    def case_revoking_a_refresh_token_ends_the_grant(self):
        tokens = self.sign_in("dora")
        self.post("/token/revocation", token=tokens["refresh_token"])
        expect(not self.is_live(tokens["access_token"]) and not self.is_live(tokens["refresh_token"]), "a token is still live")

    def case_a_user_may_end_all_grants_of_hers(self):
        mine, others = self.sign_in("erin"), self.sign_in("frank")
        self.issuer.kill("erin")
        expect(not self.is_live(mine["access_token"]), "the token is still live")
        self.error_of(self.refresh(mine["refresh_token"]), "invalid_grant")
        expect(self.is_live(others["access_token"]), "another user's token is dead")

    def case_a_client_that_goes_away_early_has_used_nothing(self):
        token = self.sign_in("gina")["refresh_token"]
        before = self.issuer.people()
        self.issuer.delay(before=0.5)
        self.leave_early(token)
        wait_until(lambda: self.issuer.people()["abandoned"] == before["abandoned"] + 1, "the request is not seen as abandoned")
        expect(self.issuer.people()["rotations"] == before["rotations"], "the token is used up")
        self.issuer.delay(after=0.5)
        self.leave_early(token)
        wait_until(lambda: self.issuer.people()["rotations"] == before["rotations"] + 1, "the request is not looked at")
        self.issuer.delay()
        wait_until(lambda: self.issuer.people()["in_flight"] == 0, "it is still at it")
        self.error_of(self.refresh(token), "invalid_grant")
        expect(self.issuer.people()["replays"] == before["replays"] + 1, "the replay is not counted")

    def leave_early(self, token):
        """Sends a refresh and does not wait for the answer."""
        app, secret = (urllib.parse.quote_plus(part) for part in self.issuer.client(APP))
        pair = base64.b64encode(f"{app}:{secret}".encode()).decode()
        body = urllib.parse.urlencode({"grant_type": "refresh_token", "refresh_token": token})
        address = urllib.parse.urlsplit(self.issuer.url)
        headers = [f"Host: {address.netloc}", f"Authorization: Basic {pair}", f"Content-Length: {len(body)}"]
        headers.append("Content-Type: application/x-www-form-urlencoded")
        arrived = self.issuer.token_requests()
        with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
            connection.sendall("\r\n".join(["POST /token HTTP/1.1", *headers, "", body]).encode())
            wait_until(lambda: self.issuer.token_requests() == arrived + 1, "the request does not arrive")

    def case_every_kind_is_in_the_record(self):
        kinds = self.issuer.ask({"do": "kinds"})
        expect(all(kinds.values()), f"nothing recorded of {[name for name, values in kinds.items() if not values]}")
        known = set(self.issuer.ask({"do": "tokens"})["tokens"])
        expect(all(known.issuperset(values) for values in kinds.values()), "the list for the leak search lacks some")
