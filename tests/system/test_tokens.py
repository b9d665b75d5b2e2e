"""A page token or cursor is good for what it was issued for; changed in any bit, or given elsewhere, it is refused."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple
from uuid import uuid4

import grpc
import pytest

from likering import LikeTracker, Mutation
from likering.admin.v1 import like_admin_service_pb2 as admin_api
from likering.dev.cluster import EmbeddedCluster
from likering.serving.status import from_rpc_error
from likering.v1 import like_service_pb2 as api

REASONS: Final = ("PAGE_TOKEN_INVALID", "CURSOR_INVALID", "ID_NOT_PRINTABLE")


class Kind(NamedTuple):
    """A call that takes tokens. Those issued for ``request`` are good for that one, and not for the ``others``."""

    method: str
    field: str
    request: Any
    others: list[Any]


class Issuer:
    """Calls with tokens, and the token that each has issued for its request."""

    def __init__(self, public: grpc.Channel, operators: grpc.Channel, kinds: list[Kind]) -> None:
        self._channels = {"likering.v1.LikeService": public, "likering.admin.v1.LikeAdminService": operators}
        self.kinds = {kind.method.rpartition("/")[2]: kind for kind in kinds}
        self.tokens = {name: self._issued(kind) for name, kind in self.kinds.items()}

    def ask(self, kind: Kind, request: Any, token: bytes) -> bytes:
        """The (first) response. ``token`` need not be UTF-8, as it is for every stub."""
        number = request.DESCRIPTOR.fields_by_name[kind.field].number
        size = len(token)
        raw = bytes((number << 3 | 2, size & 0x7F | 0x80, size >> 7)) + token
        channel = self._channels[kind.method.partition("/")[0]]
        unary = kind.method.rpartition("/")[2] in ("ListLikers", "ListLikedPosts")
        call: Any = (
            channel.unary_unary(f"/{kind.method}") if unary else channel.unary_stream(f"/{kind.method}")
        )
        answer = call(request.SerializeToString() + (raw if token else b""), timeout=20)
        if unary:
            return bytes(answer)
        try:
            return bytes(next(answer))
        finally:
            answer.cancel()

    def refused(self, kind: Kind, request: Any, token: bytes) -> None:
        """For the token, and for nothing else."""
        with pytest.raises(grpc.RpcError) as caught:
            self.ask(kind, request, token)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, token
        error = from_rpc_error(caught.value)
        assert error.reason in REASONS, (token, error)
        assert [violation.field for violation in error.violations] == [kind.field]

    def _issued(self, kind: Kind) -> str:
        while True:  # what users like is told after the like
            raw = self.ask(kind, kind.request, b"")
            token = _RESPONSES[kind.method.rpartition("/")[2]](raw)
            if token:
                return token


_RESPONSES: Final[dict[str, Callable[[bytes], str]]] = {
    "ListLikers": lambda raw: api.ListLikersResponse.FromString(raw).next_page_token,
    "ListLikedPosts": lambda raw: api.ListLikedPostsResponse.FromString(raw).next_page_token,
    "StreamLikeEvents": lambda raw: api.StreamLikeEventsResponse.FromString(raw).cursor,
    "ExportLikes": lambda raw: admin_api.ExportLikesResponse.FromString(raw).cursor,
}
NAMES: Final = list(_RESPONSES)


@pytest.fixture(scope="module")
def issuer(cluster: EmbeddedCluster) -> Iterator[Issuer]:
    # One name for a user and a post: only the call tells their lists apart.
    same, other = f"same-{uuid4()}", f"other-{uuid4()}"
    with LikeTracker(cluster.address, timeout=30.0) as likes:
        likes.mutate([Mutation.like(f"u{number}", post) for number in range(3) for post in (same, other)])
        likes.mutate([Mutation.like(user, f"p{number}") for number in range(3) for user in (same, other)])
    kinds = [
        Kind(
            "likering.v1.LikeService/ListLikers",
            "page_token",
            api.ListLikersRequest(post_id=same, page_size=1),
            [api.ListLikersRequest(post_id=post, page_size=1) for post in (other, same.upper(), same[:-1])],
        ),
        Kind(
            "likering.v1.LikeService/ListLikedPosts",
            "page_token",
            api.ListLikedPostsRequest(user_id=same, page_size=1),
            [
                api.ListLikedPostsRequest(user_id=user, page_size=1)
                for user in (other, same.upper(), same[:-1])
            ],
        ),
        # Two slots have a short cursor, with few bits to flip.
        Kind(
            "likering.v1.LikeService/StreamLikeEvents",
            "cursor",
            api.StreamLikeEventsRequest(slots=[1, 2]),
            [],
        ),
        Kind(
            "likering.admin.v1.LikeAdminService/ExportLikes",
            "cursor",
            admin_api.ExportLikesRequest(slots=[1, 2]),
            [admin_api.ExportLikesRequest(slots=slots) for slots in ([], [1], [1, 2, 3], [12])],
        ),
    ]
    with (
        grpc.insecure_channel(cluster.address) as public,
        grpc.insecure_channel(cluster.admin_address) as operators,
    ):
        yield Issuer(public, operators, kinds)


@pytest.mark.parametrize("name", NAMES)
def test_a_token_goes_on_where_it_was_issued(issuer: Issuer, name: str) -> None:
    """Or the other tests would pass for nothing."""
    kind = issuer.kinds[name]
    issuer.ask(kind, kind.request, issuer.tokens[name].encode())


@pytest.mark.parametrize("name", NAMES)
def test_any_flipped_bit_is_noticed(issuer: Issuer, name: str) -> None:
    """Of the characters as they are sent, and of what they stand for."""
    kind, token = issuer.kinds[name], issuer.tokens[name]
    meaning = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    for flipped in _flipped(token.encode()):
        issuer.refused(kind, kind.request, flipped)
    for flipped in _flipped(meaning):
        issuer.refused(kind, kind.request, base64.urlsafe_b64encode(flipped).rstrip(b"="))


@pytest.mark.parametrize("name", NAMES)
def test_a_part_of_a_token_or_more_than_it_is_refused(issuer: Issuer, name: str) -> None:
    kind, token = issuer.kinds[name], issuer.tokens[name].encode()
    for wrong in (
        *(token[:end] for end in range(1, len(token))),
        token[1:],
        token * 2,
        token + b"A",
        token + b"=",
    ):
        issuer.refused(kind, kind.request, wrong)


@pytest.mark.parametrize("name", NAMES)
def test_tokens_of_other_calls_are_refused(issuer: Issuer, name: str) -> None:
    kind = issuer.kinds[name]
    for other in NAMES:
        if other != name:
            issuer.refused(kind, kind.request, issuer.tokens[other].encode())


@pytest.mark.parametrize("name", [name for name in NAMES if name != "StreamLikeEvents"])
def test_a_token_of_the_same_call_is_refused_for_another_list(issuer: Issuer, name: str) -> None:
    kind = issuer.kinds[name]
    for request in kind.others:
        issuer.refused(kind, request, issuer.tokens[name].encode())


def _flipped(data: bytes) -> Iterator[bytes]:
    """With each of its bits flipped, one at a time."""
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)
