"""The files that are made for the metrics: alert rules, dashboard and the docs' table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

_ROOT = Path(__file__).parents[2]
ALERTS = _ROOT / "k8s" / "telemetry" / "alerts.yaml"
RULE_TESTS = _ROOT / "k8s" / "telemetry" / "alerts.test.yaml"
DASHBOARD = _ROOT / "k8s" / "telemetry" / "dashboard.json"
DOCS = _ROOT / "docs" / "telemetry.md"


def dashboard_expressions() -> list[str]:
    """All expressions of the dashboard."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def legends() -> list[tuple[str, set[str]]]:
    """Each expression of the dashboard, and the labels that its legend names."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [
        (target["expr"], set(re.findall(r"{{(\w+)}}", target["legendFormat"])))
        for panel in panels
        for target in panel.get("targets", ())
    ]


def panel(title: str) -> list[str]:
    """The expressions of one panel of the dashboard."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    (found,) = [panel for panel in panels if panel["title"] == title]
    return [target["expr"] for target in found["targets"]]


def alert_expressions() -> list[str]:
    """All expressions of the alert rules."""
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def series_named(text: str) -> set[str]:
    """The series of this project's metrics that a text names."""
    return set(re.findall(r"\b(?:likering|grpc_server)_\w+", text))


class Documented(NamedTuple):
    """A row of the docs' table."""

    kind: str
    labels: frozenset[str]
    of: frozenset[str]
    """Which processes tell it."""


def documented() -> dict[str, Documented]:
    """The docs' table, by metric."""
    rows = re.findall(
        r"^\| `((?:likering|grpc_server)_\w+)` \| (\w+) \|([ `\w]*)\| (all|router|node|replica) \|",
        DOCS.read_text(),
        re.M,
    )
    every = frozenset(("router", "node", "replica"))
    return {
        name: Documented(
            kind, frozenset(re.findall(r"\w+", labels)), every if of == "all" else frozenset((of,))
        )
        for name, kind, labels, of in rows
    }


def chosen_by(expression: str) -> Iterator[tuple[str, str, str]]:
    """Series, label and value of what an expression of PromQL chooses by; of ``a|b``, each."""
    for series, labels in re.findall(r"\b((?:likering|grpc_server)_\w+)\{([^}]*)\}", expression):
        for label, values in re.findall(r'(\w+)(?:=~|!~|!=|=)"([^"]*)"', labels):
            for value in values.split("|"):
                yield series, label, value


def grouped_by(expression: str) -> set[str]:
    """The labels that stay in the results of an expression of PromQL."""
    return {
        label for labels in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression) for label in labels.split(", ")
    }
