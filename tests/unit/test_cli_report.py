"""Reports, figures and plain values of the commands for operators."""

from __future__ import annotations

import io
import json

import pytest
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console

from likering.admin.v1 import ring_service_pb2 as api
from likering.cli import live
from likering.cli.figures import count, duration, size
from likering.cli.messages import plain
from likering.cli.report import percentile, report_of


def at(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(1_700_000_000 * 10**9 + int(seconds * 1e9))
    return stamp


def moved(slot: int, *events: tuple[float, int, api.MoveState.ValueType], pause: float) -> api.MoveReport:
    report = api.MoveReport(
        move=api.Move(
            move=slot + 10,
            slot=slot,
            source="a",
            target="b",
            state=events[-1][2],
            attempt=events[-1][1],
            rows_copied=100,
            pause=pause,
        )
    )
    for time, attempt, state in events:
        report.events.add(time=at(time), attempt=attempt, state=state, who="b")
    return report


def test_a_report_names_what_was_never_compared() -> None:
    """Retired without having been verified: a node was lost."""
    active, verified, retired = api.MOVE_STATE_ACTIVE, api.MOVE_STATE_VERIFIED, api.MOVE_STATE_RETIRED
    resize = api.Resize(
        apply_time=at(0),
        moves=[
            moved(1, (1, 1, active), (2, 1, verified), (3, 1, retired), pause=0.01),
            moved(2, (1, 1, active), (5, 1, retired), pause=0.01),
            moved(3, (1, 1, active), pause=0.01),
        ],
    )
    report = report_of(resize)
    assert [slot["never_compared"] for slot in report["slots"]] == [False, True, False]
    assert (report["slots_moved"], report["slots_never_compared"], report["seconds"]) == (2, 1, 2.0)


def test_a_report_counts_aborted_freezes_as_pauses() -> None:
    planned, freezing = api.MOVE_STATE_PLANNED, api.MOVE_STATE_FREEZING
    resize = api.Resize(
        resize=4,
        apply_time=at(0),
        plan=api.Plan(minimum=3),
        moves=[
            moved(
                1,
                (0, 1, planned),
                (1, 1, freezing),
                (1.125, 1, api.MOVE_STATE_ABORTED),
                (2, 2, planned),
                (3, 2, freezing),
                (4, 2, api.MOVE_STATE_VERIFIED),
                pause=0.01,
            ),
            moved(
                2,
                (0, 1, planned),
                (3, 1, freezing),
                (5, 1, api.MOVE_STATE_VERIFIED),
                (900, 1, api.MOVE_STATE_RETIRED),
                pause=0.02,
            ),
            moved(3, (0, 1, planned), (2, 1, api.MOVE_STATE_CANCELLED), pause=0),
        ],
    )
    report = report_of(resize)
    assert json.loads(json.dumps(report)) == report
    assert (report["slots_planned"], report["slots_moved"], report["slots_given_up"]) == (3, 2, 1)
    assert report["seconds"] == 5.0
    assert (report["rows"], report["rows_per_second"]) == (300, 60.0)
    assert report["pauses"] == {"count": 3, "aborted": 1, "p50": 0.02, "p99": 0.125, "max": 0.125}
    first, second, third = report["slots"]
    assert (first["attempts"], first["aborted_freezes"], first["pause"]) == (2, [0.125], 0.01)
    assert [phase["seconds"] for phase in second["phases"]] == [3.0, 2.0, 895.0, None]
    assert (third["state"], third["pause"]) == ("cancelled", None)


def test_a_report_of_nothing_is_one_too() -> None:
    report = report_of(api.Resize(resize=1))
    assert report["pauses"] == {"count": 0, "aborted": 0, "p50": None, "p99": None, "max": None}
    assert (report["seconds"], report["rows_per_second"]) == (0.0, None)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([], 0.5, None),
        ([3.0], 0.99, 3.0),
        ([4.0, 1.0, 3.0, 2.0], 0.5, 2.0),
        ([*map(float, range(100))], 0.99, 98.0),
    ],
)
def test_percentiles_are_by_nearest_rank(values: list[float], share: float, expected: float | None) -> None:
    assert percentile(values, share) == expected


def test_figures() -> None:
    assert [count(number) for number in (-1, 0, 1234567)] == ["?", "0", "1,234,567"]
    assert [size(number) for number in (-1, 0, 1023, 1024, 3 * 2**20, 2**60)] == [
        "?",
        "0 B",
        "1023 B",
        "1.0 KiB",
        "3.0 MiB",
        "1048576.0 TiB",
    ]
    assert [duration(seconds) for seconds in (-1, 0, 0.0123, 1, 90, 900, 9000)] == [
        "?",
        "0 s",
        "12.3 ms",
        "1.0 s",
        "90.0 s",
        "15 min",
        "2.5 h",
    ]


def test_plain_values_are_numbers_and_short_names_and_all_fields() -> None:
    move = plain(api.Move(move=2**40, state=api.MOVE_STATE_CATCHING_UP, state_since=at(0)))
    assert (move["move"], move["state"]) == (2**40, "catching_up")
    assert move["state_since"] == "2023-11-14T22:13:20Z"
    assert (move["waiting"], move["rows_copied"], move["source"]) == (None, 0, "")
    assert plain(api.Node(state=api.NODE_STATE_DRAINING))["state"] == "draining"


def test_a_plan_survives_being_plain() -> None:
    plan = api.Plan(cluster_id="c", version=2**40, weights={"b": 2}, expected_seconds=-1)
    plan.moves.add(slot=3, source="a", target="b", epoch=1, rows=-1, bytes=2**50)
    assert json_format.ParseDict(plain(plan), api.Plan()) == plan


def test_a_picture_with_little_room_shows_what_moves_first() -> None:
    picture = api.WatchMovesResponse(limits=api.MoveLimits(paused=True, slots_at_once=2))
    for number in range(1, 6):
        picture.moves.add(move=number, slot=number, state=api.MOVE_STATE_PLANNED)
    picture.moves.add(move=6, slot=77, state=api.MOVE_STATE_COPYING, last_error="[bold] is no markup")
    picture.moves.add(move=7, slot=88, state=api.MOVE_STATE_RETIRED)
    console = Console(width=200, file=io.StringIO())
    console.print(live.frame(picture, rows=2))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "moves are paused; 2 slots at once and rows/s without limit" in text
    assert "77" in text
    assert "88" not in text
    assert "last error: [bold] is no markup" in text
    assert "… and 4 more" in text
    assert "moves: 5 planned, 1 copying, 1 retired" in text
