"""A control plane that aims a trusted secret elsewhere: nothing leaves for there until an operator says so."""

import grp
import os
import pwd
import shutil
import subprocess
import uuid

from agent import Agent, Key
from harness import Suite, expect, wait_until
from parts import ControlPlane, Issuer

# A poll interval of a second, and a machine that others use too.
WITHIN = 30
TRUSTED_HOST = "trusted.example.test"


class Trust(Suite):
    needs = frozenset({"venv", "issuer", "openssl", "binaries"})

    def setup(self):
        world, enter = self.world, self.stack.enter_context
        self.key = Key(world, "trust")
        self.issuer = enter(Issuer(world, apps=["app", "other"]))
        # Two apps with one secret: another client id must not be able to borrow it either.
        self.issuer.apps["other"] = self.issuer.apps["app"]
        self.issuer.ask({"do": "secret", "client": "other", "secret": self.issuer.apps["app"]})
        # The issuer of an attacker who knows what a good one looks like; it counts every byte that it gets.
        self.second = enter(Issuer(world, apps=self.issuer.apps))
        self.plane = enter(ControlPlane(world, self.key.registered)).start()
        self.agent = enter(Agent(world, self.plane, self.key))

    def learn(self, host=TRUSTED_HOST):
        """A new integration with a ciphertext of its own that the daemon has used once."""
        row = self.plane.integration(host, "app", self.key.seal(self.issuer.apps["app"]), self.issuer.url)
        self.plane.put(row)
        self.agent.wait_secrets(row["id"])
        self.agent.password(host)
        return row

    def swap(self, row, oauth=None, **fields):
        """The integration with other fields, as the control plane tells it from now on; its ciphertext stays unless given."""
        swapped = {**row, **fields, "oauth": {**row["oauth"], **(oauth or {})}}
        self.plane.put(swapped)
        return swapped

    def wait_quarantined(self, identifier):
        return self.agent.wait_secrets(identifier, state="quarantined")

    def arrivals(self):
        """What reached the second issuer: connections and bytes."""
        stats = self.second.stats()
        return stats["connections"], stats["bytes"]

    def ask(self, host):
        return self.agent.ask(protocol="https", host=host)

    def renew(self, host):
        """Makes the daemon drop its token, so that the next one is minted; returns that."""
        token = self.agent.password(host)
        self.agent.ask("erase", protocol="https", host=host, username="x", password=token)
        fresh = self.agent.password(host)
        expect(fresh != token, "erase did not drop the token")
        return fresh

    def accept(self, identifier):
        done = self.agent.command("trust", identifier)
        expect(done.returncode == 0, f"trust ended with {done.returncode}: {done.stderr.decode()}")
        self.agent.wait_secrets(identifier)

    def forget(self, row):
        self.plane.remove(row["id"])
        self.agent.wait_for(lambda status: all(one["id"] != row["id"] for one in status["integrations"]), "it is still listed")

    def case_an_issuer_under_an_old_ciphertext_gets_nothing(self):
        self.row = self.learn()
        expect(self.arrivals() == (0, 0), "somebody spoke to the second issuer before")
        self.swap(self.row, {"issuerUrl": self.second.url})
        self.wait_quarantined(self.row["id"])
        issued = self.issuer.issued("app")
        self.agent.password(TRUSTED_HOST)
        self.renew(TRUSTED_HOST)
        expect(self.issuer.issued("app") == issued + 1, "the new token is not from the trusted issuer")
        # Whatever goes on in the background has had its time by then.
        self.agent.wait_for(lambda status: status["sync"]["last_attempt"], "no poll")
        expect(self.agent.command("sync").returncode == 0, "sync fails")
        expect(self.arrivals() == (0, 0), f"the second issuer got (connections, bytes) {self.arrivals()}")

    def case_status_and_doctor_explain_it(self):
        status = self.agent.status()
        named = [line for line in status["degraded"] if self.row["id"] in line]
        expect(named, f"`degraded` does not name it: {status['degraded']}")
        done = self.agent.command("doctor")
        lines = [line for line in (done.stdout + done.stderr).decode().splitlines() if f"scm-agent trust {self.row['id']}" in line]
        expect(done.returncode == 1, f"doctor ended with {done.returncode}")
        expect(lines, f"doctor does not name the command: {done.stdout.decode()}")
        expect(self.arrivals() == (0, 0), "doctor spoke to the second issuer")

    def case_it_is_still_quarantined_after_a_restart(self):
        self.agent.quit()
        self.agent = self.stack.enter_context(Agent(self.world, self.plane, self.key, directory=self.agent.dir))
        self.wait_quarantined(self.row["id"])
        issued = self.issuer.issued("app")
        self.agent.password(TRUSTED_HOST)
        expect(self.issuer.issued("app") == issued + 1, "the token after the restart is not from the trusted issuer")
        expect(self.arrivals() == (0, 0), f"the second issuer got (connections, bytes) {self.arrivals()}")

    def case_trust_shows_both_side_by_side(self):
        done = self.agent.command("trust")
        expect(done.returncode == 0, f"trust ended with {done.returncode}: {done.stderr.decode()}")
        said = done.stdout.decode()
        expect(self.row["id"] in said, f"it does not name the integration: {said}")
        line = next((line for line in said.splitlines() if self.issuer.url in line), "")
        expect(self.second.url in line, f"the issuers are not on one line: {said}")

    def case_an_unknown_id_is_refused(self):
        done = self.agent.command("trust", str(uuid.uuid4()))
        expect(done.returncode == 1 and done.stderr.strip(), f"trust ended with {done.returncode}: {done.stderr.decode()}")
        self.wait_quarantined(self.row["id"])

    def case_accepted_it_is_used(self):
        before = self.second.issued("app")
        self.accept(self.row["id"])
        wait_until(lambda: self.second_serves(TRUSTED_HOST), "no token from the accepted issuer", WITHIN)
        expect(self.second.issued("app") > before and self.arrivals()[1] > 0, "the second issuer made no token")
        expect(self.agent.command("trust").returncode == 0, "trust fails with nothing to show")
        expect(not any(self.row["id"] in line for line in self.agent.status()["degraded"]), "`degraded` still names it")
        self.forget(self.row)

    def second_serves(self, host):
        """Whether what git gets for the host comes from the second issuer."""
        return self.ask(host)[0].get("password") in self.second.ask({"do": "tokens"})["tokens"]

    def case_another_host_gets_nothing(self):
        row = self.learn("first-host.example.test")
        self.swap(row, host="attacker.example.test")
        self.wait_quarantined(row["id"])
        expect("password" not in self.ask("attacker.example.test")[0], "a token for the new host")
        self.renew("first-host.example.test")
        self.accept(row["id"])
        wait_until(lambda: "password" in self.ask("attacker.example.test")[0], "no token after it was accepted", WITHIN)
        expect("password" not in self.ask("first-host.example.test")[0], "the old host still answers")
        self.forget(row)

    def case_another_client_id_gets_nothing(self):
        row = self.learn("client-id.example.test")
        before = self.issuer.issued("other")
        self.swap(row, {"clientId": "other"})
        self.wait_quarantined(row["id"])
        self.renew("client-id.example.test")
        expect(self.issuer.issued("other") == before, "the secret was sent with another client id")
        self.accept(row["id"])
        wait_until(lambda: "password" in self.ask("client-id.example.test")[0], "no token after it was accepted", WITHIN)
        expect(self.issuer.issued("other") == before + 1, "the token is not the accepted app's")
        self.forget(row)

    def case_another_scm_gets_nothing(self):
        row = self.learn("scm.example.test")
        self.swap(row, scmId="another-git")
        self.wait_quarantined(row["id"])
        self.renew("scm.example.test")
        self.accept(row["id"])
        self.agent.wait_for(lambda status: any(one["scm_id"] == "another-git" for one in status["integrations"]), "the old one is still in use")
        wait_until(lambda: "password" in self.ask("scm.example.test")[0], "no token after it was accepted", WITHIN)
        self.forget(row)

    def case_a_ciphertext_under_another_id_makes_no_token(self):
        row = self.learn("original.example.test")
        before = self.arrivals()
        copy = self.swap({**row, "id": str(uuid.uuid4())}, {"issuerUrl": self.second.url}, host="copy.example.test")
        self.wait_quarantined(copy["id"])
        answer, said = self.ask("copy.example.test")
        expect("password" not in answer, "a token from a copied ciphertext")
        expect(len(said.strip().splitlines()) == 1 and "scm-agent trust" in said, f"it should say one line that names the way out: {said!r}")
        given = b"protocol=https\nhost=copy.example.test\n\n"
        expect(b"password=" not in self.agent.git("credential", "fill", given=given, check=False).stdout, "git got a password")
        expect(self.arrivals() == before, "the second issuer was asked")
        # Also when the id that it belongs to is gone.
        self.forget(row)
        self.wait_quarantined(copy["id"])
        expect("password" not in self.ask("copy.example.test")[0], "a token once the original was gone")
        expect(self.arrivals() == before, "the second issuer was asked once the original was gone")
        self.forget(copy)

    def case_a_new_ciphertext_may_go_to_a_new_issuer(self):
        row = self.learn("renewed.example.test")
        sealed = self.key.seal(self.second.apps["app"])
        self.swap(row, {"issuerUrl": self.second.url, "encryptedClientSecret": sealed})
        wait_until(lambda: self.second_serves("renewed.example.test"), "no token from the new issuer", WITHIN)
        status = self.agent.status()
        states = [one["secret"] for one in status["integrations"] if one["id"] == row["id"]]
        expect(states == ["ok"], f"it is {states}")
        self.forget(row)

    def case_back_to_what_is_trusted_ends_the_quarantine(self):
        row = self.learn("undone.example.test")
        self.swap(row, {"issuerUrl": self.second.url})
        self.wait_quarantined(row["id"])
        self.plane.put(row)
        self.agent.wait_secrets(row["id"])
        self.agent.password("undone.example.test")
        self.forget(row)


