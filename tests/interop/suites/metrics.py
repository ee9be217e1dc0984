"""The metrics, as those read them who are meant to: Prometheus' parsers and linter, a Prometheus that scrapes, its rules, the dashboard."""

import http.client
import json
import pathlib
import re
import signal
import socket
import time
import urllib.error
import urllib.parse
import urllib.request

from agent import Agent, Key
from harness import Failed, Process, Suite, expect, wait_until
from parts import ControlPlane, Issuer

INTEROP = pathlib.Path(__file__).resolve().parent.parent
DOCS = INTEROP.parent.parent / "docs"
RULES = DOCS / "alerts" / "scm-agent.rules.yml"
DASHBOARD = DOCS / "dashboards" / "scm-agent.json"
HOST = "metrics.example.test"

ACCEPT = {"text": "*/*", "openmetrics": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}

# What the dashboard has no use for: a rate of something else that it shows, or a value that does not change.
NOT_SHOWN = {"scm_agent_connections_accepted_total", "scm_agent_sync_last_attempt_timestamp_seconds", "scm_agent_sync_poll_interval_seconds",
             "process_virtual_memory_bytes"}

# A daemon that is well, sample by sample for each minute: a constant, or what it grows by.
WELL = {
    "up": 1,
    "process_start_time_seconds": -7200,
    "process_open_fds": 20,
    "process_max_fds": 1024,
    "scm_agent_sync_last_success_timestamp_seconds": "0+60",
    'scm_agent_syncs_total{outcome="operator"}': 0,
    'scm_agent_syncs_total{outcome="success"}': "0+1",
    "scm_agent_sync_consecutive_failures": 0,
    "scm_agent_sync_stale": 0,
    'scm_agent_integrations{secret="ok"}': 3,
    'scm_agent_integrations{secret="undecryptable"}': 0,
    'scm_agent_integrations{secret="quarantined"}': 0,
    'scm_agent_keys{registered="yes"}': 1,
    'scm_agent_keys{registered="no"}': 0,
    'scm_agent_requests_total{operation="get",outcome="credential"}': "0+60",
    'scm_agent_requests_total{operation="get",outcome="silence"}': "0+600",
    'scm_agent_requests_total{operation="get",outcome="quit"}': "0+1",
    'scm_agent_requests_total{operation="get",outcome="timeout"}': 0,
    'scm_agent_request_duration_seconds_bucket{token="cached",le="0.001"}': "0+60",
    'scm_agent_request_duration_seconds_bucket{token="cached",le="0.5"}': "0+60",
    'scm_agent_request_duration_seconds_bucket{token="cached",le="+Inf"}': "0+60",
    'scm_agent_token_requests_total{provider="gitlab",outcome="issued"}': "0+1",
    'scm_agent_token_requests_total{provider="gitlab",outcome="failed"}': 0,
    "scm_agent_tokens_paused": 0,
    'scm_agent_refreshes_total{outcome="login_needed"}': 0,
    "scm_agent_connections": 3,
    "scm_agent_connections_limit": 256,
    'scm_agent_denied_total{reason="busy"}': 0,
    'scm_agent_denied_total{reason="access_rules"}': "0+1",
    "scm_agent_store_healthy": 1,
    "scm_agent_memory_locked": 1,
    "scm_agent_reload_last_successful": 1,
    "scm_agent_degraded_reasons": 0,
}

