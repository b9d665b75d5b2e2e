"""``likering node …``, ``likering ring check``, and what a connection that cannot be used is told."""

from __future__ import annotations

import psycopg
import pytest

from likering.dev.ports import free_port
from likering.errors import NodeOwnsSlots
from likering.ring.topology import NodeState
from likering.topology.moves import MoveState
from likering.topology.postgres import SCHEMA
from tests.parts.like_server import LikeServer
from tests.parts.ring_commands import (
    Run,
    likering,
    moves_of,
    output_of,
    refusal,
    set_up,
    started_node,
    topology_of,
)
from tests.parts.ring_server import RingServer


def test_nodes_are_listed_with_their_slots(server: RingServer, run: Run) -> None:
    set_up(server)
    nodes = output_of(run("node", "list", "-o", "json"))
    assert [(node["name"], node["slots"], node["state"]) for node in nodes] == [
        ("a", 4, "active"),
        ("b", 4, "active"),
        ("c", 0, "active"),
    ]
    assert "127.0.0.1:1" in run("node", "list").stdout


def test_a_replica_is_listed_and_removed(server: RingServer, run: Run) -> None:
    set_up(server)
    cluster = topology_of(server).cluster_id
    server.run(server.store.register_replica(cluster, "b", "127.0.0.1:7"))
    nodes = output_of(run("node", "list", "-o", "json"))
    assert [node["replicas"] for node in nodes] == [[], ["127.0.0.1:7"], []]
    assert "127.0.0.1:7" in run("node", "list").stdout
    assert "known are: 127.0.0.1:7" in refusal(run("node", "remove-replica", "127.0.0.1:8", "--yes"))
    assert run("node", "remove-replica", "127.0.0.1:7", "--yes").exit_code == 0
    assert not topology_of(server).replicas
    assert "replicas" not in run("node", "list").stdout


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


def test_a_drain_that_must_wait_for_other_moves_says_what_has_been_done(server: RingServer, run: Run) -> None:
    """Nothing moves; but the node gets no slots any more, which is what was asked for."""
    server.run(server.nodes("a", "b", "c"))
    run("node", "drain", "c", "--yes", "--no-wait")
    said = refusal(run("node", "drain", "b", "--yes", "--no-wait"))
    assert "slots are moving already (resize 1)" in said
    assert "Node b stays draining" in said
    assert topology_of(server).nodes["b"].state is NodeState.DRAINING


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
        narrow = run("ring", "check", columns=40).stdout
        assert "…" not in narrow, "a remedy that is cut cannot be copied"
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
