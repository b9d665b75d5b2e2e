"""``likering ring`` and ``likering node`` against RingService: what they do, and the exit codes that scripts rely on.

No shard node runs but where a test has a stand-in: what can be planned, cancelled and told does not need them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from typer.testing import CliRunner, Result

from likering.admin.v1 import ring_service_pb2 as api
from likering.admin.v1.ring_service_pb2_grpc import RingServiceStub
from likering.cli.main import app
from likering.dev.ports import free_port
from likering.errors import NodeOwnsSlots
from likering.ring.topology import NodeState, Topology
from likering.serving.status import from_rpc_error
from likering.topology.moves import MoveState, SlotMove
from likering.topology.postgres import SCHEMA
from tests.parts.like_server import LikeServer
from tests.parts.registration import registration
from tests.parts.ring_server import NOWHERE, FakeNode, RingServer, ring_server

Run = Callable[..., Result]


@pytest.fixture
def server(database: str) -> Iterator[RingServer]:
    with ring_server(database) as server:
        yield server


@pytest.fixture
def run(server: RingServer) -> Run:
    """Runs ``likering …`` on the server; its stdin is no terminal."""
    return lambda *arguments: likering(server.address, *arguments)


@pytest.fixture
def stub(server: RingServer) -> Iterator[RingServiceStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield RingServiceStub(channel)


def likering(admin: str, *arguments: str) -> Result:
    return CliRunner().invoke(
        app, arguments, env={"LIKERING_ADMIN": admin, "COLUMNS": "250", "TERM": "dumb"}, prog_name="likering"
    )


def output_of(result: Result, code: int = 0) -> Any:
    """What a command with ``-o json`` printed."""
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def refusal(result: Result) -> str:
    """The last sentence of a command that was refused."""
    assert result.exit_code == 4, result.output
    return result.stderr.splitlines()[-1].removeprefix("likering: ")


def topology_of(server: RingServer) -> Topology:
    return server.run(server.store.get())


def moves_of(server: RingServer, ended: bool = True) -> list[SlotMove]:
    return server.run(server.moves.moves(ended=ended))


def set_up(server: RingServer) -> Topology:
    """Nodes a and b own four slots each, c none."""
    server.run(server.nodes("a", "b"))
    return server.run(server.nodes("c"))


def apply(run: Run) -> int:
    """Begins a resize."""
    return int(output_of(run("ring", "apply", "--yes", "--no-wait", "-o", "json"))["resize"])


# Plans


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
            "4 moves (the fewest possible: 4), 160,000 rows, 12.0 MiB; expected: 8.6 s"
            in run("ring", "plan").stdout
        )
    finally:
        server.run(node.stop())


async def started_node() -> FakeNode:
    node = FakeNode()
    await node.start()
    return node


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


# Moves


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


def age(database: str) -> None:
    """All moves were last spoken of a minute ago."""
    with psycopg.connect(database, autocommit=True, options=f"-csearch_path={SCHEMA}") as connection:
        connection.execute("UPDATE moves SET word_at = word_at - interval '60 s'")


def test_limits_are_shown_and_set(server: RingServer, run: Run) -> None:
    assert output_of(run("ring", "limits", "-o", "json")) == {
        "paused": False,
        "slots_at_once": 1,
        "rows_per_second": 20_000,
        "pause_budget_ms": 100,
        "grace_seconds": 900,
    }
    result = run("ring", "limits", "--slots-at-once", "4", "--rows-per-second", "0", "--grace", "0")
    assert result.exit_code == 0
    assert "4 slots at once and rows/s without limit per node, pause budget 100 ms" in result.stdout
    limits = server.run(server.moves.limits())
    assert (limits.slots_at_once, limits.rows_per_second, limits.grace_seconds) == (4, 0, 0)
    assert run("ring", "limits", "--slots-at-once", "65").exit_code == 2


@pytest.mark.parametrize(
    "wrong",
    [{"slots_at_once": 0}, {"slots_at_once": 65}, {"rows_per_second": -1}, {"pause_budget_ms": 0}],
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
    assert run("ring", "history").stdout.count("\n") > 3
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


# Nodes


def test_nodes_are_listed_with_their_slots(server: RingServer, run: Run) -> None:
    set_up(server)
    nodes = output_of(run("node", "list", "-o", "json"))
    assert [(node["name"], node["slots"], node["state"]) for node in nodes] == [
        ("a", 4, "active"),
        ("b", 4, "active"),
        ("c", 0, "active"),
    ]
    assert "127.0.0.1:1" in run("node", "list").stdout


def test_a_weight_is_set_once(server: RingServer, run: Run) -> None:
    set_up(server)
    assert run("node", "weight", "c", "3").exit_code == 0
    assert topology_of(server).nodes["c"].weight == 3
    assert run("node", "weight", "c", "3").exit_code == 3
    assert run("node", "weight", "c", "0").exit_code == 2
    assert "no node x has registered; known are: a, b, c" in refusal(run("node", "weight", "x", "3"))


def test_a_node_is_drained_and_removed(server: RingServer, run: Run) -> None:
    server.run(server.nodes("a", "b"))
    assert "owns 4 of the slots" in refusal(run("node", "remove", "b", "--yes"))
    with server.meanwhile(server.take_all()):
        report = output_of(run("node", "drain", "b", "--yes", "-o", "json"))
    assert report["slots_moved"] == 4
    assert topology_of(server).nodes["b"].state is NodeState.DRAINING
    assert run("node", "drain", "b", "--yes").exit_code == 3
    assert "which is verified" in refusal(run("node", "remove", "b", "--yes"))
    for move in moves_of(server):
        server.run(server.moves.advance(move, MoveState.RETIRED, "b"))
    assert [node["name"] for node in output_of(run("node", "remove", "b", "--yes", "-o", "json"))] == ["a"]
    assert "no node b" in refusal(run("node", "drain", "b", "--yes"))
    assert "No node b" in refusal(run("node", "remove", "b", "--yes"))
    assert len(output_of(run("ring", "report", "-o", "json"))["slots"]) == 4


def test_a_drain_ends_before_its_moves_if_it_is_to_begin_only(server: RingServer, run: Run) -> None:
    server.run(server.nodes("a", "b"))
    assert output_of(run("node", "drain", "b", "--yes", "--no-wait", "-o", "json")) == {"resize": 1}
    with pytest.raises(NodeOwnsSlots):
        server.run(server.store.remove_node("b"))
    assert run("node", "undrain", "b").exit_code == 0
    assert run("node", "undrain", "b").exit_code == 3
    assert topology_of(server).nodes["b"].state is NodeState.ACTIVE


def test_the_last_active_node_is_not_drained(server: RingServer, run: Run) -> None:
    server.run(server.nodes("a", "b"))
    run("node", "drain", "b", "--yes", "--no-wait")
    assert "the only active node" in refusal(run("node", "drain", "a", "--yes", "--no-wait"))
    assert topology_of(server).nodes["a"].state is NodeState.ACTIVE


def test_a_node_is_added_once_it_has_registered(server: RingServer, run: Run) -> None:
    server.run(server.nodes("a"))
    with server.meanwhile(server.nodes("b")):
        begun = output_of(run("node", "add", "b", "--weight", "3", "--yes", "--no-wait", "-o", "json"))
    assert begun == {"resize": 1}
    assert topology_of(server).nodes["b"].weight == 3
    assert len(moves_of(server)) == 6


def test_a_node_that_does_not_register_is_code_5(server: RingServer, run: Run) -> None:
    server.run(server.nodes("a"))
    result = run("node", "add", "b", "--register-timeout", "0.3", "--yes")
    assert result.exit_code == 5
    assert "no node b registered within 0.3 s" in result.stderr


def test_a_node_with_its_quota_and_a_draining_one_are_not_added(server: RingServer, run: Run) -> None:
    server.run(server.nodes("a", "b"))
    assert run("node", "add", "b", "--yes").exit_code == 3
    server.run(server.store.set_node("b", state=NodeState.DRAINING))
    assert "likering node undrain b" in refusal(run("node", "add", "b", "--yes"))


# Checks


def test_a_check_without_answers_knows_nothing(server: RingServer, run: Run) -> None:
    set_up(server)
    result = run("ring", "check")
    assert result.exit_code == 1
    assert "nothing is known of: a, b, c" in result.stderr


def test_a_check_compares_the_topology_with_the_databases(server: RingServer, run: Run) -> None:
    node = server.run(started_node())
    try:
        server.run(server.nodes("a", address=node.address))
        node.hold(topology_of(server).slots_of("a"))
        result = run("ring", "check")
        assert result.exit_code == 0, result.output
        assert "Nothing was found" in result.stdout
        node.inventory.publications.append("likering_s1_m5_a1")
        result = run("ring", "check")
        assert result.exit_code == 1
        assert "publication likering_s1_m5_a1 of move 5, which has ended" in result.stdout
        (finding,) = output_of(run("ring", "check", "-o", "json"), 1)["findings"]
        assert finding["remedy"] == "in the node's Postgres: DROP PUBLICATION likering_s1_m5_a1"
    finally:
        server.run(node.stop())


# The connection


def test_a_server_that_is_not_there_is_named() -> None:
    port = free_port()
    result = likering(f"localhost:{port}", "ring", "status")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"likering: No connection to localhost:{port}: nothing listens there")
    assert "--admin-listen" in line


def test_the_port_for_callers_serves_no_operators() -> None:
    with LikeServer() as other:
        result = likering(other.address, "ring", "status")
    assert result.exit_code == 1
    assert "does not serve operators" in result.stderr


def test_an_address_that_is_none_is_a_mistake() -> None:
    result = likering("nowhere", "ring", "status")
    assert result.exit_code == 2
    assert "localhost:50052" in result.stderr


def test_an_outdated_schema_is_told_with_its_cure(server: RingServer, run: Run, database: str) -> None:
    set_up(server)
    with psycopg.connect(database, autocommit=True, options=f"-csearch_path={SCHEMA}") as connection:
        connection.execute("DROP TABLE move_events, moves, resizes, move_limits")
    result = run("ring", "status")
    assert result.exit_code == 1
    assert "likering cluster upgrade" in result.stderr
