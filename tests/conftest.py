"""Real servers for the tests: a Postgres and a Valkey alone, and a whole cluster."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from datetime import UTC, datetime

import hypothesis
import psycopg
import pytest
from psycopg import sql

from likering.dev.cluster import EmbeddedCluster
from likering.dev.postgres import PostgresServer
from likering.dev.valkey import ValkeyServer
from tests.parts.cluster_logs import complaints

# An example's time depends on who else uses the machine; pytest-timeout ends a test that hangs.
hypothesis.settings.register_profile("likering", deadline=None)
hypothesis.settings.load_profile("likering")


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A running Postgres for the whole session; a test that writes takes ``database``."""
    server = PostgresServer(tmp_path_factory.mktemp("postgres"))
    server.start()
    yield server
    server.stop()


_numbers = itertools.count(1)


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[str]:
    """The DSN of an empty database of the test's own; gone afterwards, with whoever is still connected."""
    database = f"test_{next(_numbers)}"
    name = sql.Identifier(database)
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
    yield postgres_server.dsn_of(database)
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """A running Valkey for the whole session."""
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCluster]:
    """A running cluster of three nodes for the whole session. Who kills parts of it starts one of their own."""
    with EmbeddedCluster(tmp_path_factory.mktemp("cluster"), nodes=3) as cluster:
        yield cluster


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What the clusters of a test that failed complained of meanwhile stands below its traceback."""
    report = yield
    if report.failed:
        arguments = getattr(item, "funcargs", {}).values()
        for cluster in (one for one in arguments if isinstance(one, EmbeddedCluster)):
            lines = complaints(cluster.directory / "logs", datetime.fromtimestamp(call.start, UTC))
            report.sections.append((f"complaints in {cluster.directory.name}", "\n".join(lines)))
    return report
