"""Reads a scrape on standard input with Prometheus' own parser for Python: `read_scrape.py text|openmetrics`. Prints what it found as JSON."""

import json
import sys

from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client import parser as text

READ = {"text": text.text_string_to_metric_families, "openmetrics": openmetrics.text_string_to_metric_families}

families = {}
for family in READ[sys.argv[1]](sys.stdin.read()):
    samples = [[sample.name, sample.labels, sample.value] for sample in family.samples]
    families[family.name] = {"type": family.type, "help": family.documentation, "unit": family.unit, "samples": samples}
print(json.dumps(families))
