"""The model of moving a slot: it holds in every configuration, and each seeded mistake in it is caught."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.parts.programs import need

SCRIPT = Path(__file__).parents[2] / "scripts" / "model"
NAMES = subprocess.run([SCRIPT, "--list"], capture_output=True, text=True, check=True).stdout.split()

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def said(request: pytest.FixtureRequest) -> dict[str, str]:
    """What the script says of each run whose test was chosen: all of them together take half as long."""
    need("spin", "gcc", packages="spin gcc")
    chosen = [
        str(item.callspec.params["name"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == test_run.__name__
    ]
    run = subprocess.run([SCRIPT, *chosen], capture_output=True, text=True, check=False)
    lines = {line.split()[0]: line for line in run.stdout.splitlines() if line.strip()}
    return {name: lines.get(name, run.stdout + run.stderr) for name in chosen}


@pytest.mark.parametrize("name", NAMES)
def test_run(said: dict[str, str], name: str) -> None:
    """A mistake has its name in capitals; of all else, an exhaustive search finds no error."""
    found = said[name].split()
    assert found[0] == name, said[name]
    if name.isupper():
        assert found[5] == "caught:"
    else:
        assert found[5:] == ["ends" if name.endswith("-ends") else "holds"]


def test_the_mistakes_of_the_model_are_all_tried() -> None:
    """Each ``-D`` that the model names as a mistake is one of the runs."""
    model = (SCRIPT.parents[1] / "docs" / "handoff.pml").read_text()
    _, _, rest = model.partition("THE MISTAKES")
    words = [line.split()[1] for line in rest.partition("*/")[0].splitlines() if len(line.split()) > 2]
    assert {word for word in words if word.isupper() and "_" in word} == {
        name for name in NAMES if name.isupper()
    }


def test_an_unknown_name_is_refused() -> None:
    """With one sentence and exit code 2."""
    run = subprocess.run([SCRIPT, "no-such-run"], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "there is no run no-such-run" in run.stderr
