"""A cluster with TLS and roles: those who belong are let in, the others get the right code and learn nothing."""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, Never
from urllib.parse import urlsplit

import psutil
import psycopg
import pytest

from likering import AsyncLikes, LikeringError, LikeTracker
from likering.admin.v1 import like_admin_service_pb2 as admin_api
from likering.admin.v1 import ring_service_pb2 as ring_api
from likering.client.credentials import credentials_from_files, token_from_file
from likering.dev import example
from likering.dev.authority import ADMIN_AUDIENCE, Authority, CertificateFiles
from likering.dev.cluster import EmbeddedCluster
from likering.dev.securing import Secured
from likering.security.roles import Role
from likering.shard.v1 import shard_service_pb2 as shard_api
from likering.v1 import like_service_pb2 as api
from tests.parts.answers import NO_HANDSHAKE, NO_OPERATOR, NOBODY, NOT_ALLOWED, OK, OTHER_USER, answer
from tests.parts.until import until

pytestmark = pytest.mark.timeout(180)

LIKE = ("/likering.v1.LikeService/Like", api.LikeRequest(user_id="u1", post_id="p1"))
COUNT = ("/likering.v1.LikeService/GetLikeCount", api.GetLikeCountRequest(post_id="p1"))
LIKERS = ("/likering.v1.LikeService/ListLikers", api.ListLikersRequest(post_id="p1"))
HOT = ("/likering.admin.v1.LikeAdminService/ListHotPosts", admin_api.ListHotPostsRequest())
RING = ("/likering.admin.v1.RingService/GetTopology", ring_api.GetTopologyRequest())
PURGE = ("/likering.admin.v1.LikeAdminService/PurgeUser", admin_api.PurgeUserRequest(user_id="u1"))
NODE = ("/likering.shard.v1.ShardService/GetTopology", shard_api.GetTopologyRequest())


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCluster]:
    """A secured cluster of two nodes."""
    directory = tmp_path_factory.mktemp("secured")
    with EmbeddedCluster(directory, nodes=2, slots=8, router_workers=2, secure=True) as cluster:
        yield cluster


def certificates(cluster: EmbeddedCluster) -> Secured:
    assert cluster.secured is not None
    return cluster.secured


def test_the_readmes_example_runs(secured: EmbeddedCluster) -> None:
    assert example.run(secured.address, certificates(secured).app.credentials()) == example.ANSWERS


async def test_a_caller_with_a_token_needs_no_certificate(secured: EmbeddedCluster, tmp_path: Path) -> None:
    """The token comes from a file, and is bound to its user."""
    authority = certificates(secured).authority
    (tmp_path / "token").write_text(authority.token("alice") + "\n")
    async with AsyncLikes(
        secured.token_address,
        credentials=credentials_from_files(ca=authority.ca),
        token=token_from_file(tmp_path / "token"),
    ) as likes:
        assert await likes.like("alice", "tokens")
        assert await likes.like_count("tokens") == 1
        with pytest.raises(LikeringError) as caught:
            await likes.like("bob", "tokens")
        assert caught.value.reason == "OTHER_USER"


class Port(NamedTuple):
    """One of the cluster's, with a call that is served there, and who may make it."""

    address: Callable[[EmbeddedCluster], str]
    call: tuple[str, Any]
    holder: Callable[[Secured], CertificateFiles]


PORTS = {
    "callers": Port(lambda cluster: cluster.address, LIKE, lambda secured: secured.app),
    "operators": Port(lambda cluster: cluster.admin_address, RING, lambda secured: secured.operator),
    "node": Port(lambda cluster: cluster.nodes["a"].address, NODE, lambda secured: secured.router),
}


@pytest.mark.parametrize("port", PORTS)
def test_strangers_do_not_get_through_the_handshake(
    secured: EmbeddedCluster, tmp_path: Path, port: str
) -> None:
    """A certificate of another authority, an expired one, none, and no TLS; nor does a client talk to a stranger."""
    own, (address, call, holder) = certificates(secured), PORTS[port]
    other = Authority(tmp_path / "other")
    of_other = other.issue("app")
    expired = own.authority.issue("app", file="expired", lifetime=timedelta(seconds=-60))
    shown = {
        "other authority": credentials_from_files(
            ca=own.authority.ca, certificate=of_other.certificate, key=of_other.key
        ),
        "expired": expired.credentials(),
        "none": credentials_from_files(ca=own.authority.ca),
        "plaintext": None,
        "trusts another": credentials_from_files(
            ca=other.ca, certificate=own.app.certificate, key=own.app.key
        ),
    }
    outcomes = {kind: answer(address(secured), call, credentials) for kind, credentials in shown.items()}
    assert outcomes == dict.fromkeys(shown, NO_HANDSHAKE)
    assert answer(address(secured), call, holder(own).credentials()) == OK


