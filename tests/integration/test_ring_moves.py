"""``likering ring`` on moves: pause, cancel, revert, verify, history, watch, and the exit codes scripts rely on."""

from __future__ import annotations

import json

import grpc
import pytest

from likering.admin.v1 import ring_service_pb2 as api
from likering.admin.v1.ring_service_pb2_grpc import RingServiceStub
from likering.serving.status import from_rpc_error
from likering.topology.moves import MoveState
from tests.parts.ring_commands import (
    Run,
    age,
    apply,
    moves_of,
    output_of,
    refusal,
    set_up,
    started_node,
    topology_of,
)
from tests.parts.ring_server import RingServer


def test_pause_and_resume(server: RingServer, run: Run) -> None:
    set_up(server)
    apply(run)
    assert output_of(run("ring", "pause", "-o", "json"))["paused"] is True
    assert run("ring", "pause").exit_code == 3
    status = run("ring", "status")
    assert "moves are paused → likering ring resume" in status.stdout
    waits = output_of(run("ring", "status", "-o", "json"))["moves"][0]["waiting"]
    assert (waits["reason"], waits["command"]) == ("moves are paused", "likering ring resume")
    assert output_of(run("ring", "resume", "-o", "json"))["paused"] is False
    assert run("ring", "resume").exit_code == 3


def test_a_silent_node_is_told(server: RingServer, run: Run, database: str) -> None:
    set_up(server)
    apply(run)
    age(database)
    listed = output_of(run("ring", "status", "-o", "json"))["moves"]
    assert listed[0]["waiting"]["reason"].startswith("node c has given no sign for 60 s")
    assert listed[0]["waiting"]["command"] == "start node c"


def test_limits_are_shown_and_set(server: RingServer, run: Run) -> None:
    assert output_of(run("ring", "limits", "-o", "json")) == {
        "paused": False,
        "slots_at_once": 1,
        "rows_per_second": 20_000,
        "pause_budget_ms": 100,
        "grace_seconds": 900,
        "verify_rows_per_second": 20_000,
    }
    result = run("ring", "limits", "--slots-at-once", "4", "--rows-per-second", "0", "--grace", "0")
    assert result.exit_code == 0
    assert "4 slots at once and rows/s without limit per node, pause budget 100 ms" in result.stdout
    limits = server.run(server.moves.limits())
    assert (limits.slots_at_once, limits.rows_per_second, limits.grace_seconds) == (4, 0, 0)
    assert "counts proved at 20,000 rows/s" in result.stdout
    assert "counts not proved" in run("ring", "limits", "--verify-rows-per-second", "0").stdout
    assert server.run(server.moves.limits()).verify_rows_per_second == 0
    assert run("ring", "limits", "--slots-at-once", "65").exit_code == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"slots_at_once": 0},
        {"slots_at_once": 65},
        {"rows_per_second": -1},
        {"pause_budget_ms": 0},
        {"verify_rows_per_second": -1},
    ],
)
def test_limits_that_make_no_sense_are_refused(stub: RingServiceStub, wrong: dict[str, int]) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.SetMoveLimits(api.SetMoveLimitsRequest(**wrong))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert next(iter(wrong)) in from_rpc_error(caught.value).message


def test_moves_are_cancelled_until_their_commit(server: RingServer, run: Run) -> None:
    set_up(server)
    apply(run)
    first, second = moves_of(server)
    server.run(server.take(first, MoveState.COMMITTED))
    assert "can no longer be cancelled" in refusal(run("ring", "cancel", str(first.move), "--yes"))
    both = output_of(run("ring", "cancel", "--resize", "1", "--yes", "-o", "json"))
    assert [move["state"] for move in both] == ["committed", "cancelled"]
    (event, *_) = reversed(server.run(server.moves.events([second.move])))
    assert (event.state, event.who) == (MoveState.CANCELLED, "ring cancel")
    assert run("ring", "cancel", "--yes").exit_code == 2
    assert "no move 99" in refusal(run("ring", "cancel", "99", "--yes"))
    assert "no resize 99" in refusal(run("ring", "cancel", "--resize", "99", "--yes"))


def test_a_slot_is_reverted_between_commit_and_activation(server: RingServer, run: Run) -> None:
    set_up(server)
    apply(run)
    first, second = moves_of(server)
    server.run(server.take(first, MoveState.COMMITTED))
    assert topology_of(server).owners[first.slot] == "c"
    result = run("ring", "revert-slot", str(first.slot), "--yes")
    assert result.exit_code == 0
    assert f"Slot {first.slot} is node {first.source}'s again" in result.stdout
    topology = topology_of(server)
    assert (topology.owners[first.slot], topology.epochs[first.slot]) == (first.source, 3)
    assert "not on its way" in refusal(run("ring", "revert-slot", str(first.slot), "--yes"))
    assert "only one that is committed" in refusal(run("ring", "revert-slot", str(second.slot), "--yes"))
    # What a node asks before it drops what is named by a move.
    assert server.run(server.moves.ended([first.move, second.move, 999])) == {first.move, 999}


