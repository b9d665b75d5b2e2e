"""Clients show renewed certificates, and trust renewed authorities, without being made anew; no call fails then."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import grpc
import pytest

from likering import AsyncLikes, LikeTracker, RetryPolicy, ServiceUnreachable
from likering.client.connect import Target
from likering.client.credentials import renewed_credentials
from likering.client.renewal import AioLines, BlockingLines
from likering.dev.authority import Authority, CertificateFiles
from likering.security import files
from likering.security.certificates import Certificates
from likering.security.errors import SecurityError
from tests.parts.like_server import LikeServer

NO_RETRIES = RetryPolicy(tokens=0)


@pytest.fixture(autouse=True)
def _look_at_files_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LOOK_SECONDS", 0)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "tls")


@pytest.fixture
def server(authority: Authority) -> Iterator[LikeServer]:
    """Lets in who shows a certificate of the authority."""
    with LikeServer(credentials=Certificates(*authority.issue("router")).for_server()) as server:
        yield server


def shown_from(own: CertificateFiles) -> Callable[[], grpc.ChannelCredentials]:
    return renewed_credentials(ca=own.ca, certificate=own.certificate, key=own.key)


def test_a_tracker_shows_the_renewed_certificate(authority: Authority, server: LikeServer) -> None:
    """From the next call on; one under way ends as it began."""
    own = authority.issue("old", file="caller")
    with LikeTracker(server.address, credentials=shown_from(own), retry=NO_RETRIES, timeout=30) as likes:
        likes.like("u1", "p")
        server.gate.clear()
        under_way = threading.Thread(target=likes.like, args=("u2", "p"))
        under_way.start()
        while len(server.certificates) < 2:
            assert server.arrived.acquire(timeout=20)
        authority.issue("new", file="caller")
        later = threading.Thread(target=likes.like, args=("u3", "p"))
        later.start()
        while len(server.certificates) < 3:
            assert server.arrived.acquire(timeout=20)
        server.gate.set()
        under_way.join()
        later.join()
        assert likes.like_count("p") == 3
    assert server.certificates == ["old", "old", "new", "new"]


async def test_async_likes_show_the_renewed_certificate(authority: Authority, server: LikeServer) -> None:
    """Also for streams that begin later, while one that stands goes on."""
    own = authority.issue("old", file="caller")
    async with AsyncLikes(server.address, credentials=shown_from(own), retry=NO_RETRIES, timeout=30) as likes:
        await likes.like("u1", "p")
        async with aclosing(likes.watch(["p"])) as watch:
            assert (await anext(watch)).count == 1
            authority.issue("new", file="caller")
            await likes.like("u2", "p")
            assert (await anext(watch)).count == 2
        async with aclosing(likes.watch(["p"])) as watch:
            assert (await anext(watch)).count == 2
    assert server.certificates == ["old", "old", "new", "new"]


def test_files_that_do_not_fit_together_change_nothing(authority: Authority, server: LikeServer) -> None:
    """While they are replaced one by one."""
    own = authority.issue("old", file="caller")
    other = authority.issue("new")
    with LikeTracker(server.address, credentials=shown_from(own), retry=NO_RETRIES, timeout=30) as likes:
        own.certificate.write_bytes(other.certificate.read_bytes())
        likes.like("u1", "p")
        own.key.write_bytes(other.key.read_bytes())
        likes.like("u2", "p")
    assert server.certificates == ["old", "new"]


def test_an_authority_that_is_taken_out_is_trusted_no_more(
    authority: Authority, server: LikeServer, tmp_path: Path
) -> None:
    """Of a client without a certificate of its own, too: its server is not the one any more that it knows."""
    own = authority.issue("app")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(authority.ca.read_bytes())
    shown = renewed_credentials(ca=trusted, certificate=own.certificate, key=own.key)
    with LikeTracker(server.address, credentials=shown, retry=NO_RETRIES, timeout=30) as likes:
        likes.like("u", "p")
        trusted.write_bytes(Authority(tmp_path / "other").ca.read_bytes())
        with pytest.raises(ServiceUnreachable, match="authority"):
            likes.like("u", "p")


def test_files_that_cannot_be_used_are_refused_at_once(authority: Authority, tmp_path: Path) -> None:
    own, other = authority.issue("a"), authority.issue("b")
    with pytest.raises(SecurityError, match="the key is not that of the certificate"):
        renewed_credentials(ca=own.ca, certificate=own.certificate, key=other.key)
    with pytest.raises(SecurityError, match="missing"):
        renewed_credentials(ca=tmp_path / "missing")
    with pytest.raises(ValueError, match="together"):
        renewed_credentials(ca=own.ca, certificate=own.certificate)


def test_a_line_of_before_ends_with_its_last_call(authority: Authority) -> None:
    """And the newest one stays, calls or not."""
    own = authority.issue("old", file="caller")
    lines = BlockingLines(Target("localhost:1", credentials=shown_from(own)))
    with lines.line() as first:
        authority.issue("new", file="caller")
        with lines.line() as second:
            assert second is not first
            assert len(lines) == 2
        assert len(lines) == 2
    assert len(lines) == 1
    with lines.line() as third:
        assert third is second
    for channel in lines.take_all():
        channel.close()


async def test_a_line_of_before_without_calls_ends_at_once(authority: Authority) -> None:
    own = authority.issue("old", file="caller")
    lines = AioLines(Target("localhost:1", credentials=shown_from(own)))
    authority.issue("new", file="caller")
    with lines.line():
        assert len(lines) == 1
    await asyncio.wait_for(lines.close(), 20)