def test_each_certificate_is_good_for_its_own_port_only(secured: EmbeddedCluster) -> None:
    own = certificates(secured)
    stranger = own.authority.issue("stranger")
    holders = {"app": own.app, "operator": own.operator, "router": own.router, "stranger": stranger}
    refusals = {"callers": NOT_ALLOWED, "operators": NO_OPERATOR, "node": NOT_ALLOWED}
    for name, (address, call, holder) in PORTS.items():
        for files in holders.values():
            expected = OK if files is holder(own) else refusals[name]
            assert answer(address(secured), call, files.credentials()) == expected, (name, files)
    assert answer(secured.admin_address, PURGE, own.app.credentials(), streams=True) == NO_OPERATOR


def unsigned(authority: Authority) -> str:
    """A token that says that it needs no signature."""
    head, claims, _ = authority.token("u1").split(".")
    head = base64.urlsafe_b64encode(b'{"alg":"none","kid":"dev"}').rstrip(b"=").decode()
    return f"{head}.{claims}."


TOKENS: dict[str, tuple[Callable[[Authority, Path], str], str]] = {
    "good": (lambda authority, _: authority.token("u1"), OK),
    "none": (lambda authority, _: "", NOBODY),
    "expired": (lambda authority, _: authority.token("u1", lifetime=timedelta(minutes=-1)), NOBODY),
    "wrong audience": (lambda authority, _: authority.token("u1", audience="billing"), NOBODY),
    "for operators": (
        lambda authority, _: authority.token("u1", list(Role), audience=ADMIN_AUDIENCE),
        NOBODY,
    ),
    "alg=none": (lambda authority, _: unsigned(authority), NOBODY),
    "another issuer's key": (lambda _, other: Authority(other).token("u1"), NOBODY),
    "other user's": (lambda authority, _: authority.token("u2"), OTHER_USER),
    "reader's": (lambda authority, _: authority.token("u1", [Role.READER]), NOT_ALLOWED),
}


@pytest.mark.parametrize("kind", TOKENS)
def test_a_like_with_a_token(secured: EmbeddedCluster, tmp_path: Path, kind: str) -> None:
    make, expected = TOKENS[kind]
    authority = certificates(secured).authority
    credentials = credentials_from_files(ca=authority.ca)
    token = make(authority, tmp_path / "other")
    assert answer(secured.token_address, LIKE, credentials, token) == expected


def test_no_token_of_callers_reaches_the_port_of_operators(secured: EmbeddedCluster) -> None:
    """Not even one that says it is an operator's; an operator's own does, and on no other port."""
    own = certificates(secured)
    everything = own.authority.token("mallory", list(Role))
    operators = own.authority.token("olga", [Role.OPERATOR], audience=ADMIN_AUDIENCE)
    app = own.app.credentials()
    assert answer(secured.admin_address, RING, app, everything) == NOBODY
    assert answer(secured.admin_address, RING, app, operators) == OK
    assert answer(secured.address, LIKE, app, operators) == NOBODY
    # Nodes take no tokens at all.
    node = secured.nodes["a"].address
    assert answer(node, NODE, app, everything) == NOT_ALLOWED
    assert answer(node, NODE, own.router.credentials(), everything) == OK


def test_commands_show_the_operators_certificate(secured: EmbeddedCluster) -> None:
    own = certificates(secured)
    environment = {
        "LIKERING_ADMIN": secured.admin_address,
        **{f"LIKERING_TLS_{name.upper()}": str(path) for name, path in own.operator._asdict().items()},
    }
    nodes = likering("node", "list", "-o", "json", **environment)
    assert nodes.returncode == 0, nodes.stderr
    assert '"a"' in nodes.stdout
    environment["LIKERING_TLS_CERTIFICATE"] = str(own.app.certificate)
    environment["LIKERING_TLS_KEY"] = str(own.app.key)
    refused = likering("ring", "status", **environment)
    assert refused.returncode == 1
    assert refused.stderr == "likering: The credential is not an operator's.\n"


async def test_a_node_joins_and_slots_move(secured: EmbeddedCluster) -> None:
    """Nodes call each other with their certificates; no call fails meanwhile."""
    own = certificates(secured)
    async with likes_all_the_time(secured) as failures:
        await asyncio.to_thread(secured.add_node, "c")
        environment = {
            "LIKERING_ADMIN": secured.admin_address,
            **{f"LIKERING_TLS_{name.upper()}": str(path) for name, path in own.operator._asdict().items()},
        }
        applied = await asyncio.to_thread(likering, "ring", "apply", "--yes", **environment)
        assert applied.returncode == 0, applied.stderr
    assert failures == []
    with psycopg.connect(secured.topology_dsn) as connection:
        row = connection.execute("SELECT count(*) FROM likering.slots WHERE owner = 'c'").fetchone()
        assert row is not None
        assert row[0] > 0


async def test_certificates_are_renewed_under_load(secured: EmbeddedCluster) -> None:
    """New files are shown within moments, to callers and between router and nodes; no call fails."""
    own = certificates(secured)
    async with likes_all_the_time(secured) as failures:
        before = [shown_by(address) for address in (secured.address, secured.nodes["a"].address)]
        own.authority.issue("router")
        for name in secured.nodes:
            own.node(name)
        await until(
            lambda: all(
                shown_by(address) != old
                for address, old in zip((secured.address, secured.nodes["a"].address), before, strict=True)
            )
        )
        # Both workers of the router call every node with the new one.
        log = secured.directory / "logs" / "router.log"
        renewed = 2 * len(secured.nodes)
        await until(
            lambda: log.read_text().count("connection renewed with another certificate") == renewed, 30
        )
    assert failures == []