def test_verify_waits_for_what_was_handed_over(server: RingServer, run: Run) -> None:
    set_up(server)
    assert run("ring", "verify").exit_code == 3
    apply(run)
    assert run("ring", "verify").exit_code == 3
    first, _ = moves_of(server)
    move = server.run(server.take(first, MoveState.MOVED))
    late = run("ring", "verify", "--timeout", "0.3")
    assert late.exit_code == 5
    assert "moved" in late.stdout

    async def finish() -> None:
        verified = await server.moves.advance(move, MoveState.VERIFIED, "c")
        await server.moves.advance(verified, MoveState.RETIRED, "a")

    with server.meanwhile(finish()):
        # Whether it looks before or after: verified or retired, or nothing is left to wait for.
        result = run("ring", "verify", "-o", "json", "--timeout", "20")
    assert result.exit_code in (0, 3)
    if result.exit_code == 0:
        assert [move["state"] for move in json.loads(result.stdout)] in (["verified"], ["retired"])


def test_history_and_report(server: RingServer, run: Run) -> None:
    set_up(server)
    assert output_of(run("ring", "history", "-o", "json")) == []
    assert run("ring", "report").exit_code == 3
    apply(run)
    for move in moves_of(server):
        server.run(server.take(move, MoveState.VERIFIED, pause_us=9000))
    run("node", "drain", "c", "--yes", "--no-wait")
    newest, oldest = output_of(run("ring", "history", "-o", "json"))
    assert (newest["resize"], newest["slots_moved"], oldest["slots_moved"]) == (2, 0, 2)
    assert oldest["pauses"]["max"] == 0.009
    narrow = run("ring", "history", columns=80).stdout
    assert "…" not in narrow
    assert "2 of 2" in narrow
    assert "9.0, 9.0, 9.0" in narrow
    assert output_of(run("ring", "report", "-o", "json"))["resize"] == 2
    assert output_of(run("ring", "report", "1", "-o", "json"))["slots_moved"] == 2
    assert "no resize 7" in refusal(run("ring", "report", "7"))
    # And the pauses so far are what to expect of the next plan.
    assert output_of(run("ring", "plan", "-o", "json"))["expected_pause"] == 0.009


def test_a_picture_shows_nodes_and_moves(server: RingServer, run: Run, database: str) -> None:
    node = server.run(started_node())
    try:
        node.load.rows, node.load.writes_per_second, node.load.write_p99 = 123_456, 250.4, 0.0123
        server.run(server.nodes("a", address=node.address))
        server.run(server.nodes("b"))
        apply(run)
        first, *_ = moves_of(server)
        server.run(server.take(first, MoveState.CATCHING_UP, lag_us=4000, rows_copied=70, rows_total=70))
        age(database)
        picture = run("ring", "watch", "--once")
        assert picture.exit_code == 0
        lines = [line.replace("│", " ").split() for line in picture.stdout.splitlines()]
        assert ["a", "active", "1", "8", "4.00", "123,456", "250", "12.3", "ms"] in lines
        assert ["b", "active", "1", "0", "4.00", "no", "answer"] in lines
        (moving,) = [line for line in lines if line[4:5] == ["catching_up"] and line[0] != "moves:"]
        assert " ".join(moving).startswith(
            f"{first.move} {first.slot} a b catching_up 70 of 70 4.0 ms ≈ 14.0 ms node b has given no sign for 60 s"
        )
        assert "moves: 3 planned, 1 catching_up" in picture.stdout
        value = output_of(run("ring", "watch", "--once", "-o", "json"))
        assert [load["reachable"] for load in value["loads"]] == [True, False]
    finally:
        server.run(node.stop())


def test_a_watcher_sees_changes_at_once_and_figures_each_second(
    server: RingServer, stub: RingServiceStub
) -> None:
    set_up(server)
    topologies = stub.WatchTopology(api.WatchTopologyRequest(), timeout=30)
    moves = stub.WatchMoves(api.WatchMovesRequest(), timeout=30)
    version = next(topologies).topology.version
    assert not next(moves).moves
    plan = stub.PlanResize(api.PlanResizeRequest(weights={"c": 2})).plan
    resize = stub.ApplyPlan(api.ApplyPlanRequest(plan=plan)).resize
    assert next(topologies).topology.version == version + 1
    assert len(next(picture for picture in moves if picture.moves).moves) == 4
    first, *_ = moves_of(server)
    server.run(server.moves.report(first, waits_for="the moon"))  # of which the store tells nobody
    assert next(
        move
        for picture in moves
        for move in picture.moves
        if move.HasField("waiting") and move.waiting.reason == "the moon"
    )
    with pytest.raises(grpc.RpcError) as caught:
        next(stub.WatchMoves(api.WatchMovesRequest(resize=resize + 1)))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    moves.cancel()
    topologies.cancel()
