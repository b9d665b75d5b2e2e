"""``likering cluster``: what it prints, and the exit codes that scripts rely on."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from typer.testing import CliRunner, Result

from likering.cli import cluster
from likering.ring.topology import NodeState, Topology
from likering.topology.postgres import SCHEMA, PostgresTopologyStore
from tests.parts.registration import registration

Run = Callable[..., Result]


@pytest.fixture
def run(database: str) -> Run:
    """Runs ``likering cluster …`` with the test's database as the topology."""

    def run(*arguments: str, topology: str = database) -> Result:
        return CliRunner().invoke(
            cluster.app, arguments, env={"LIKERING_TOPOLOGY": topology, "COLUMNS": "200"}
        )

    return run


def register(database: str, **weights: int) -> None:
    async def work() -> None:
        store = PostgresTopologyStore(database)
        for name, weight in weights.items():
            await store.register(registration(name, weight=weight))
        await store.close()

    asyncio.run(work())


def topology_of(run: Run) -> Topology:
    result = run("show", "-o", "json")
    assert result.exit_code == 0
    return Topology.from_json(result.stdout.encode())


def test_init_prints_the_id_of_the_cluster(run: Run) -> None:
    result = run("init", "--slots", "16")
    assert result.exit_code == 0
    topology = topology_of(run)
    assert result.stdout == f"{uuid.UUID(topology.cluster_id)}\n"
    assert (topology.slot_count, topology.version) == (16, 1)


def test_init_makes_64_slots_by_default(run: Run) -> None:
    assert run("init").exit_code == 0
    assert topology_of(run).slot_count == 64


