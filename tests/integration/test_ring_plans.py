"""``likering ring plan`` and ``apply``: what they do, and the exit codes that scripts rely on.

No shard node runs but where a test has a stand-in: what can be planned and applied does not need them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from likering.topology.moves import MoveState, SlotMove
from tests.parts.registration import registration
from tests.parts.ring_commands import (
    Run,
    apply,
    moves_of,
    output_of,
    refusal,
    set_up,
    started_node,
    topology_of,
)
from tests.parts.ring_server import NOWHERE, RingServer


def test_a_plan_says_what_would_move(server: RingServer, run: Run) -> None:
    """Of nodes that do not answer no rows are known, and so no time."""
    topology = set_up(server)
    plan = output_of(run("ring", "plan", "-o", "json"))
    assert (plan["cluster_id"], plan["version"]) == (topology.cluster_id, topology.version)
    assert {(move["target"], move["rows"], move["bytes"], move["epoch"]) for move in plan["moves"]} == {
        ("c", -1, -1, 1)
    }
    assert len(plan["moves"]) == plan["minimum"] == 2
    assert [(share["node"], share["slots"]) for share in plan["before"]] == [("a", 4), ("b", 4), ("c", 0)]
    assert sorted(share["slots"] for share in plan["after"]) == [2, 3, 3]
    assert (plan["expected_seconds"], plan["expected_pause"]) == (-1, 0.015)
    table = run("ring", "plan")
    assert table.exit_code == 0
    assert "2 moves (the fewest possible: 2), ? rows, ?; expected: ? in all, 15.0 ms pause" in table.stdout
    assert topology_of(server) == topology
    assert not moves_of(server)


def test_a_plan_knows_the_rows_of_nodes_that_answer(server: RingServer, run: Run) -> None:
    node = server.run(started_node())
    try:
        server.run(server.nodes("a", address=node.address))
        server.run(server.nodes("b"))
        node.hold(topology_of(server).slots_of("a"), rows=40_000, size=3 * 2**20)
        plan = output_of(run("ring", "plan", "-o", "json"))
        assert {(move["rows"], move["bytes"]) for move in plan["moves"]} == {(40_000, 3 * 2**20)}
        # Four slots of two seconds each at 20,000 rows/s.
        assert plan["expected_seconds"] == pytest.approx(10.0)
        assert (
            "4 moves (the fewest possible: 4), 160,000 rows, 12.0 MiB; expected: 10.0 s"
            in run("ring", "plan").stdout
        )
    finally:
        server.run(node.stop())


def test_with_nothing_to_move_a_plan_is_code_3(server: RingServer, run: Run) -> None:
    server.run(server.nodes("a", "b"))
    result = run("ring", "plan")
    assert result.exit_code == 3
    assert "no slot has to move" in result.stderr
    assert run("ring", "apply", "--yes").exit_code == 3


def test_a_plan_for_other_weights(server: RingServer, run: Run) -> None:
    set_up(server)
    plan = output_of(run("ring", "plan", "--weight", "c=2", "-o", "json"))
    assert plan["weights"] == {"c": 2}
    assert len(plan["moves"]) == 4
    assert topology_of(server).nodes["c"].weight == 1
    assert "known are: a, b, c" in refusal(run("ring", "plan", "--weight", "x=2"))
    assert "from 1 to 1000, not 5000" in refusal(run("ring", "plan", "--weight", "c=5000"))
    for value in ("c", "c=0", "c=x", "=1"):
        assert run("ring", "plan", "--weight", value).exit_code == 2


def test_slots_without_an_owner_cannot_be_planned_for(server: RingServer, run: Run) -> None:
    server.run(server.nodes("a", assign=False))
    assert "likering cluster assign" in refusal(run("ring", "plan"))


# Applying


def test_a_plan_in_a_file_is_applied_as_it_is(server: RingServer, run: Run, tmp_path: Path) -> None:
    set_up(server)
    file = tmp_path / "plan.json"
    plan = output_of(run("ring", "plan", "--weight", "c=2", "--out", str(file), "-o", "json"))
    assert json.loads(file.read_text()) == plan
    result = run("ring", "apply", str(file), "--yes", "--no-wait")
    assert result.exit_code == 0
    assert "Resize 1 has begun" in result.stdout
    moves = moves_of(server)
    assert [(move.slot, move.source, move.target) for move in moves] == [
        (move["slot"], move["source"], move["target"]) for move in plan["moves"]
    ]
    assert {move.state for move in moves} == {MoveState.PLANNED}
    assert topology_of(server).nodes["c"].weight == 2
    (event, *_) = server.run(server.moves.events([moves[0].move]))
    assert event.who == "ring apply"


def test_a_plan_is_stale_once_the_topology_has_changed(server: RingServer, run: Run, tmp_path: Path) -> None:
    """Nothing of it is done, the weights included."""
    set_up(server)
    file = tmp_path / "plan.json"
    run("ring", "plan", "--weight", "c=2", "--out", str(file))
    server.run(server.nodes("d"))
    assert "make another plan" in refusal(run("ring", "apply", str(file), "--yes"))
    assert not moves_of(server)
    assert topology_of(server).nodes["c"].weight == 1


def test_a_plan_of_a_cluster_is_for_no_other(server: RingServer, run: Run, tmp_path: Path) -> None:
    set_up(server)
    file = tmp_path / "plan.json"
    plan = output_of(run("ring", "plan", "-o", "json"))
    file.write_text(json.dumps({**plan, "cluster_id": "another"}))
    assert "for cluster another" in refusal(run("ring", "apply", str(file), "--yes"))


@pytest.mark.parametrize("text", ["", "no plan", "{}", '{"version": "x"}', '{"unknown": 1}'])
def test_a_file_without_a_plan_is_a_mistake(run: Run, tmp_path: Path, text: str) -> None:
    file = tmp_path / "plan.json"
    file.write_text(text)
    result = run("ring", "apply", str(file), "--yes")
    assert result.exit_code == 2
    assert "holds no plan" in result.stderr
    assert run("ring", "apply", str(tmp_path / "none"), "--yes").exit_code == 2


def test_slots_that_move_already_are_refused(server: RingServer, run: Run) -> None:
    set_up(server)
    apply(run)
    assert "moving already" in refusal(run("ring", "apply", "--yes"))


def test_without_a_terminal_nothing_is_changed_unless_told(server: RingServer, run: Run) -> None:
    topology = set_up(server)
    for command in (
        ("ring", "apply"),
        ("ring", "cancel", "1"),
        ("ring", "revert-slot", "1"),
        ("node", "add", "c"),
        ("node", "drain", "a"),
        ("node", "remove", "c"),
    ):
        assert "say --yes" in refusal(run(*command))
    assert topology_of(server) == topology
    assert not moves_of(server)


def test_weights_alone_are_set_by_a_plan_without_moves(server: RingServer, run: Run) -> None:
    server.run(server.nodes("a", "b"))
    result = run("ring", "apply", "--yes", "--weight", "a=2", "--weight", "b=2")
    assert result.exit_code == 0
    assert "weights are set" in result.stdout
    assert {node.weight for node in topology_of(server).nodes.values()} == {2}
    assert not moves_of(server)


def test_apply_waits_until_all_slots_are_verified_and_reports(
    server: RingServer, run: Run, tmp_path: Path
) -> None:
    set_up(server)
    file = tmp_path / "report.json"
    facts: dict[str, Any] = {"rows_copied": 500, "rows_total": 500, "pause_us": 12_000, "lag_us": 3000}
    with server.meanwhile(server.take_all(**facts)):
        report = output_of(run("ring", "apply", "--yes", "--report", str(file), "-o", "json"))
    assert json.loads(file.read_text()) == report
    assert (report["slots_moved"], report["slots_planned"], report["minimum"]) == (2, 2, 2)
    assert report["pauses"] == {"count": 2, "aborted": 0, "p50": 0.012, "p99": 0.012, "max": 0.012}
    assert report["rows"] == 1000
    assert report["rows_per_second"] == pytest.approx(1000 / report["seconds"])
    slot = report["slots"][0]
    assert (slot["state"], slot["attempts"], slot["lag"], slot["target"]) == ("verified", 1, 0.003, "c")
    assert [phase["state"] for phase in slot["phases"]] == [
        "planned",
        "copying",
        "catching_up",
        "freezing",
        "committed",
        "activating",
        "active",
        "moved",
        "verified",
    ]
    assert slot["phases"][2]["detail"] == {"step": "catching_up"}
    assert all(phase["seconds"] >= 0 for phase in slot["phases"][:-1])
    assert len(topology_of(server).slots_of("c")) == 2
    assert "resize 1: 2 of 2 slots moved (the fewest possible: 2)" in run("ring", "report").stdout


def test_not_done_in_time_is_code_5_and_the_moves_go_on(server: RingServer, run: Run) -> None:
    set_up(server)
    result = run("ring", "apply", "--yes", "--timeout", "0.5")
    assert result.exit_code == 5
    assert "resize 1 goes on" in result.stderr
    assert {move.state for move in moves_of(server)} == {MoveState.PLANNED}


def test_moves_that_are_cancelled_meanwhile_are_code_1(server: RingServer, run: Run) -> None:
    set_up(server)

    async def cancel(moves: list[SlotMove]) -> None:
        await server.moves.cancel([move.move for move in moves], "test")

    with server.meanwhile(server.when_moving(cancel)):
        result = run("ring", "apply", "--yes")
    assert result.exit_code == 1
    assert "2 of the 2 moves were cancelled" in result.stderr


def test_a_plan_that_became_stale_is_made_again_if_its_moves_stay_the_same(
    server: RingServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that restarts changes the version, and nothing that matters here."""
    set_up(server)

    def restart(question: str, yes: bool) -> None:
        server.run(server.store.register(registration("a", address=NOWHERE, generation=2)))

    monkeypatch.setattr("likering.cli.resize.confirm", restart)
    assert run("ring", "apply", "--yes", "--no-wait").exit_code == 0
    assert len(moves_of(server)) == 2
