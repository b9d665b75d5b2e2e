"""``likering import`` and ``likering export`` on clusters whose parts die and whose slots move."""

from __future__ import annotations

import asyncio
import csv
import gzip
import json
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import sleep
from typing import Any

import pytest

from likering import LikeTracker
from likering.cli.transfer.blocks import Reject
from likering.cli.transfer.states import ImportState, load
from likering.cli.transfer.times import text_of
from likering.dev.cluster import EmbeddedCluster
from tests.parts.resizing import Resizing
from tests.parts.ring_commands import likering, output_of
from tests.parts.until import until

pytestmark = pytest.mark.timeout(120)

LONG_AGO = 1_400_000_000
Row = tuple[str, str, str]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCluster]:
    """A cluster with another number of slots, whose parts are killed."""
    with EmbeddedCluster(tmp_path_factory.mktemp("other"), nodes=2, slots=16) as cluster:
        yield cluster


def rows_of(name: str, likes: int, posts: int) -> list[Row]:
    """Many of a post have the same time."""
    return [
        (f"user-{n}", f"{name}-{n * n % posts}", text_of((LONG_AGO + n // 50) * 1_000_000))
        for n in range(likes)
    ]


def write(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    with gzip.open(path, "wt", newline="") if path.suffix == ".gz" else path.open("w", newline="") as file:
        csv.writer(file).writerows([("user_id", "post_id", "liked_at"), *rows])
    return path


def read(path: Path) -> list[Row]:
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["user_id", "post_id", "liked_at"]
    return [(user, post, time) for user, post, time in rows]


def rejected_in(path: str) -> list[int]:
    """Numbers of the lines in a rejects file."""
    with Path(path).open(newline="") as file:
        header, *rejected = csv.reader(file)
    assert tuple(header) == Reject._fields
    return [int(line) for line, *_ in rejected]


def listed(tracker: LikeTracker, post: str) -> list[tuple[str, str]]:
    """The post's likes as lists have them, the oldest first."""
    likes = [
        (like.user_id, text_of(int(like.like_time.timestamp()) * 1_000_000)) for like in tracker.likers(post)
    ]
    return likes[::-1]


def by_post(rows: Sequence[Row]) -> dict[str, list[tuple[str, str]]]:
    posts: dict[str, list[tuple[str, str]]] = {}
    for user, post, time in rows:
        posts.setdefault(post, []).append((user, time))
    return posts


def assert_imported(cluster: EmbeddedCluster, rows: Sequence[Row]) -> None:
    """Each like once, in the order of the lists; the counts say so too."""
    with LikeTracker(cluster.address, timeout=20.0) as tracker:
        for post, likes in by_post(rows).items():
            assert tracker.like_count(post) == len(likes), post
            assert listed(tracker, post) == likes, post


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_a_round_trip_into_another_number_of_slots(
    cluster: EmbeddedCluster, other: EmbeddedCluster, tmp_path: Path, suffix: str
) -> None:
    """Likes, times, counts and order of lists are the same there."""
    name = f"round{suffix}"
    rows = rows_of(name, 3000, 12)
    source = write(tmp_path / "source.csv", rows)
    assert output_of(likering(cluster.admin_address, "import", str(source), "-o", "json"))["inserted"] == 3000
    with LikeTracker(cluster.address, timeout=20.0) as tracker:
        tracker.unlike(*rows[0][:2])
        tracker.like('here, "too"\n', f"{name}-0")
    target = tmp_path / f"target{suffix}"
    told = output_of(likering(cluster.admin_address, "export", str(target), "-o", "json"))
    assert told["likes"] >= 3000
    result = likering(other.admin_address, "import", str(target), "-o", "json")
    assert output_of(result)["inserted"] + output_of(result)["existing"] == told["likes"]
    back = tmp_path / "back.csv"
    output_of(likering(other.admin_address, "export", str(back), "-o", "json"))
    mine = by_post([row for row in read(back) if row[1].startswith(f"{name}-")])
    assert sum(map(len, mine.values())) == 3000
    with (
        LikeTracker(cluster.address, timeout=20.0) as here,
        LikeTracker(other.address, timeout=20.0) as there,
    ):
        for post in mine:
            assert there.like_count(post) == here.like_count(post) == len(mine[post])
            likers = [(like.user_id, like.like_time) for like in here.likers(post)]
            assert [(like.user_id, like.like_time) for like in there.likers(post)] == likers
        assert not there.has_liked(*rows[0][:2])
        user, post, time = rows[1]
        assert there.has_liked(user, post)
        assert since(there, user, post) == time


def since(tracker: LikeTracker, user: str, post: str) -> str:
    """Since when the user likes the post, by the users' side, which is told after a moment."""
    for _ in range(1000):
        for like in tracker.liked_posts(user):
            if like.post_id == post:
                return text_of(int(like.like_time.timestamp()) * 1_000_000)
        sleep(0.02)
    raise AssertionError(f"{user} has not been told of {post}")


class Importing:
    """``likering import`` as a process, or a thread, of its own; one at a time on a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state = path.with_name(f"{path.name}.import.json")

    @property
    def line(self) -> int:
        """Up to where everything is in, by the state."""
        state = load(self._state, ImportState)
        return state.line if state is not None else 0

    async def killed(self, admin: str, lines: int) -> None:
        """Kills a process that imports, once it has got so far."""
        command = [sys.executable, "-m", "likering.cli", "import", str(self.path), "--admin", admin]
        process = await asyncio.create_subprocess_exec(*command, *(["--resume"] if self.line else []))
        try:
            await until(lambda: self.line > lines)
            assert process.returncode is None, "the import was over too soon for this test"
        finally:
            process.kill()
            await process.wait()

    def begin(self, admin: str) -> None:
        """In a thread."""
        self._result: dict[str, Any] = {}

        def run() -> None:
            self._result["of"] = likering(admin, "import", str(self.path), "-o", "json")

        self._thread = threading.Thread(target=run)
        self._thread.start()

    async def ended(self) -> Any:
        await asyncio.to_thread(self._thread.join)
        return self._result["of"]


async def test_an_import_that_is_killed_goes_on(other: EmbeddedCluster, tmp_path: Path) -> None:
    """Twice. Every row is in once, and every bad line rejected once."""
    rows = rows_of("killed", 64_000, 40)
    bad = dict.fromkeys(range(100, len(rows), 9973), ("", "no user", ""))
    lines: list[Sequence[str]] = [bad.get(n, row) for n, row in enumerate(rows)]
    importing = Importing(write(tmp_path / "likes.csv.gz", lines))
    await importing.killed(other.admin_address, 0)
    result = likering(other.admin_address, "import", str(importing.path))
    assert result.exit_code == 4
    assert "--resume goes on there" in result.stderr
    await importing.killed(other.admin_address, importing.line)
    result = likering(other.admin_address, "import", str(importing.path), "--resume", "-o", "json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert told["inserted"] + told["existing"] == len(rows) - len(bad)
    assert told["rejected"] == len(bad)
    assert rejected_in(told["rejects"]) == [n + 2 for n in bad]
    assert_imported(other, [row for n, row in enumerate(rows) if n not in bad])
    assert importing.line == 0
    assert likering(other.admin_address, "import", str(importing.path), "--resume").exit_code == 2


async def test_a_node_dies_during_an_import(other: EmbeddedCluster, tmp_path: Path) -> None:
    rows = rows_of("node", 48_000, 40)
    importing = Importing(write(tmp_path / "likes.csv", rows))
    importing.begin(other.admin_address)
    await until(lambda: importing.line > 0)
    other.kill("a", "node", signal.SIGKILL)
    told = output_of(await importing.ended())
    assert told["inserted"] + told["existing"] == len(rows)
    assert_imported(other, rows)


async def test_slots_move_during_an_import_and_an_export(other: EmbeddedCluster, tmp_path: Path) -> None:
    rows = rows_of("move", 64_000, 40)
    importing = Importing(write(tmp_path / "likes.csv", rows))
    async with Resizing(other) as resizing:
        await resizing.moves.set_limits(slots_at_once=2, rows_per_second=0, pause_budget_ms=1000)
        await asyncio.to_thread(other.add_node, "c")
        importing.begin(other.admin_address)
        await until(lambda: importing.line > 0)
        resize, plan = await resizing.begin()
        assert plan.minimum
        assert output_of(await importing.ended())["inserted"] == len(rows)
        exporting = asyncio.create_task(
            asyncio.to_thread(likering, other.admin_address, "export", str(tmp_path / "out.csv"))
        )
        moves = await resizing.settled(resize)
        assert not [move for move in moves if move.last_error]
        assert (await exporting).exit_code == 0
    assert_imported(other, rows)
    exported = Counter(row for row in read(tmp_path / "out.csv") if row[1].startswith("move-"))
    assert exported == Counter(rows)


def test_what_makes_no_sense_is_refused(cluster: EmbeddedCluster, tmp_path: Path) -> None:
    path = write(tmp_path / "likes.csv", [("u", "refused-0", "1400000000")])
    result = likering(cluster.admin_address, "import", str(path), "-o", "json")
    assert (result.exit_code, json.loads(result.stdout)["rejected"]) == (1, 1)
    future = write(tmp_path / "future.csv", [("u", "refused-0", "2990-01-01"), ("v", "refused-0", "")])
    told = json.loads(likering(cluster.admin_address, "import", str(future), "-o", "json").stdout)
    assert (told["inserted"], told["rejected"]) == (1, 1)
    assert "at most 60 s ahead" in Path(told["rejects"]).read_text()
    assert likering(cluster.admin_address, "export", str(path)).exit_code == 4
    assert likering(cluster.admin_address, "export", str(tmp_path / "n.csv"), "--resume").exit_code == 2
    path.write_text("user,post\n")
    result = likering(cluster.admin_address, "import", str(path))
    assert (result.exit_code, "has no column 'user_id'" in result.stderr) == (1, True)
