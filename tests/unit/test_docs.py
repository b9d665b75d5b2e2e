"""The pages speak of what is there: links lead somewhere, files, commands and options exist, and sums are right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import pytest
from grpc import StatusCode

from likering.capacity.sizing import Costs, Machines, Workload, size
from likering.errors import ERRORS_BY_REASON
from tests.parts import documented
from tests.parts.pages import ROOT, Page, files, pages, words_of
from tests.parts.sources import commands_told, sources

PAGES = pages()
PRESENT = [page for page in PAGES if page.path.name != "CHANGELOG.md"]
"""Those that speak of how things are now, not of how they have become so."""
FILES = [f"/{file}" for file in files()]
_FILE = re.compile(r"[\w.*-]+(/[\w.*-]+)*\.(py|sql|lua|proto|pml|md|ts|toml|lock|yaml)")
_DOCS = re.compile(r"(?<![\w/.])docs/[\w/-]+(?:\.md)?")
_PLACE = re.compile(
    r"(router|shard_node|likering|protos|docs|tests|scripts|comparison|examples|k8s)/[\w./*-]*"
)


@pytest.mark.parametrize("page", PAGES, ids=repr)
def test_links_lead_somewhere(page: Page) -> None:
    for link in page.links:
        place, anchor = page.resolve(link)
        assert place.exists(), f"{page}: nothing is at {link}"
        if anchor:
            assert anchor in Page(place).anchors, f"{page}: no heading for {link}"


@pytest.mark.parametrize("page", PAGES, ids=repr)
def test_files_that_are_named_exist(page: Page) -> None:
    for span in page.spans:
        if _FILE.fullmatch(span):
            assert any(fnmatch(file, f"*/{span}") for file in FILES), f"{page}: there is no {span}"
        elif _PLACE.fullmatch(span):
            assert list(ROOT.glob(span.rstrip("/"))), f"{page}: there is no {span}"


@pytest.mark.parametrize("page", PAGES, ids=repr)
def test_tests_that_are_named_exist(page: Page) -> None:
    named = {span for span in page.spans if re.fullmatch(r"test_\w+", span)}
    if named:
        tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
        assert named <= set(re.findall(r"def (test_\w+)", tests))


def _shown() -> list[tuple[Page, list[str]]]:
    return [(page, words) for page in PRESENT for words in page.commands if documented.is_ours(words)]


@pytest.mark.parametrize(("page", "words"), _shown(), ids=lambda value: str(value)[:80])
def test_commands_that_are_shown_can_be_typed(
    page: Page, words: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIKERING_TOPOLOGY", "postgresql://…")  # as `likering dev env` sets it
    _with_the_files_of(words, tmp_path, monkeypatch)
    documented.read(words)


@pytest.mark.parametrize("page", PRESENT, ids=repr)
def test_commands_within_sentences_exist(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for span in page.spans:
        if not span.startswith(("likering ", "likering-", "scripts/compare ")):
            continue
        # "likering ring pause | resume" is two commands.
        first, *others = span.split(" | ")
        for command in (first, *(f"{first.rpartition(' ')[0]} {other}" for other in others)):
            if documented.is_ours(words := words_of(command)):
                _with_the_files_of(words, tmp_path, monkeypatch)
                documented.read(words, spoken_of=True)


@pytest.mark.parametrize("page", PRESENT, ids=repr)
def test_options_within_sentences_exist(page: Page) -> None:
    named = {found[0] for span in page.spans if (found := re.match(r"--[a-z][\w-]*(?= |$)", span))}
    assert named <= documented.options(), f"{page} names options that no program has"


@pytest.mark.parametrize("page", PRESENT, ids=repr)
def test_variables_within_sentences_exist(page: Page) -> None:
    named = {span.partition("=")[0] for span in page.spans if re.fullmatch(r"LIKERING_[A-Z_]+(=.*)?", span)}
    assert named <= documented.variables(), f"{page} names variables that no program reads"


@pytest.mark.parametrize(
    "command", ["likering ring rotate", "likering ring limits --gace 0", "scripts/compare walk"]
)
def test_a_command_that_does_not_exist_is_found(command: str) -> None:
    with pytest.raises(Exception, match=r"there is no|No such option"):
        documented.read(words_of(command))


def test_a_command_that_lacks_an_argument_is_found() -> None:
    with pytest.raises(Exception, match="Missing"):
        documented.read(words_of("likering node weight d"))


def test_an_option_that_a_process_does_not_have_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        documented.read(words_of("likering-router --topology … --lissen localhost:1"))
    assert "lissen" in capsys.readouterr().err


def test_every_page_is_reached_from_the_readme() -> None:
    to_read = [ROOT / "README.md"]
    reached: set[Path] = set()
    while to_read:
        path = to_read.pop()
        if path in reached or path.suffix != ".md":
            continue
        reached.add(path)
        page = Page(path)
        to_read += [page.resolve(link)[0] for link in page.links]
    assert reached == {page.path for page in PAGES}


def test_the_decisions_are_numbered_and_listed() -> None:
    records = sorted((ROOT / "docs/decisions").glob("0*.md"))
    listed = Page(ROOT / "docs/decisions/README.md").links
    assert listed == [record.name for record in records]
    numbers = [record.name[:4] for record in records]
    assert len(set(numbers)) == len(numbers)
    for record in records:
        assert re.match(rf"# {record.name[:4]}:? ", record.read_text()), f"{record.name} has another number"


@pytest.mark.parametrize("page", PRESENT, ids=repr)
def test_decisions_are_linked_by_their_numbers(page: Page) -> None:
    for number, target in re.findall(
        r"\[[^\[\]]*?(\d{4})\]\([^()]*?(\d{4})-[\w-]+\.md\)", page.path.read_text()
    ):
        assert number == target, f"{page}: a link named {number} leads to {target}"


def test_errors_are_told_with_their_codes() -> None:
    page = (ROOT / "docs/api.md").read_text()
    rows = re.findall(r"^\| `([A-Z_]+)` \| ((?:`[A-Z_]+`(?:, )?)+) \|", page, re.MULTILINE)
    assert rows
    for code, reasons in rows:
        for reason in re.findall(r"`(\w+)`", reasons):
            assert ERRORS_BY_REASON[reason].code.name == code, f"{reason} does not come as {code}"


@pytest.mark.parametrize("page", PRESENT, ids=repr)
def test_reasons_stand_beside_the_codes_that_they_come_with(page: Page) -> None:
    """As in ``UNAVAILABLE SHARD_UNAVAILABLE``."""
    codes = {code.name for code in StatusCode}
    for span in page.spans:
        code, _, reason = span.partition(" ")
        if code in codes and re.fullmatch(r"[A-Z]+(_[A-Z]+)*", reason):
            assert ERRORS_BY_REASON[reason].code.name == code, f"{page}: {span}"


def test_the_design_has_five_steps() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "docs/design.md").read_text(), re.MULTILINE)
    assert [heading[:3] for heading in headings] == [f"{step}. " for step in range(1, 6)]


def test_the_design_is_the_plan_without_options() -> None:
    """What it says of its cluster is what ``likering plan`` computes."""
    found = size(Workload(), Costs(), Machines())
    page = (ROOT / "docs/design.md").read_text()
    assert f"wants {found.shards} nodes for two years' likes" in page
    assert re.search(rf"^all calls .* = {found.batches_peak / 1000:.1f} k$", page, re.MULTILINE)
    assert f"The next power of two is {found.slots:,} slots" in page
    costs = Costs()
    for cells in (
        (costs.likes_per_router_core, costs.likes_per_node_core, costs.likes_per_postgres_core),
        (costs.counts_per_router_core, costs.counts_per_node_core),
        (costs.batches_per_router_core, costs.batches_per_node_core),
    ):
        row = " | ".join(f"{1e6 / rate:.{0 if rate < 50_000 else 1}f}" for rate in cells)
        assert f"| {row} |" in page
    more = {reads: size(replace(Workload(), reads_per_like=reads), costs, Machines()) for reads in (50, 500)}
    assert f"on {more[50].shards} nodes, and for all 500 that would be {more[500].shards:,}" in " ".join(
        page.split()
    )


def test_the_sums_of_the_design_are_right() -> None:
    sums = Page(ROOT / "docs/design.md").sums
    assert sums
    for line, value, said, rounding in sums:
        assert value == pytest.approx(said, abs=rounding * 1.001), line


def _told() -> list[tuple[str, str]]:
    return [(path.name, command) for path in sources() for command in commands_told(path)]


@pytest.mark.parametrize(("source", "command"), _told())
def test_commands_that_programs_tell_of_exist(
    source: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = words_of(command)
    _with_the_files_of(words, tmp_path, monkeypatch)
    documented.read(words, spoken_of=True)


def test_what_operators_are_told_to_type_is_among_them() -> None:
    assert ("wait_reasons.py", "likering ring resume") in _told()


def test_pages_that_the_code_names_exist() -> None:
    code = [file for file in files() if file.endswith((".py", ".sql", ".proto", ".pml", ".lua"))]
    named = {name for file in code for name in _DOCS.findall((ROOT / file).read_text())}
    assert named
    assert [name for name in sorted(named) if not list(ROOT.glob(f"{name}*"))] == []


def _with_the_files_of(words: Sequence[str], directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goes where the files are that a command names: some commands look for theirs at once."""
    monkeypatch.chdir(directory)
    for word in words[1:]:
        if "/" not in word and not word.startswith("-"):
            (directory / word).touch()
