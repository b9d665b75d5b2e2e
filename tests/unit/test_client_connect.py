"""Connecting: addresses, TLS, tokens, and a sentence with host, port and likely cause when it does not work."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from likering import (
    AsyncLikes,
    ClientClosed,
    DeadlineExceeded,
    LikeTracker,
    Mutation,
    ServiceUnreachable,
)
from likering.client.connect import Target, check_address
from likering.v1 import like_service_pb2 as pb
from likering.v1 import like_service_pb2_grpc as pb_grpc
from tests.parts.like_server import LikeServer

CERTIFICATE = (Path(__file__).parents[1] / "parts" / "localhost.crt").read_bytes()
KEY = (Path(__file__).parents[1] / "parts" / "localhost.key").read_bytes()


@pytest.fixture
def server() -> Iterator[LikeServer]:
    with LikeServer() as server:
        yield server


@pytest.fixture
def tls_server() -> Iterator[LikeServer]:
    with LikeServer(credentials=grpc.ssl_server_credentials([(KEY, CERTIFICATE)])) as server:
        yield server


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port that refuses connections, and that nobody else gets meanwhile: bound, but not listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def silent_address() -> Iterator[str]:
    """Connections come about, and that is all that ever happens there."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def web_server_address() -> Iterator[str]:
    """Speaks a protocol, but not ours."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:  # closed: the test is over
                    return
                with connection:
                    connection.recv(100)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def connect(address: str, credentials: grpc.ChannelCredentials | None = None, timeout: float = 5.0) -> None:
    with LikeTracker(address, credentials=credentials, timeout=timeout):
        pass


async def connect_async(
    address: str, credentials: grpc.ChannelCredentials | None = None, timeout: float = 5.0
) -> None:
    async with AsyncLikes(address, credentials=credentials, timeout=timeout):
        pass


def refusal(address: str, credentials: grpc.ChannelCredentials | None = None, timeout: float = 5.0) -> str:
    """What both clients say, which is the same."""
    with pytest.raises(ServiceUnreachable) as sync:
        connect(address, credentials, timeout)
    with pytest.raises(ServiceUnreachable) as asynchronous:
        asyncio.run(connect_async(address, credentials, timeout))
    assert sync.value.message == asynchronous.value.message
    return sync.value.message


def test_nothing_listens_there(free_port: int) -> None:
    assert refusal(f"localhost:{free_port}") == (
        f"No connection to localhost:{free_port}: nothing listens there; is the router running, and is this its port?"
    )


def test_nobody_answers(silent_address: str) -> None:
    message = refusal(silent_address, timeout=0.3)
    assert message.startswith(f"No connection to {silent_address}: no answer within 0.3 s;")


def test_something_else_listens_there(web_server_address: str) -> None:
    assert "no gRPC server" in refusal(web_server_address)


def test_the_server_wants_tls_and_the_client_does_not_know(tls_server: LikeServer) -> None:
    assert "it may want TLS" in refusal(tls_server.address)


def test_the_client_wants_tls_and_the_server_does_not_speak_it(server: LikeServer) -> None:
    message = refusal(server.address, grpc.ssl_channel_credentials(CERTIFICATE))
    assert message.endswith("the server does not speak TLS, and this client was given TLS credentials")


def test_the_servers_certificate_is_not_trusted(tls_server: LikeServer) -> None:
    assert "not signed by a certificate authority that this client trusts" in refusal(
        tls_server.address, grpc.ssl_channel_credentials()
    )


@pytest.mark.parametrize(
    ("details", "cause"),
    [
        ("DNS resolution failed for nowhere:1: C-ares status is not ARES_SUCCESS", "cannot be resolved"),
        (
            "errors resolving nowhere:1: [field:hostname lookup error: Domain name not found]",
            "cannot be resolved",
        ),
        ("connect: Connection refused (111)", "nothing listens there"),
        ("Ssl handshake failed: SSL_ERROR_SSL: CERTIFICATE_VERIFY_FAILED", "certificate authority"),
        ("error:0A00010B:SSL routines::wrong version number", "does not speak TLS"),
        ("Hostname Verification Check failed.", "another host name"),
        ("Peer name nowhere is not in peer certificate", "another host name"),
        ("failed to connect to all addresses; last error: No route to host", "no route"),
        ("failed to connect to all addresses; last error: connect: Connection timed out", "firewall"),
        ("Socket closed", "the connection was lost"),
        ("recvmsg:Connection reset by peer", "the connection was lost"),
    ],
)
def test_the_cause_is_read_from_the_words_of_grpc(details: str, cause: str) -> None:
    """Words that differ by version, or that need a broken network to hear."""
    error = Target("nowhere:1").unreachable(details)
    assert error.message.startswith("No connection to nowhere:1: ")
    assert cause in error.message
    assert error.metadata["details"] == details


def test_calls_say_it_too_when_their_deadline_leaves_no_time(free_port: int) -> None:
    tracker = LikeTracker(f"localhost:{free_port}", timeout=0.2)
    with pytest.raises(ServiceUnreachable, match=f"localhost:{free_port}: nothing listens there"):
        tracker.like("u", "p")
    tracker.close()


def test_a_server_that_is_silent_costs_the_deadline_and_no_more(silent_address: str) -> None:
    tracker = LikeTracker(silent_address, timeout=0.2)
    with pytest.raises(DeadlineExceeded):
        tracker.like("u", "p")
    tracker.close()


async def test_a_call_waits_for_a_service_that_is_about_to_start(free_port: int) -> None:
    """The first attempts are refused; the server comes up within the deadline."""
    async with asyncio.timeout(20):
        likes = AsyncLikes(f"localhost:{free_port}", timeout=15.0)
        started = asyncio.Event()

        def refused(*_: object) -> float:
            started.set()
            return 1.0

        likes._jitter = refused  # asked once an attempt has failed
        call = asyncio.create_task(likes.like("u", "p"))
        await started.wait()
        with LikeServer(free_port) as server:
            assert await call is True
            assert server.methods() == ["MutateLikes"]
            await likes.close()


def test_a_retry_that_comes_late_does_not_like_again(server: LikeServer) -> None:
    """A like whose attempt hung about in the network arrives a second time, after the user took it back."""
    with LikeTracker(server.address) as likes, grpc.insecure_channel(server.address) as channel:
        likes.like("u", "p")
        (_, request) = server.calls[0]
        likes.unlike("u", "p")
        late = pb_grpc.LikeServiceStub(channel).Like(request)
        assert late.outcome == pb.MUTATION_OUTCOME_SUPERSEDED
        assert likes.has_liked("u", "p") is False


def test_tls_and_token_work_for_both_clients(tls_server: LikeServer) -> None:
    credentials = grpc.ssl_channel_credentials(CERTIFICATE)
    with LikeTracker(tls_server.address, credentials=credentials, token="secret") as likes:
        assert likes.like("u", "p") is True

    async def count() -> int:
        async with AsyncLikes(tls_server.address, credentials=credentials, token=lambda: "fresh") as likes:
            return await likes.like_count("p")

    assert asyncio.run(count()) == 1
    assert [came["authorization"] for came in tls_server.metadata] == ["Bearer secret", "Bearer fresh"]


def test_the_client_says_who_it_is(server: LikeServer) -> None:
    with LikeTracker(server.address) as likes:
        likes.like_count("p")
    assert str(server.metadata[0]["user-agent"]).startswith("likering-python/")


def test_a_channel_of_ones_own_may_be_used(server: LikeServer) -> None:
    with LikeTracker.over(grpc.insecure_channel(server.address)) as likes:
        assert likes.apply(Mutation.like("u", "p")).changed


@pytest.mark.parametrize(
    "address", ["localhost:1", "127.0.0.1:65535", "[::1]:50051", "dns:///router:50051", "unix:/x"]
)
def test_addresses(address: str) -> None:
    assert check_address(address) == address


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("localhost", "host:port"),
        ("", "host:port"),
        (":50051", "host:port"),
        ("::1", "host:port"),
        ("localhost:", "the port is a number"),
        ("localhost:http", "the port is a number"),
        ("localhost:0", "the port is a number"),
        ("localhost:99999", "the port is a number"),
    ],
)
def test_an_address_that_cannot_be_one_is_refused_at_once(address: str, sentence: str) -> None:
    for client in (LikeTracker, AsyncLikes):
        with pytest.raises(ValueError, match=re.escape(sentence)):
            client(address)


def test_a_client_that_is_closed_ends_its_calls(server: LikeServer) -> None:
    server.gate.clear()
    tracker = LikeTracker(server.address)
    errors: list[Exception] = []

    def call() -> None:
        try:
            tracker.like("u", "p")
        except ClientClosed as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    assert server.arrived.acquire(timeout=10)
    tracker.close()
    thread.join(10)
    assert [type(error) for error in errors] == [ClientClosed]
    with pytest.raises(ClientClosed):
        tracker.like("u", "p")
    tracker.close()
