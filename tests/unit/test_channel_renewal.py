"""Connections to nodes are made anew when the certificate of the caller was renewed; calls end on the old ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from likering.dev.authority import Authority
from likering.errors import ShardUnavailable
from likering.security import files
from likering.security.access import Access
from likering.security.certificates import Certificates
from likering.security.guard import Guard
from likering.security.identity import CertificateIdentities
from likering.security.roles import Role
from likering.serving.channels import Channels, KeptChannels
from likering.shard.v1 import shard_service_pb2 as shard
from likering.shard.v1.shard_service_pb2_grpc import ShardServiceStub
from router.lane import BatchRefused
from router.node_client import NodeClient
from tests.parts.fake_shard import FakeShard
from tests.parts.until import until

OLD, NEW = (f"uri:spiffe://likering.dev/{name}" for name in ("old", "new"))


@pytest.fixture(autouse=True)
def _look_at_files_always() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "LOOK_SECONDS", 0)
        yield


@asynccontextmanager
async def node(authority: Authority) -> AsyncIterator[tuple[FakeShard, Channels]]:
    """A shard that lets in who has role ``node``, and the channels of a caller whose certificate is named "old"."""
    authority.give_roles({"old": [Role.NODE], "new": [Role.NODE], "stranger": [Role.READER]})
    fake = FakeShard("a")
    await fake.start(
        access=Access(Certificates(*authority.issue("shard")), Guard(CertificateIdentities(authority.roles)))
    )
    try:
        yield fake, Channels(Certificates(*authority.issue("old", file="caller")))
    finally:
        fake.open.set()
        await fake.stop()


def batch() -> shard.ExecuteRequest:
    return shard.ExecuteRequest(
        kinds=[shard.OP_KIND_LIKE],
        post_ids=["p"],
        user_ids=["u"],
        intent_times=[0],
        epochs=[1],
        min_versions=[0],
    )


async def test_a_router_changes_over_and_loses_no_batch(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with node(authority) as (fake, channels):
        client = NodeClient("a", "session", channels=channels)
        client.connect(fake.address, 1)
        await until(lambda: client.connected)
        fake.open.clear()
        under_way = asyncio.create_task(client.execute(batch(), 20))
        await until(lambda: fake.callers == [OLD])
        authority.issue("new", file="caller")
        later = []
        while NEW not in fake.callers:
            later.append(asyncio.create_task(client.execute(batch(), 20)))
            await asyncio.sleep(0.01)
            assert client.connected
        fake.open.set()
        for answer in await asyncio.gather(under_way, *later):
            assert not any(answer.codes)
        await client.close()


async def test_a_certificate_that_is_not_let_in_is_no_fault_of_callers(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with node(authority) as (fake, _):
        client = NodeClient("a", "session", channels=Channels(Certificates(*authority.issue("stranger"))))
        client.connect(fake.address, 1)
        await until(lambda: client.connected)
        with pytest.raises(BatchRefused) as caught:
            await client.execute(batch(), 20)
        assert isinstance(caught.value.error, ShardUnavailable)
        await client.close()


async def test_kept_channels_show_what_was_renewed(tmp_path: Path) -> None:
    """The old one ends its calls first; nothing is left open."""
    authority = Authority(tmp_path)
    async with node(authority) as (fake, channels):
        kept = KeptChannels(channels)
        first = kept.to("a", fake.address)
        assert kept.to("a", fake.address) is first
        fake.open.clear()
        under_way = asyncio.ensure_future(_execute(first))
        await until(lambda: fake.callers == [OLD])
        authority.issue("new", file="caller")
        second = kept.to("a", fake.address)
        assert second is not first
        fake.open.set()
        await _execute(second)
        await under_way
        assert fake.callers == [OLD, NEW]
        await kept.close()


async def _execute(channel: Any) -> None:
    stub: Any = ShardServiceStub(channel)
    await stub.Execute(batch(), timeout=20)
