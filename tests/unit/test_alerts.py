"""The alert rules and the dashboard: rules ring when they should, and every expression is one that Prometheus takes.

That each metric they name is really told is tested where real processes run: tests/system/test_metrics.py.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import yaml

from tests.parts.programs import need
from tests.parts.telemetry_files import ALERTS, DASHBOARD, DOCS, RULE_TESTS, dashboard_expressions, panel


def promtool(*arguments: str | Path) -> str:
    """Runs it; its words when it finds nothing wrong."""
    need("promtool", packages="prometheus")
    run = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def alert_names() -> set[str]:
    return set(re.findall(r"- alert: (\w+)", ALERTS.read_text()))


def test_rules_are_rules() -> None:
    assert f"{len(alert_names())} rules found" in promtool("check", "rules", ALERTS)


def test_each_rule_rings_when_it_should_and_none_on_a_healthy_cluster() -> None:
    promtool("test", "rules", RULE_TESTS)


def test_no_rule_is_without_a_test_and_a_line_in_the_docs() -> None:
    tested = set(re.findall(r'alertname(?:="|: )(\w+)', RULE_TESTS.read_text()))
    told = set(re.findall(r"`(Likering\w+)`", DOCS.read_text()))
    assert alert_names() == tested == told


def test_no_two_panels_have_one_id_or_one_place() -> None:
    """Grafana shows one of them then, or both in each other's way."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    covered = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(covered)) == len(covered)


def test_expressions_of_the_dashboard_are_expressions(tmp_path: Path) -> None:
    rules = ["groups:", "  - name: dashboard", "    rules:"]
    for number, expression in enumerate(dashboard_expressions()):
        rules += [
            f"      - record: panel:{number}",
            f"        expr: '{expression.replace('$__rate_interval', '5m')}'",
        ]
    file = tmp_path / "dashboard.yaml"
    file.write_text("\n".join(rules))
    promtool("check", "rules", file)


def test_streams_are_seen_open_before_the_first_one_has_ended(tmp_path: Path) -> None:
    """Until then nothing tells how many have: a difference of the two alone would show nothing."""
    begun = 'grpc_server_started_total{grpc_service="likering.v1.LikeService",grpc_type="server_stream"'
    ended = begun.replace("started", "handled")
    file = tmp_path / "streams.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "tests": [
                    {
                        "interval": "1m",
                        "input_series": [
                            {"series": begun + ',grpc_method="WatchLikeCounts"}', "values": "3x5"},
                            {"series": begun + ',grpc_method="StreamLikeEvents"}', "values": "7x5"},
                            {"series": ended + ',grpc_method="StreamLikeEvents"}', "values": "5x5"},
                        ],
                        "promql_expr_test": [
                            {
                                "expr": panel("Streams open")[0],
                                "eval_time": "5m",
                                "exp_samples": [
                                    {"labels": '{grpc_method="StreamLikeEvents"}', "value": 2},
                                    {"labels": '{grpc_method="WatchLikeCounts"}', "value": 3},
                                ],
                            }
                        ],
                    }
                ]
            }
        )
    )
    promtool("test", "rules", file)
