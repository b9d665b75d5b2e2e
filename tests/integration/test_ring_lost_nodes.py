"""``likering ring cancel --lost`` and ``likering node remove --lost``: a node is gone for good, with its database."""

from __future__ import annotations

import grpc
import pytest

from likering.admin.v1 import ring_service_pb2 as api
from likering.admin.v1.ring_service_pb2_grpc import RingServiceStub
from likering.errors import NodeOwnsSlots
from likering.ring.plan import Move, plan
from likering.topology.moves import MoveChanged, MoveState, SlotMove
from likering.topology.store import NodeUnknown
from tests.parts.registration import registration
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


def drained_to(server: RingServer, *states: MoveState) -> list[SlotMove]:
    """Node b gives all its four slots to a; the first moves are in these states, the others are verified."""
    server.run(server.nodes("a", "b"))
    topology = topology_of(server)
    wanted = [Move(slot, "b", "a", epoch) for slot, epoch in topology.slots_of("b").items()]
    server.run(server.moves.apply(topology.version, wanted, {}, "test"))
    wanted_states = [*states, *[MoveState.VERIFIED] * (4 - len(states))]
    # Backwards: only the first of those that stay under way may be begun with others beside it.
    for move, state in reversed(list(zip(moves_of(server), wanted_states, strict=True))):
        if state is not MoveState.PLANNED:
            server.run(server.take(move, state))
    return moves_of(server)


def test_a_source_that_is_lost_is_removed_and_the_ring_is_free(server: RingServer, run: Run) -> None:
    """What it has handed over is served elsewhere, so its moves end with it, and say what has not been done."""
    active, moved, *_ = drained_to(server, MoveState.ACTIVE, MoveState.MOVED)
    server.run(server.nodes("c"))
    assert "slots are moving already" in refusal(run("ring", "apply", "--yes", "--no-wait"))
    assert "takes part in move" in refusal(run("node", "remove", "b", "--yes"))
    assert run("node", "remove", "b", "--lost", "--yes").exit_code == 0
    assert list(topology_of(server).nodes) == ["a", "c"]
    assert {move.state for move in moves_of(server)} == {MoveState.RETIRED}
    (event,) = [
        event for event in server.run(server.moves.events([moved.move])) if event.state is MoveState.RETIRED
    ]
    assert (event.who, event.detail) == ("node remove", {"lost": "b"})
    assert server.run(server.moves.never_compared([move.move for move in moves_of(server)])) == {
        active.move,
        moved.move,
    }
    assert "2 never compared, because a node was lost" in run("ring", "report").stdout
    assert "4 of 4, 2 never compared" in run("ring", "history").stdout
    report = output_of(run("ring", "report", "-o", "json"))
    assert [slot["never_compared"] for slot in report["slots"]] == [True, True, False, False]
    assert "b is lost" in report["slots"][0]["last_error"]
    assert not report["slots"][2]["last_error"]
    assert apply(run) == 2


def test_a_node_that_owns_a_slot_is_not_removed_as_lost(server: RingServer, run: Run) -> None:
    """Nobody else has the slot's likes. Its moves can be ended all the same, and the ring is free for others."""
    drained_to(server, MoveState.ACTIVE, MoveState.MOVED, MoveState.PLANNED)
    before = topology_of(server)
    said = refusal(run("node", "remove", "b", "--lost", "--yes"))
    assert "owns 1 of the slots, and nobody else has their likes" in said
    assert "likering ring cancel --lost b" in said
    assert topology_of(server) == before
    assert moves_of(server)[2].state is MoveState.PLANNED
    ended = run("ring", "cancel", "--lost", "b", "--yes")
    assert (ended.exit_code, ended.stdout) == (0, "moves: 3 retired, 1 cancelled\n")
    assert topology_of(server) == before, "all slots stay where they are"
    server.run(server.nodes("c"))
    assert apply(run) == 2
    assert run("ring", "cancel", "--resize", "2", "--yes").exit_code == 0
    assert run("ring", "cancel", "--lost", "b", "--yes").exit_code == 3


@pytest.mark.parametrize("state", [MoveState.COMMITTED, MoveState.ACTIVATING])
def test_a_lost_target_gives_back_what_it_was_about_to_take(server: RingServer, state: MoveState) -> None:
    """The source has everything up to the freeze, and what came after went with the target."""
    set_up(server)
    (slot, epoch), *_ = topology_of(server).slots_of("a").items()
    server.run(server.moves.apply(topology_of(server).version, [Move(slot, "a", "c", epoch)], {}, "test"))
    (move,) = moves_of(server)
    taken = server.run(server.take(move, state))
    assert server.run(server.moves.give_up("c", "test", remove=True))[0].state is MoveState.REVERTED
    topology = topology_of(server)
    assert (topology.owners[slot], topology.epochs[slot]) == ("a", epoch + 2)
    assert "c" not in topology.nodes
    to = MoveState.ACTIVATING if state is MoveState.COMMITTED else MoveState.ACTIVE
    with pytest.raises(MoveChanged, match="any more"):
        server.run(server.moves.advance(taken, to, "c"))


