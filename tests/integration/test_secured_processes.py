"""Processes and what secures them: they say how they are secured, and with half of it they do not start."""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest
from psycopg.conninfo import conninfo_to_dict

from likering.dev.authority import Authority, CertificateFiles
from likering.dev.ports import free_port
from likering.dev.valkey import ValkeyServer
from shard_node.cache_client import CacheClient
from shard_node.database import conninfo
from tests.parts.router_process import router_process, router_process_of_few_files
from tests.parts.stubs import health

NOWHERE = {"LIKERING_ROUTER_TOPOLOGY": "postgresql://nobody@127.0.0.1:1/none"}
QUICKLY = ("--listen", "127.0.0.1:0", "--start-timeout", "0.5")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    authority = Authority(tmp_path / "tls")
    authority.give_roles({})
    return authority


async def test_an_open_process_says_so() -> None:
    async with router_process(*QUICKLY, **NOWHERE) as router:
        await router.ended()
    (line,) = router.logged(
        "no TLS and no credentials: whoever reaches the ports of this process may call everything"
    )
    assert line["level"] == "warning"


async def test_a_secured_process_says_so(authority: Authority) -> None:
    files = authority.issue("router")
    tls = ("--tls-certificate", files.certificate, "--tls-key", files.key, "--tls-ca", files.ca)
    async with router_process(
        *QUICKLY, *map(str, tls), "--tls-roles", str(authority.roles), **NOWHERE
    ) as router:
        await router.ended()
    assert router.logged("mutual TLS: callers are let in by their certificate or token")


@pytest.mark.parametrize(
    ("module", "prefix"),
    [("router", "ROUTER"), ("shard_node", "NODE"), ("shard_node.replica", "REPLICA")],
)
async def test_half_of_tls_is_refused(authority: Authority, module: str, prefix: str) -> None:
    """One sentence that names what is missing, and exit code 2: before anything is served, or any database asked."""
    nowhere = "postgresql://nobody@127.0.0.1:1/none"
    environment = {
        f"LIKERING_{prefix}_TLS_CERTIFICATE": str(authority.issue("x").certificate),
        f"LIKERING_{prefix}_TOPOLOGY": nowhere,
        f"LIKERING_{prefix}_LISTEN": "127.0.0.1:0",
    }
    if prefix != "ROUTER":
        environment[f"LIKERING_{prefix}_POSTGRES"] = nowhere
    if prefix == "NODE":
        environment |= {"LIKERING_NODE_NAME": "a", "LIKERING_NODE_CACHE": "redis://127.0.0.1:1"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module), stderr=asyncio.subprocess.PIPE, env={**os.environ, **environment}
    )
    async with asyncio.timeout(60):
        _, output = await process.communicate()
    assert process.returncode == 2, output
    assert (
        output.decode()
        .splitlines()[-1]
        .endswith("--tls-certificate is set, but not --tls-key, --tls-ca, --tls-roles: all of them or none")
    )


async def test_several_workers_are_secured_as_one_is(authority: Authority) -> None:
    """The parent hands the settings on, and refuses for them."""
    async with router_process(*QUICKLY, "--workers", "2", "--tls-ca", str(authority.ca), **NOWHERE) as router:
        assert await router.ended() == 2


async def test_more_connections_than_a_process_can_have_are_no_harm() -> None:
    """They are hung up on: it lives, its other ports answer, and this one does again when they are gone."""
    listen, probes = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    async with router_process_of_few_files(
        256, "--listen", listen, "--health-listen", probes, "--start-timeout", "60", **NOWHERE
    ) as router:
        await router.has_logged("listening")
        connections = [await asyncio.open_connection(*listen.split(":")) for _ in range(512)]
        try:
            # Those that it has not hung up on stand until they are.
            async with asyncio.timeout(5):
                await asyncio.gather(*(reader.read() for reader, _ in connections[256:]))
            assert await answers(probes) == "NOT_SERVING"
        finally:
            for _, writer in connections:
                writer.transport.abort()
        assert await answers(listen) == "NOT_SERVING"
        assert router.process.returncode is None


async def answers(address: str) -> str:
    """What health says there; it is asked until somebody answers."""
    async with grpc.aio.insecure_channel(address) as channel:
        return await health(channel)


@asynccontextmanager
async def tls_in_front_of(port: int, files: CertificateFiles) -> AsyncIterator[int]:
    """Terminates mutual TLS for a server that was built without it; gives the port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files.ca)
    context.load_cert_chain(files.certificate, files.key)
    context.verify_mode = ssl.CERT_REQUIRED

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, behind[1]), pump(behind[0], writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_the_cache_is_reached_by_tls(authority: Authority, valkey_server: ValkeyServer) -> None:
    """By its URL alone, with a certificate of the node's; one of another authority is not taken."""
    own, server = authority.issue("node"), authority.issue("valkey")
    async with tls_in_front_of(valkey_server.port, server) as port:
        secret = valkey_server.url.partition("@")[0].removeprefix("redis://")
        url = f"rediss://{secret}@127.0.0.1:{port}/0?ssl_ca_certs={own.ca}&ssl_certfile={own.certificate}&ssl_keyfile={own.key}"
        client = CacheClient(url, lambda: None, read_timeout=5, write_timeout=5)
        await client.set_if_newer(["tls"], ["1 1"], 60, make=True)
        assert await client.get(["tls"]) == [b"1 1"]
        await client.close()


def test_tls_to_postgres_is_as_the_connection_string_says() -> None:
    """Nothing that a node adds weakens it."""
    tls = {
        "sslmode": "verify-full",
        "sslrootcert": "/run/ca.pem",
        "sslcert": "/run/node.pem",
        "sslkey": "/run/node.key",
        "passfile": "/run/pgpass",
    }
    made = conninfo_to_dict(
        conninfo("host=db dbname=x " + " ".join(f"{k}={v}" for k, v in tls.items()), "test")
    )
    assert {name: made[name] for name in tls} == tls
