"""examples/typescript is built from the protos with the packages that it locks, and does what it says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from likering.dev.cluster import EmbeddedCluster

ROOT = Path(__file__).parents[2]
EXAMPLE = Path("examples", "typescript")


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, installed and built in a copy: its checkout stays without node_modules."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        # On CI as well: what Debian installs may be too old for the example, and nothing else needs it.
        pytest.skip("Node is not installed: the TypeScript example was not run")
    copy = tmp_path_factory.mktemp("typescript")
    built = shutil.ignore_patterns("node_modules", "build")
    shutil.copytree(ROOT / EXAMPLE, copy / EXAMPLE, ignore=built)
    shutil.copytree(ROOT / "protos" / "likering" / "v1", copy / "protos" / "likering" / "v1")
    run(copy / EXAMPLE, "npm", "ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund")
    return copy / EXAMPLE


def test_it_likes_pages_watches_and_ends(cluster: EmbeddedCluster, example: Path) -> None:
    said = run(example, "npm", "start", "--silent", "--", cluster.address).splitlines()
    users = ["mia", "noah", "olga", "pia", "quinn"]
    assert said == [
        *(f"{user} likes: MUTATION_OUTCOME_CHANGED, {count} likes" for count, user in enumerate(users, 1)),
        "page: quinn, pia of 5",
        "page: olga, noah of 5",
        "page: mia of 5",
        "watched: 5 likes",
        "quinn unlikes: MUTATION_OUTCOME_CHANGED",
        "watched: 4 likes",
    ]


def test_where_its_packages_come_from_is_left_to_npm() -> None:
    """A lock file with addresses has those of whoever wrote it, which nobody else may be able to reach."""
    packages = json.loads((ROOT / EXAMPLE / "package-lock.json").read_text())["packages"]
    assert not [name for name, package in packages.items() if "resolved" in package]
    assert all("integrity" in package for name, package in packages.items() if name)


def run(directory: Path, *command: str) -> str:
    """What a command prints that has to succeed."""
    done = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, "npm_config_update_notifier": "false"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout
