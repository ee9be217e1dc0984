"""No secret in anything that the daemons of the suites before this one wrote or showed, at log level trace."""

import base64

from agent import forms
from harness import Suite, expect


class Leaks(Suite):
    needs = frozenset({"venv", "issuer", "openssl", "binaries"})

    def texts(self):
        """Everything to search: logs, files, /proc files, statuses; with a name for each."""
        for number, agent in enumerate(self.world.daemons):
            yield f"log of daemon {number}", agent.log.read_bytes()
            # Whatever lies where it may write, but for the file in which the operator put the bearer token.
            for path in agent.dir.rglob("*"):
                if path.is_file() and path != agent.token_file:
                    yield f"file {path.name} of daemon {number}", path.read_bytes()
            # As one text: there are thousands of small ones, many of them alike.
            yield f"outputs of daemon {number}", "\0".join(dict.fromkeys(agent.seen)).encode()

    def finds(self, texts, secrets):
        """Names of the texts that hold a secret; never the secret."""
        needles = {form.encode() for secret in secrets for form in forms(secret)}
        # Daemons that took over a folder have the same files.
        distinct = {text: name for name, text in texts}
        return sorted({name for text, name in distinct.items() if any(needle in text for needle in needles)})

    def case_there_is_something_to_search(self):
        expect(self.world.daemons, "no daemon ran")
        expect(len(self.world.secrets) >= 10, f"only {len(self.world.secrets)} secrets are known")
        for agent in self.world.daemons:
            text = agent.log.read_text(errors="replace")
            expect(" DEBUG " in text or '"level":"DEBUG"' in text, f"{agent.log.name} has nothing finer than the level that operators see")
            expect(any("scm-agent\0run\0" in seen for seen in agent.seen), "no command line was kept")

        audited = [agent for agent in self.world.daemons if (agent.dir / "audit.jsonl").exists()]
        expect(len(audited) * 2 > len(self.world.daemons), f"only {len(audited)} daemons have an audit log of their own")

    def case_the_search_finds_a_planted_secret(self):
        secret = max(self.world.secrets, key=len)
        pair = base64.b64encode(f"app:{secret}".encode())
        for name, text in [("plain", secret.encode()), ("basic", pair), ("one in many", b"x" * 5 + pair + b"y")]:
            expect(self.finds([(name, text)], self.world.secrets) == [name], f"the search misses a secret that is {name}")

    def case_no_secret_is_in_any_of_it(self):
        found = self.finds(list(self.texts()), self.world.secrets)
        expect(not found, f"a secret is in: {', '.join(found)}")