@pytest.mark.parametrize("state", [MoveState.COMMITTED, MoveState.ACTIVATING])
def test_a_lost_source_stays_until_its_target_serves(server: RingServer, state: MoveState) -> None:
    """The target needs no source for that; but as long as it does not serve, only the source has the likes."""
    handed_over, *_ = drained_to(server, state)
    (left, *_) = server.run(server.moves.give_up("b", "test"))
    assert (left.move, left.state) == (handed_over.move, state)
    with pytest.raises(NodeOwnsSlots, match="wait until that node serves the slot"):
        server.run(server.moves.give_up("b", "test", remove=True))
    if state is MoveState.COMMITTED:
        left = server.run(server.moves.advance(left, MoveState.ACTIVATING, "a"))
    server.run(server.moves.advance(left, MoveState.ACTIVE, "a"))
    server.run(server.moves.give_up("b", "test", remove=True))
    assert list(topology_of(server).nodes) == ["a"]


def test_moves_to_a_lost_node_are_cancelled_before_their_commit(server: RingServer) -> None:
    """And whoever still works on them changes nothing any more."""
    set_up(server)
    topology = topology_of(server)
    server.run(server.moves.apply(topology.version, plan(topology).moves, {}, "test"))
    first, second = moves_of(server)
    freezing = server.run(server.take(first, MoveState.FREEZING))
    given_up = server.run(server.moves.give_up("c", "test", remove=True))
    assert [(move.move, move.state) for move in given_up] == [
        (first.move, MoveState.CANCELLED),
        (second.move, MoveState.CANCELLED),
    ]
    assert topology_of(server).owners == topology.owners
    with pytest.raises(MoveChanged, match="any more"):
        server.run(server.moves.commit(freezing, MoveState.ACTIVATING, "c", {}))


def test_what_a_lost_target_serves_is_not_given_back(server: RingServer) -> None:
    """It had more than the source. The source's copy stays, not compared: it may be the last one."""
    set_up(server)
    topology = topology_of(server)
    server.run(server.moves.apply(topology.version, plan(topology).moves, {}, "test"))
    moved, verified = moves_of(server)
    server.run(server.take(moved, MoveState.MOVED))
    server.run(server.take(verified, MoveState.VERIFIED))
    after = topology_of(server)
    assert [move.state for move in server.run(server.moves.give_up("c", "test"))] == [
        MoveState.RETIRED,
        MoveState.VERIFIED,
    ]
    assert topology_of(server) == after
    assert server.run(server.moves.never_compared([moved.move, verified.move])) == {moved.move}
    with pytest.raises(NodeOwnsSlots, match="owns 2 of the slots"):
        server.run(server.moves.give_up("c", "test", remove=True))


def test_a_node_that_answers_is_not_lost(server: RingServer, run: Run) -> None:
    node = server.run(started_node())
    try:
        server.run(server.nodes("a"))
        server.run(server.nodes("b", assign=False, address=node.address))
        said = refusal(run("node", "remove", "b", "--lost", "--yes"))
        assert f"Node b is not lost: its process answers at {node.address}" in said
        assert "is not lost" in refusal(run("ring", "cancel", "--lost", "b", "--yes"))
        assert "b" in topology_of(server).nodes
    finally:
        server.run(node.stop())
    assert run("node", "remove", "b", "--lost", "--yes").exit_code == 0


def test_a_node_that_gives_signs_is_not_lost(server: RingServer, run: Run, database: str) -> None:
    """A router may be cut off from a node that the topology database hears."""
    set_up(server)
    apply(run)
    age(database)
    planned, *_ = moves_of(server)
    server.run(server.moves.report(planned, waits_for="moves are paused"))
    assert "Node c is not lost: it has given a sign" in refusal(run("node", "remove", "c", "--lost", "--yes"))
    assert moves_of(server)[0].state is MoveState.PLANNED


def test_a_lost_node_comes_back_as_a_new_one(server: RingServer) -> None:
    """It owns nothing; and a database that has taken its name meanwhile keeps it."""
    drained_to(server, MoveState.MOVED)
    server.run(server.moves.give_up("b", "test", remove=True))
    back = server.run(server.store.register(registration("b", generation=9)))
    assert not back.slots_of("b")
    assert set(back.owners) == {"a"}


def test_lost_is_said_of_nodes_that_are_known(server: RingServer, run: Run, stub: RingServiceStub) -> None:
    set_up(server)
    assert "No node x has registered" in refusal(run("node", "remove", "x", "--lost", "--yes"))
    assert "No node x has registered" in refusal(run("ring", "cancel", "--lost", "x", "--yes"))
    with pytest.raises(NodeUnknown):
        server.run(server.moves.give_up("x", "test"))
    assert run("ring", "cancel", "3", "--lost", "a", "--yes").exit_code == 2
    with pytest.raises(grpc.RpcError) as caught:
        stub.CancelMoves(api.CancelMovesRequest(resize=1, lost_node="a"))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