def test_a_second_init_is_refused(run: Run) -> None:
    run("init", "--slots", "16")
    before = topology_of(run)
    result = run("init", "--slots", "32")
    assert result.exit_code == 4
    assert "holds a cluster already" in result.stderr
    assert topology_of(run) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("init", "--slots", "100"), "power of two"),
        (("init", "--slots", "many"), "--slots"),
        (("assign", "--wait-nodes", "0"), "--wait-nodes"),
        (("assign", "--timeout", "-1"), "--timeout"),
        (("show", "-o", "xml"), "xml"),
        (("show", "--topology", "localhost:5432"), "connection string"),
    ],
)
def test_arguments_that_make_no_sense_are_code_2(run: Run, arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_the_topology_must_be_given() -> None:
    result = CliRunner().invoke(cluster.app, ["show"], env={"LIKERING_TOPOLOGY": None})
    assert result.exit_code == 2
    assert "--topology" in result.stderr


def test_an_older_cluster_is_upgraded_once(run: Run, database: str) -> None:
    run("init", "--slots", "16")
    assert run("upgrade").exit_code == 3
    with psycopg.connect(database, autocommit=True, options=f"-csearch_path={SCHEMA}") as connection:
        connection.execute("DROP TABLE move_events, moves, resizes, move_limits, replicas")
        connection.execute("DELETE FROM schema_migrations WHERE version > 1")
    result = run("upgrade")
    assert result.exit_code == 0
    assert result.stdout == "applied 0002_moves, 0003_quieter_moves, 0004_replicas, 0005_verification\n"
    assert run("upgrade").exit_code == 3


@pytest.mark.parametrize("arguments", [("assign",), ("show",), ("upgrade",)])
def test_without_a_cluster_it_says_what_to_do(run: Run, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert "likering cluster init --slots N" in result.stderr


@pytest.mark.parametrize("arguments", [("init",), ("assign",), ("show",), ("upgrade",)])
def test_a_database_that_cannot_be_reached_is_named(run: Run, arguments: tuple[str, ...]) -> None:
    result = run(*arguments, topology="postgresql://somebody@127.0.0.1:1/nothing")
    assert result.exit_code == 1
    assert "The topology database is not reachable" in result.stderr
    assert "127.0.0.1" in result.stderr
    assert "Traceback" not in result.output


def test_assign_gives_every_slot_an_owner_by_weight(run: Run, database: str) -> None:
    run("init", "--slots", "16")
    register(database, a=1, b=1, c=2)
    result = run("assign")
    assert result.exit_code == 0
    topology = topology_of(run)
    assert {name: len(topology.slots_of(name)) for name in "abc"} == {"a": 4, "b": 4, "c": 8}
    assert set(topology.epochs) == {1}
    assert "16 slots, 0 without owner" in result.stdout


def test_assign_with_nothing_to_do_is_code_3(run: Run, database: str) -> None:
    run("init", "--slots", "16")
    register(database, a=1)
    assert run("assign").exit_code == 0
    before = topology_of(run)
    register(database, b=1)  # no slot leaves its owner for it
    result = run("assign")
    assert result.exit_code == 3
    assert "Every slot has an owner already" in result.stderr
    assert topology_of(run).owners == before.owners


@pytest.mark.parametrize(("nodes", "named"), [({}, "none"), ({"a": 1, "b": 1}, "a, b")])
def test_assign_with_too_few_nodes_is_code_5(
    run: Run, database: str, nodes: dict[str, int], named: str
) -> None:
    run("init", "--slots", "16")
    register(database, **nodes)
    result = run("assign", "--wait-nodes", "3", "--timeout", "0.3")
    assert result.exit_code == 5
    assert f"Only these of 3 nodes within 0.3 s: {named}" in result.stderr
    assert len(topology_of(run).unowned) == 16


def test_assign_waits_for_nodes(run: Run, database: str) -> None:
    run("init", "--slots", "16")
    results: list[Result] = []
    waiting = threading.Thread(target=lambda: results.append(run("assign", "--wait-nodes", "3")))
    waiting.start()
    for name in "abc":
        register(database, **{name: 1})
    waiting.join(60)
    assert results[0].exit_code == 0
    topology = topology_of(run)
    assert sorted(len(topology.slots_of(name)) for name in "abc") == [5, 5, 6]


def test_show_prints_a_table(run: Run, database: str) -> None:
    run("init", "--slots", "16")
    register(database, a=1, b=3)
    run("assign")
    result = run("show")
    assert result.exit_code == 0
    head, *lines = result.stdout.splitlines()
    assert head == f"cluster {topology_of(run).cluster_id}, version 4, 16 slots, 0 without owner"
    cells = [line.replace("│", " ").split() for line in lines if line.startswith("│")]
    assert cells == [
        ["a", "127.0.0.1:50061", "active", "1", "1", "4", "4.00"],
        ["b", "127.0.0.1:50061", "active", "3", "1", "12", "12.00"],
    ]


def test_show_prints_the_canonical_json(run: Run, database: str) -> None:
    run("init", "--slots", "2")
    register(database, a=1)
    line = run("show", "-o", "json").stdout
    assert line.encode() == Topology.from_json(line.encode()).to_json() + b"\n"
    assert json.loads(line)["owners"] == [None, None]


def set_state(database: str, name: str, state: NodeState) -> None:
    async def work() -> None:
        store = PostgresTopologyStore(database)
        await store.set_node(name, state=state)
        await store.close()

    asyncio.run(work())


def test_a_node_that_is_not_draining_is_not_waited_for(run: Run, database: str) -> None:
    """It is stopped to be started again, with its slots."""
    run("init", "--slots", "8")
    register(database, a=1)
    run("assign")
    assert run("await-drained", "--node", "a").exit_code == 0
    assert run("await-drained", "--node", "unknown").exit_code == 0


def test_a_draining_node_is_waited_for_until_its_last_slot_has_gone(run: Run, database: str) -> None:
    run("init", "--slots", "8")
    register(database, a=1)
    run("assign")
    register(database, b=1)
    set_state(database, "a", NodeState.DRAINING)
    result = run("await-drained", "--node", "a", "--timeout", "0.5")
    assert (result.exit_code, result.stderr) == (5, "likering: Node a still owns 8 slots after 0.5 s\n")
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(run, "await-drained", "--node", "a", "--timeout", "20")
        with psycopg.connect(database) as connection:
            connection.execute(f"UPDATE {SCHEMA}.slots SET owner = 'b', epoch = epoch + 1")
            connection.execute(f"UPDATE {SCHEMA}.cluster SET version = version + 1")
        assert waiting.result().exit_code == 0