class TrustMembers(Suite):
    """A member of the socket's group may ask for tokens, and may not decide what is trusted."""

    needs = frozenset({"venv", "issuer", "openssl", "binaries", "root"})

    def setup(self):
        world, enter = self.world, self.stack.enter_context
        self.user = pwd.getpwnam("nobody")
        group = grp.getgrgid(self.user.pw_gid).gr_name
        key = Key(world, "trust-members")
        issuer = enter(Issuer(world))
        second = enter(Issuer(world, apps=issuer.apps))
        plane = enter(ControlPlane(world, key.registered))
        row = self.row = plane.integration(TRUSTED_HOST, "app", key.seal(issuer.apps["app"]), issuer.url)
        plane.start(row)
        directory = world.dir("agent")
        drop_in = directory / "config.d" / "group.toml"
        drop_in.parent.mkdir()
        drop_in.write_text(f'[agent]\nsocket_group = "{group}"\n')
        self.agent = enter(Agent(world, plane, key, directory=directory))
        self.agent.wait_secrets(row["id"])
        plane.put({**row, "oauth": {**row["oauth"], "issuerUrl": second.url}})
        self.agent.wait_secrets(row["id"], state="quarantined")
        self.open_up(world, directory)

    def open_up(self, world, directory):
        """Lets the member reach the socket, the configuration and a copy of the program; the token and the key stay closed."""
        self.program = directory / "scm-agent"
        shutil.copy(world.bin_dir / "scm-agent", self.program)
        for path, mode in [(world.scratch, 0o711), (directory, 0o711), (self.agent.config, 0o644), (self.program, 0o755)]:
            path.chmod(mode)
        self.stack.callback(self.program.unlink)
        self.stack.callback(world.scratch.chmod, 0o700)

    def as_member(self, *arguments):
        argv = [str(part) for part in [self.program, *arguments, "--config", self.agent.config]]
        identity = {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}
        options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 30, "check": False}
        done = subprocess.run(argv, env=self.world.environment(), cwd="/", **identity, **options)
        self.agent.seen += [done.stdout, done.stderr]
        return done

    def case_a_member_may_not_accept(self):
        expect(os.geteuid() == 0, "not root")
        status = self.as_member("status", "--json")
        expect(status.returncode == 0, f"the member does not get through at all: {status.stderr}")
        done = self.as_member("trust", self.row["id"])
        expect(done.returncode == 1 and done.stderr.strip(), f"trust ended with {done.returncode}: {done.stdout}{done.stderr}")
        self.agent.wait_secrets(self.row["id"], state="quarantined")

    def case_root_may(self):
        done = self.agent.command("trust", self.row["id"])
        expect(done.returncode == 0, f"trust ended with {done.returncode}: {done.stderr.decode()}")
        self.agent.wait_secrets(self.row["id"])
