"""Reads a dashboard on standard input into Grafana's own model of one, and says what the model knows nothing of, as JSON lines of paths."""

import json
import sys

from grafana_foundation_sdk.models import dashboard, heatmap, stat, timeseries

OPTIONS = {"heatmap": heatmap, "stat": stat, "timeseries": timeseries}
# Of older and newer releases than the model's.
OTHERS = {"builtIn", "definition", "liveNow", "step", "style", "titleFormat", "wideLayout"}


def lost(written, read, path):
    """What was written and is not in what was read, by the names of the fields."""
    if isinstance(written, dict) and isinstance(read, dict):
        for name, value in written.items():
            if name in read:
                yield from lost(value, read[name], f"{path}.{name}")
            elif value not in (None, [], {}) and name not in OTHERS:
                yield f"{path}.{name}"
    elif isinstance(written, list) and isinstance(read, list):
        for number, (ours, theirs) in enumerate(zip(written, read)):
            yield from lost(ours, theirs, f"{path}[{number}]")


class Plain(json.JSONEncoder):
    def default(self, o):
        return o.to_json() if hasattr(o, "to_json") else o.value


def plain(model):
    return json.loads(json.dumps(model, cls=Plain))


given = json.load(sys.stdin)
missing = list(lost(given, plain(dashboard.Dashboard.from_json(given)), ""))
for panel in given["panels"]:
    if panel["type"] != "row":
        module = OPTIONS[panel["type"]]
        missing += lost(panel["options"], plain(module.Options.from_json(panel["options"])), panel["title"])
        if hasattr(module, "FieldConfig"):
            custom = panel["fieldConfig"]["defaults"].get("custom", {})
            missing += lost(custom, plain(module.FieldConfig.from_json(custom)), panel["title"])
print(json.dumps(missing))
