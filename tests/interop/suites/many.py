"""250 integrations over three pages, one of which cannot be opened."""

import concurrent.futures

from agent import Agent, Key
from harness import Suite, expect
from parts import ControlPlane, Issuer

COUNT = 250
BAD = 137
SEALED_AT_ONCE = 4


class Many(Suite):
    needs = frozenset({"venv", "issuer", "openssl", "binaries"})

    def setup(self):
        world, enter = self.world, self.stack.enter_context
        key = Key(world, "many")
        stranger = Key(world, "many-stranger")
        self.issuer = enter(Issuer(world))
        plane = self.plane = enter(ControlPlane(world, key.registered)).start()
        secret = self.issuer.apps["app"]

        def integration(number):
            sealed = (stranger if number == BAD else key).seal_with_openssl(secret)
            return plane.integration(f"host-{number:03}.example.test", "app", sealed, self.issuer.url)

        with concurrent.futures.ThreadPoolExecutor(SEALED_AT_ONCE) as pool:
            self.rows = list(pool.map(integration, range(COUNT)))
        other = {**plane.integration("not-ours.example.test", "app", key.seal(secret), self.issuer.url)}
        plane.put(*self.rows, {**other, "runnerId": "11111111-2222-4333-8444-555555555555"})
        self.agent = enter(Agent(world, plane, key))
        self.status = self.agent.wait_for(lambda status: len(status["integrations"]) >= COUNT, f"not {COUNT} integrations")

    def case_the_list_is_read_in_three_pages_of_this_runner(self):
        lists = self.plane.stats()["lists"]
        first = lists[:3]
        expect([one["page_size"] for one in first] == [100] * 3, f"page sizes {[one['page_size'] for one in first]}")
        expect(all(one["runner_ids"] == [self.plane.runner_id] for one in lists), "a list without this runner's filter")
        starts = [one for one in lists if not one["token"]]
        expect(len(lists) - 3 * len(starts) in (0, -1, -2), f"{len(lists)} pages for {len(starts)} lists")
        expect(len(self.status["integrations"]) == COUNT, f"it holds {len(self.status['integrations'])}")

    def case_status_names_the_bad_one_and_only_it(self):
        bad = self.rows[BAD]["id"]
        status = self.agent.wait_secrets(bad, state="undecryptable")
        others = {one["id"]: one["secret"] for one in status["integrations"] if one["id"] != bad}
        wrong = {identifier: state for identifier, state in others.items() if state != "ok"}
        expect(len(others) == COUNT - 1 and not wrong, f"{len(wrong)} of {len(others)} others are not ok: {list(wrong.items())[:3]}")
        named = " ".join(status["degraded"])
        expect(bad in named or self.rows[BAD]["host"] in named, f"`degraded` does not name it: {status['degraded']}")

    def case_the_table_for_people_names_it_too(self):
        table = self.agent.command("status").stdout.decode()
        line = next((line for line in table.splitlines() if line.startswith(self.rows[BAD]["host"])), "")
        expect("undecryptable" in line, f"its line is {line!r}")

    def case_the_others_serve(self):
        hosts = [row["host"] for number, row in enumerate(self.rows) if number != BAD]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            tokens = list(pool.map(self.agent.password, hosts))
        expect(len(tokens) == COUNT - 1, f"{len(tokens)} tokens")
        issued = set(self.issuer.ask({"do": "tokens"})["tokens"])
        expect(set(tokens) <= issued, "a token that the issuer never issued")

    def case_the_bad_one_gets_no_token_and_one_line(self):
        answer, said = self.agent.ask(protocol="https", host=self.rows[BAD]["host"])
        expect("password" not in answer, "a token from a secret that cannot be opened")
        expect(len(said.strip().splitlines()) == 1, f"it should say one line, and said: {said!r}")
