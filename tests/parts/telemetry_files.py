"""The files that are made for the metrics: alert rules, dashboard and the docs' table."""

from __future__ import annotations

import json
import re
from pathlib import Path

_ROOT = Path(__file__).parents[2]
ALERTS = _ROOT / "k8s" / "telemetry" / "alerts.yaml"
RULE_TESTS = _ROOT / "k8s" / "telemetry" / "alerts.test.yaml"
DASHBOARD = _ROOT / "k8s" / "telemetry" / "dashboard.json"
DOCS = _ROOT / "docs" / "telemetry.md"


def dashboard_expressions() -> list[str]:
    """All expressions of the dashboard."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def series_named(text: str) -> set[str]:
    """The series of this project's metrics that a text names."""
    return set(re.findall(r"\b(?:likering|grpc_server)_\w+", text))


def documented() -> dict[str, tuple[str, set[str]]]:
    """The docs' table: metric → its type, and which processes tell it."""
    rows = re.findall(
        r"^\| `((?:likering|grpc_server)_\w+)` \| (\w+) \|.*?\| (all|router|node|replica) \|",
        DOCS.read_text(),
        re.M,
    )
    every = {"router", "node", "replica"}
    return {name: (kind, every if of == "all" else {of}) for name, kind, of in rows}
