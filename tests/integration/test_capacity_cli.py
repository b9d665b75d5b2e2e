"""``likering plan`` and ``likering simulate``, as a shell runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from likering.cli.main import app

runner = CliRunner()


def test_a_plan_as_a_table_and_as_json() -> None:
    table = runner.invoke(app, ["plan", "--users", "1000000"])
    assert table.exit_code == 0
    assert "likes/s, peak" in table.stdout
    plan = json.loads(runner.invoke(app, ["plan", "--users", "1000000", "-o", "json"]).stdout)
    assert plan["workload"]["users"] == 1_000_000
    assert plan["size"]["likes_mean"] == pytest.approx(1_000_000 * 7.7 / 86_400)
    assert set(plan) == {"workload", "assumed", "machines", "size", "remarks"}
    doubled = json.loads(
        runner.invoke(app, ["plan", "--users", "2000000", "--replicas", "1", "-o", "json"]).stdout
    )
    assert doubled["size"]["data_bytes"] == pytest.approx(2 * plan["size"]["data_bytes"])
    assert doubled["size"]["disk_bytes"] == pytest.approx(2 / 3 * plan["size"]["disk_bytes"])


@pytest.mark.parametrize("option", ["--users", "--likes-per-user", "--peak", "--bytes-per-like", "--disk-tb"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e-400", "1" + "0" * 400])
def test_a_plan_that_makes_no_sense_is_a_usage_error(option: str, value: str) -> None:
    result = runner.invoke(app, ["plan", option, value])
    assert result.exit_code == 2, result.output
    assert "Usage" in result.output


def test_what_is_wrong_with_a_plan_is_named() -> None:
    assert "likes_per_user_day" in runner.invoke(app, ["plan", "--likes-per-user", "0"]).output


SMALL = ["simulate", "--nodes", "12", "--from", "3", "--slots", "64", "--posts", "1000", "--rows", "100000"]


def test_a_simulation_as_a_table_as_json_and_as_a_picture(tmp_path: Path) -> None:
    table = runner.invoke(app, SMALL)
    assert table.exit_code == 0
    assert "grow to 12" in table.stdout
    first, second = (runner.invoke(app, [*SMALL, "--seed", "7", "-o", "json"]).stdout for _ in range(2))
    assert first == second
    steps = json.loads(first)["steps"]
    assert [step["nodes"] for step in steps] == [3, 6, 12, 13, 14, 15, 14, 13, 12]
    picture = tmp_path / "ring.svg"
    assert runner.invoke(app, [*SMALL, "--plot", str(picture)]).exit_code == 0
    assert picture.read_text().startswith("<?xml")


def test_the_table_of_a_simulation_fits_into_a_terminal() -> None:
    """Of 80 columns, with the largest ring there is: no figure is cut off."""
    table = runner.invoke(app, ["simulate", "--posts", "1000"], env={"COLUMNS": "80", "TERM": "dumb"})
    assert "grow to 2000" in table.stdout
    assert "…" not in table.stdout


def test_a_simulation_that_makes_no_sense_is_a_usage_error(tmp_path: Path) -> None:
    for arguments in (
        ["--slots", "100"],
        ["--losses", "15"],
        ["--joins", "53"],
        ["--exponent", "nan"],
        ["--exponent", "inf"],
        ["--viral-share", "nan"],
        ["--rows", "1" + "0" * 400],
        ["--plot", str(tmp_path / "x.pdf")],
    ):
        assert runner.invoke(app, [*SMALL, *arguments]).exit_code == 2
    assert not list(tmp_path.iterdir())


def test_the_two_plans_name_each_other() -> None:
    """One sizes a cluster on paper, the other one moves slots of a ring that runs."""
    assert "ring plan" in runner.invoke(app, ["plan", "--help"]).stdout
    assert "likering plan" in runner.invoke(app, ["ring", "plan", "--help"]).stdout
