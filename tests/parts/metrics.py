"""What the processes of a cluster tell Prometheus."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


def families(address: str) -> list[Metric]:
    """All that a process tells."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
        return list(text_string_to_metric_families(response.read().decode()))


def scrape(address: str) -> list[Sample]:
    """All samples of a process."""
    return [sample for family in families(address) for sample in family.samples]


def address_in(log: Path) -> str:
    """Where the process that writes this log serves its metrics."""
    lines = (json.loads(line) for line in log.read_text().splitlines() if "serves metrics" in line)
    return str(list(lines)[-1]["address"])


def value(samples: list[Sample], name: str, **labels: str) -> float:
    """The sum of the samples of a name that have these labels; there must be one."""
    found = [one.value for one in samples if one.name == name and labels.items() <= one.labels.items()]
    assert found, f"no {name} with {labels}"
    return sum(found)