# What is other than well (None: not there), under the alert that this makes, alone.
ILL = {
    "ScmAgentDown": {"up": 0},
    "ScmAgentNoList": {"scm_agent_sync_last_success_timestamp_seconds": None},
    "ScmAgentListNeedsOperator": {'scm_agent_syncs_total{outcome="operator"}': "0+1", "scm_agent_sync_consecutive_failures": 5},
    "ScmAgentListStale": {"scm_agent_sync_stale": 1},
    "ScmAgentSecretUndecryptable": {'scm_agent_integrations{secret="undecryptable"}': 2},
    "ScmAgentIntegrationHeldBack": {'scm_agent_integrations{secret="quarantined"}': 1},
    "ScmAgentKeyNotRegistered": {'scm_agent_keys{registered="yes"}': 0, 'scm_agent_keys{registered="no"}': 1},
    "ScmAgentRequestsFail": {'scm_agent_requests_total{operation="get",outcome="quit"}': "0+30"},
    "ScmAgentRequestsTimeOut": {'scm_agent_requests_total{operation="get",outcome="timeout"}': "0+1"},
    "ScmAgentSlow": {'scm_agent_request_duration_seconds_bucket{token="cached",le="0.001"}': "0+40"},
    "ScmAgentTokenRequestsFail": {'scm_agent_token_requests_total{provider="gitlab",outcome="failed"}': "0+2"},
    "ScmAgentTokensPaused": {"scm_agent_tokens_paused": 1},
    "ScmAgentSignInsEnd": {'scm_agent_refreshes_total{outcome="login_needed"}': "0+1"},
    "ScmAgentConnectionsFull": {"scm_agent_connections": 250},
    "ScmAgentConnectionsFull of one user": {'scm_agent_denied_total{reason="busy"}': "0+1"},
    "ScmAgentDenials": {'scm_agent_denied_total{reason="access_rules"}': "0+60"},
    "ScmAgentStoreUnhealthy": {"scm_agent_store_healthy": 0},
    "ScmAgentMemoryNotLocked": {"scm_agent_memory_locked": 0},
    "ScmAgentReloadFailed": {"scm_agent_reload_last_successful": 0},
    "ScmAgentDegraded": {"scm_agent_degraded_reasons": 1},
    "ScmAgentRestarts": {"process_start_time_seconds": "0+60"},
    "ScmAgentFileDescriptors": {"process_open_fds": 900},
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=10)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Prometheus(Process):
    """A Prometheus that scrapes some targets each second. Its alerts do not wait before they fire."""

    def __init__(self, world, targets):
        folder = world.dir("prometheus")
        self.port = free_port()
        (folder / "rules.yml").write_text(re.sub(r"(?m)^( +for:) .*", r"\1 0s", RULES.read_text()))
        job = {"job_name": "scm-agent", "static_configs": [{"targets": [f"127.0.0.1:{target}"]} for target in targets]}
        settings = {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": ["rules.yml"], "scrape_configs": [job]}
        # JSON is YAML.
        (folder / "prometheus.yml").write_text(json.dumps(settings))
        argv = [world.which("prometheus"), f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"]
        super().__init__("prometheus", argv, world, stdout="log", cwd=folder)
        wait_until(self.is_ready, lambda: f"it is not ready: {self.tail()}", 60)

    def is_ready(self):
        self.check_alive()
        try:
            return self.get("/-/ready").startswith("Prometheus")
        except OSError:
            return False

    def get(self, path, **query):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}?{urllib.parse.urlencode(query)}", timeout=10) as reply:
            return reply.read().decode()

    def query(self, expression):
        """What an expression comes to now."""
        try:
            return json.loads(self.get("/api/v1/query", query=expression))["data"]["result"]
        except urllib.error.HTTPError as error:
            raise Failed(f"{expression}: {json.loads(error.read())['error']}") from None

    def firing(self):
        """The alerts that fire, with their annotations."""
        alerts = json.loads(self.get("/api/v1/alerts"))["data"]["alerts"]
        return {alert["labels"]["alertname"]: alert["annotations"] for alert in alerts if alert["state"] == "firing"}


class Metrics(Suite):
    needs = frozenset({"venv", "issuer", "openssl", "prometheus", "binaries"})

    def setup(self):
        world, enter = self.world, self.stack.enter_context
        key = self.key = Key(world, "metrics")
        issuer = self.issuer = enter(Issuer(world, apps=["app"]))
        plane = self.plane = enter(ControlPlane(world, key.registered)).start()
        self.integration = plane.integration(HOST, "app", key.seal(issuer.apps["app"]), issuer.url)
        plane.put(self.integration)
        self.port = free_port()
        self.agent = enter(Agent(world, plane, key, more=f'[metrics]\nlisten = "127.0.0.1:{self.port}"\n'))
        self.other = enter(Agent(world, plane, key, more='[metrics]\nlisten = "unix:metrics.sock"\n'))
        for agent in (self.agent, self.other):
            agent.wait_secrets(self.integration["id"])
            agent.password(HOST)
        self.prometheus = enter(Prometheus(world, [self.port]))
        self.refusals = 2

    def scrape(self, kind="text", agent=None):
        if (agent or self.agent) is self.agent:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        else:
            connection = UnixConnection(self.other.dir / "metrics.sock")
        connection.request("GET", "/metrics", headers={"Accept": ACCEPT[kind]})
        reply = connection.getresponse()
        text = reply.read().decode()
        connection.close()
        expect(reply.status == 200, f"{reply.status}: {text[:200]}")
        self.agent.seen.append(text)
        return text, reply.headers["Content-Type"]

    def families(self, kind, text):
        """What Prometheus' own parser makes of a scrape."""
        done = self.world.call([self.world.python, INTEROP / "read_scrape.py", kind], given=text.encode())
        return json.loads(done.stdout)

    def promtool(self, *arguments, given=None):
        done = self.world.call([self.world.which("promtool"), *arguments], given=given, check=False)
        return done.returncode, (done.stdout + done.stderr).decode()

    def traffic(self):
        """Something of everything that a runner asks for in a day."""
        for _ in range(5):
            self.agent.password(HOST)
        self.agent.ask(protocol="https", host="elsewhere.example.test")
        if self.refusals > 0:
            # One more, and no others would be fetched for a while.
            self.refusals -= 1
            self.agent.ask("erase", protocol="https", host=HOST, username="x", password=self.agent.password(HOST))
        self.agent.command("status")

    def case_both_formats_are_read_by_the_official_parsers(self):
        for agent in (self.agent, self.other):
            read = {}
            for kind, expected in (("text", "text/plain; version=0.0.4; charset=utf-8"), ("openmetrics", "application/openmetrics-text; version=1.0.0; charset=utf-8")):
                text, content_type = self.scrape(kind, agent)
                expect(content_type == expected, f"{content_type} for {kind}")
                read[kind] = self.families(kind, text)
            samples = {kind: {(name, tuple(sorted(labels.items()))) for family in families.values() for name, labels, _ in family["samples"]}
                       for kind, families in read.items()}
            expect(samples["text"] == samples["openmetrics"], f"only in one: {samples['text'] ^ samples['openmetrics']}")
            expect(len(samples["text"]) < 600, f"{len(samples['text'])} series")
            types = {kind: {name.removesuffix("_info"): family["type"] for name, family in families.items()} for kind, families in read.items()}
            types["text"]["scm_agent_build"] = types["openmetrics"]["scm_agent_build"]
            expect(types["text"] == types["openmetrics"], f"types differ: {types}")
            bare = [name for family in read["openmetrics"].values() for name in [family["help"]] if not name.endswith(".")]
            expect(not bare, f"without a whole sentence: {bare}")
            got = {name: value for family in read["openmetrics"].values() for name, labels, value in family["samples"]
                   if labels in ({}, {"operation": "get", "outcome": "credential"})}
            expect(got["scm_agent_requests_total"] >= 1 and got["scm_agent_store_healthy"] == 1, f"wrong numbers: {got}")

    def case_names_follow_the_conventions(self):
        status, said = self.promtool("check", "metrics", given=self.scrape()[0].encode())
        expect(status == 0 and not said.strip(), f"promtool ended with {status}: {said}")

    def case_a_real_prometheus_scrapes_it(self):
        found = wait_until(lambda: self.prometheus.query('up{job="scm-agent"} == 1'), "it is not up")
        expect(len(found) == 1, f"{len(found)} targets")
        targets = json.loads(self.prometheus.get("/api/v1/targets"))["data"]["activeTargets"]
        expect([target["lastError"] for target in targets] == [""], f"{targets}")
        wait_until(lambda: self.prometheus.query('scm_agent_requests_total{operation="get",outcome="credential"} >= 1'), "no request is seen")

    def case_every_query_of_the_dashboard_gives_data(self):
        board = json.loads(DASHBOARD.read_text())
        panels = [panel for panel in board["panels"] if panel["type"] != "row"]
        queries = [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]
        queries += [(one["name"], one["expr"]) for one in board["annotations"]["list"] if "expr" in one]
        end = time.monotonic() + 40
        # One that asks for starts is right to have none.
        left = [(title, expr) for title, expr in queries if title != "Starts"]
        while left and time.monotonic() < end:
            self.traffic()
            time.sleep(1)
            left = [(title, expr) for title, expr in left if not self.prometheus.query(self.instant(expr))]
        expect(not left, f"no data for {[title for title, _ in left]}")
        self.prometheus.query(self.instant(next(expr for title, expr in queries if title == "Starts")))
        values = json.loads(self.prometheus.get("/api/v1/label/instance/values", **{"match[]": "scm_agent_build_info"}))["data"]
        expect(values == [f"127.0.0.1:{self.port}"], f"the variable has {values}")

    @staticmethod
    def instant(expression):
        """A query of the dashboard's with its variables filled in."""
        for name, value in (("$instance", ".*"), ("$__rate_interval", "15s"), ("$__interval", "15s")):
            expression = expression.replace(name, value)
        return expression

    def case_the_dashboard_shows_what_there_is_and_nothing_else(self):
        families = self.families("text", self.scrape()[0])
        there = {name + ("_total" if family["type"] == "counter" else "") for name, family in families.items()}
        used = set(re.findall(r"\b(?:scm_agent|process)_[a-z_]+", " ".join(re.findall(r'"expr": "(.*)"', DASHBOARD.read_text()))))
        used = {name.removesuffix("_bucket") for name in used}
        expect(used <= there, f"there is no {sorted(used - there)}")
        expect(there - used == NOT_SHOWN, f"not shown: {sorted(there - used)}")

    def case_the_dashboard_is_one_for_grafana(self):
        done = self.world.call([self.world.python, INTEROP / "read_dashboard.py"], given=DASHBOARD.read_bytes())
        lost = json.loads(done.stdout)
        expect(not lost, f"Grafana's model knows nothing of {lost}")
        board = json.loads(DASHBOARD.read_text())
        ids = [panel["id"] for panel in board["panels"]]
        expect(len(ids) == len(set(ids)), "an id is there twice")
        cells = set()
        for panel in board["panels"]:
            at = panel["gridPos"]
            own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            expect(at["x"] + at["w"] <= 24 and not own & cells, f"{panel['title']} lies over another one, or outside")
            cells |= own
            if panel["type"] != "row":
                expect(panel["description"].endswith("."), f"{panel['title']} is not described")
                expect(panel["type"] == "heatmap" or panel["fieldConfig"]["defaults"]["unit"], f"{panel['title']} has no unit")
                sources = {panel["datasource"]["uid"], *(target["datasource"]["uid"] for target in panel["targets"])}
                expect(sources == {"${datasource}"}, f"{panel['title']} asks {sources}")

    def case_the_rules_hold_in_promtool_and_each_alert_fires_alone(self):
        status, said = self.promtool("check", "rules", RULES)
        expect(status == 0, f"promtool check rules: {said}")
        names = re.findall(r"- alert: (\w+)", RULES.read_text())
        tried = {name.split()[0] for name in ILL}
        expect(set(names) == tried and len(names) == len(tried), f"not tried: {set(names) ^ tried}")
        documented = re.findall(r"\| `(ScmAgent\w+)`", (DOCS / "metrics.md").read_text())
        expect(documented == names, f"the table has other alerts, or another order: {set(documented) ^ set(names)}")
        series = self.series("well", {})
        for name, changes in ILL.items():
            series += self.series(name, changes)
        # Each on the runner of its name, and nothing on the one that is well.
        expected = [{"labels": f'{{alertname="{name.split()[0]}", instance="{name}"}}', "value": 1} for name in ILL]
        fires = {"expr": 'count by (alertname, instance) (ALERTS{alertstate="firing"})', "eval_time": "70m", "exp_samples": expected}
        test = {"interval": "1m", "input_series": series, "promql_expr_test": [fires]}
        file = self.world.dir("rules") / "test.yml"
        file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}))
        status, said = self.promtool("test", "rules", file)
        expect(status == 0, f"promtool test rules: {said}")

    @staticmethod
    def series(instance, changes):
        """What a runner says in seventy minutes."""
        series = []
        for sample, value in {**WELL, **changes}.items():
            if value is not None:
                metric, _, labels = sample.rstrip("}").partition("{")
                labels = ",".join(filter(None, [labels, 'job="scm-agent"', f'instance="{instance}"']))
                values = f"{value}x70" if isinstance(value, str) else f"{value}+0x70"
                series.append({"series": f"{metric}{{{labels}}}", "values": values})
        return series

    def case_on_a_daemon_that_is_well_no_alert_fires(self):
        # What the setup could not avoid.
        quiet = {"ScmAgentMemoryNotLocked", "ScmAgentSlow"}
        self.agent.wait_for(lambda status: not status["degraded"], "it is not well")
        wait_until(lambda: not set(self.prometheus.firing()) - quiet, lambda: f"these fire: {set(self.prometheus.firing()) - quiet}")

    def case_what_goes_wrong_fires_with_words_to_act_on(self):
        sealed = "0196f3a4-0000-7000-8000-00000000abcd"
        oauth = {**self.integration["oauth"], "encryptedClientSecret": "QUFBQQ=="}
        self.plane.put({**self.integration, "id": sealed, "host": "sealed.example.test", "oauth": oauth})
        good = self.agent.config.read_text()
        self.agent.config.write_text(good + "\n[canary]\n")
        # As `systemctl reload` would, but that the command looks at the file itself first.
        self.agent.child.send_signal(signal.SIGHUP)
        self.fires("ScmAgentReloadFailed")
        self.agent.config.write_text(good)
        self.fires("ScmAgentSecretUndecryptable", "ScmAgentDegraded")
        self.plane.remove(sealed)
        expect(self.agent.command("reload").returncode == 0, "the configuration of before is not taken over")
        wait_until(lambda: not {"ScmAgentSecretUndecryptable", "ScmAgentReloadFailed"} & set(self.prometheus.firing()), "they go on firing")
        self.agent.use_token("not-the-token-of-this-runner")
        self.fires("ScmAgentListNeedsOperator")
        self.agent.use_token(self.plane.token)
        wait_until(lambda: "ScmAgentListNeedsOperator" not in self.prometheus.firing(), "it goes on firing")
        self.agent.quit()
        self.fires("ScmAgentDown")

    def fires(self, *alerts):
        wait_until(lambda: set(alerts) <= set(self.prometheus.firing()), lambda: f"of {alerts} only {list(self.prometheus.firing())}", 60)
        for alert, words in self.prometheus.firing().items():
            expect(set(words) == {"summary", "description", "run"}, f"{alert} has {sorted(words)}")
            expect("<" not in " ".join(words.values()) and "{{" not in " ".join(words.values()), f"{alert} is not filled in: {words}")