def test_a_role_that_is_taken_away_is_gone(secured: EmbeddedCluster) -> None:
    """Within moments, on connections that stand as well."""
    own = certificates(secured)
    file = own.authority.roles.read_bytes()
    with LikeTracker(secured.address, credentials=own.app.credentials()) as likes:
        likes.like("u1", "roles")
        try:
            own.authority.give_roles({"router": [Role.NODE], "node": [Role.NODE]})
            with pytest.raises(LikeringError) as caught:
                like_for_ever(likes)
            assert caught.value.reason == "ROLE_MISSING"
        finally:
            own.authority.roles.write_bytes(file)


def test_a_router_that_nodes_do_not_let_in_is_no_fault_of_its_callers(secured: EmbeddedCluster) -> None:
    """Their credential is good: to them the shard is not available, and is again when the nodes know the router."""
    own = certificates(secured)
    file = own.authority.roles.read_bytes()
    app, operator = own.app.credentials(), own.operator.credentials()
    try:
        own.authority.give_roles({"app": [Role.READER, Role.WRITER], "operator": [Role.OPERATOR]})
        unavailable = "UNAVAILABLE SHARD_UNAVAILABLE"
        expect(lambda: answer(secured.address, LIKE, app, seconds=1), unavailable)
        expect(lambda: answer(secured.address, LIKERS, app, seconds=1), unavailable)
        assert answer(secured.admin_address, HOT, operator) in (OK, unavailable)
    finally:
        own.authority.roles.write_bytes(file)
    expect(lambda: answer(secured.address, LIKE, app), OK)


def expect(ask: Callable[[], str], answered: str) -> None:
    """Asks until that is the answer; pytest-timeout ends what never comes."""
    while ask() != answered:
        pass


def test_secrets_are_nowhere_but_in_files(secured: EmbeddedCluster, tmp_path: Path) -> None:
    """Not in logs, arguments or the topology, although calls were refused and parts have failed."""
    own = certificates(secured)
    tokens = [make(own.authority, tmp_path / "other") for make, _ in TOKENS.values()]
    for token in tokens:
        answer(secured.token_address, LIKE, credentials_from_files(ca=own.authority.ca), token)
        answer(secured.admin_address, RING, own.app.credentials(), token)
    for part in ("postgres", "valkey", "node"):
        secured.kill("a", part)
        secured.wait_serving(60)
    processes = psutil.Process().children(recursive=True)
    secrets = {password for process in processes for password in passwords(process)}
    secrets |= {part for token in tokens for part in token.split(".")[1:] if part}
    secrets |= {
        line for path in own.authority.directory.glob("*.key") for line in path.read_text().split()[4:-4]
    }
    assert len(secrets) > 10
    places = {
        path.name: path.read_text("utf-8", "replace") for path in (secured.directory / "logs").iterdir()
    }
    places |= {f"arguments of {process.pid}": " ".join(process.cmdline()) for process in processes}
    with psycopg.connect(secured.topology_dsn) as connection:
        tables = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'likering'"
        ).fetchall()
        for (table,) in tables:
            rows = connection.execute(f'SELECT t::text FROM likering."{table}" t').fetchall()
            places[f"topology: {table}"] = "\n".join(row[0] for row in rows)
    assert len(places) > 15
    found = [place for place, text in places.items() if any(secret in text for secret in secrets)]
    assert found == []


def like_for_ever(likes: LikeTracker) -> Never:
    while True:
        likes.like("u1", "roles")


def passwords(process: psutil.Process) -> Iterator[str]:
    """Those that a process of ours was given: of the databases and caches."""
    for name, value in process.environ().items():
        if name.startswith("LIKERING_") and (password := urlsplit(value).password):
            yield password


def shown_by(address: str) -> str:
    """The certificate that a port shows."""
    host, _, port = address.rpartition(":")
    return ssl.get_server_certificate((host, int(port)), timeout=5)


def likering(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command."""
    return subprocess.run(
        [sys.executable, "-m", "likering.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )


@asynccontextmanager
async def likes_all_the_time(cluster: EmbeddedCluster) -> AsyncIterator[list[LikeringError]]:
    """Likes go on meanwhile; what fails of them is in the list."""
    failures: list[LikeringError] = []
    done = asyncio.Event()

    async def like(likes: AsyncLikes, caller: int) -> None:
        number = 0
        while not done.is_set():
            number += 1
            try:
                await likes.like(f"u{caller}-{number}", f"load-{number % 50}")
            except LikeringError as error:
                failures.append(error)

    async with (
        AsyncLikes(cluster.address, credentials=certificates(cluster).app.credentials(), timeout=20) as likes,
        asyncio.TaskGroup() as group,
    ):
        for caller in range(4):
            group.create_task(like(likes, caller))
        try:
            yield failures
        finally:
            done.set()
