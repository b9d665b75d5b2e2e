"""Blocks are sent in several calls at once, answered for in order, and repeated as long as there is hope."""

from __future__ import annotations

import threading
from collections import Counter

import grpc
import pytest

from likering.admin.v1 import like_admin_service_pb2 as api
from likering.cli.admin import AdminError
from likering.cli.transfer.blocks import Block, Position
from likering.cli.transfer.loading import Loader
from likering.importing import MAX_LIKES

AWAY = AdminError("away", grpc.StatusCode.UNAVAILABLE, "SHARD_UNAVAILABLE")


def block(number: int, rows: int, posts: int = 7) -> Block:
    made = Block(end=Position(number, number))
    for row in range(rows):
        made.add(number * rows + row, f"u{number}-{row}", f"p{row % posts}", 1)
    return made


class Cluster:
    """Takes each like; fails as often as told."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.users: dict[str, list[str]] = {}
        self.sizes: list[int] = []
        self._lock = threading.Lock()

    def send(self, request: api.ImportLikesRequest) -> api.ImportLikesResponse:
        with self._lock:
            self.sizes.append(len(request.user_ids))
            if self.failures:
                self.failures -= 1
                raise AWAY
            for user, post in zip(request.user_ids, request.post_ids, strict=True):
                self.users.setdefault(post, []).append(user)
            response = api.ImportLikesResponse(outcomes=[api.IMPORT_OUTCOME_INSERTED] * len(request.user_ids))
            response.outcomes[0] = api.IMPORT_OUTCOME_REFUSED
            response.refusals.add(position=0, reason="ID_EMPTY", message="no")
            return response


def test_blocks_are_answered_in_order_and_posts_keep_theirs() -> None:
    cluster = Cluster()
    blocks = [block(number, 300) for number in range(9)]
    with Loader(cluster.send) as loader:
        done = list(loader.load(iter(blocks)))
    assert [loaded.block for loaded in done] == blocks
    assert sum(loaded.inserted + len(loaded.rejects) for loaded in done) == 2700
    for post in range(7):
        expected = [f"u{number}-{row}" for number in range(9) for row in range(post, 300, 7)]
        assert cluster.users[f"p{post}"] == expected


def test_what_the_cluster_refuses_is_rejected_with_its_line() -> None:
    with Loader(Cluster().send) as loader:
        (loaded,) = loader.load([block(2, 5, posts=1)])
    assert [(reject.line, reject.reason) for reject in loaded.rejects] == [(10, "no")]
    assert loaded.rejects[0].record == "u2-0,p0,1970-01-01T00:00:00.000001Z"
    assert loaded.inserted == 4


def test_no_call_is_larger_than_the_router_takes() -> None:
    cluster = Cluster()
    with Loader(cluster.send) as loader:
        list(loader.load([block(0, 12_000, posts=1)]))
    assert Counter(cluster.sizes) == {MAX_LIKES: 2, 12_000 - 2 * MAX_LIKES: 1}


def test_a_cluster_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("likering.cli.transfer.loading._PAUSE", 0.001)
    told: list[str] = []
    cluster = Cluster(failures=5)
    with Loader(cluster.send, told=told.append) as loader:
        (loaded,) = loader.load([block(0, 100)])
    assert loaded.inserted + len(loaded.rejects) == 100
    assert set(told) == {"away"}


def test_patience_ends_and_nothing_else_is_sent() -> None:
    cluster = Cluster(failures=1000)
    with pytest.raises(AdminError, match="away"), Loader(cluster.send, patience=0.0) as loader:
        list(loader.load(block(number, 100) for number in range(100)))
    assert cluster.users == {}
    assert len(cluster.sizes) < 20


def test_a_refusal_for_good_is_not_repeated() -> None:
    calls = []

    def send(request: api.ImportLikesRequest) -> api.ImportLikesResponse:
        calls.append(request)
        raise AdminError("no", grpc.StatusCode.RESOURCE_EXHAUSTED, "STORAGE_FULL")

    with pytest.raises(AdminError, match="no"), Loader(send) as loader:
        list(loader.load([block(0, 1)]))
    assert len(calls) == 1


def test_behind_what_was_refused_for_good_nothing_of_its_posts_is_sent() -> None:
    """Or who goes on with the import later would have it behind them: lists keep the order in which likes have come."""
    cluster = Cluster()

    def send(request: api.ImportLikesRequest) -> api.ImportLikesResponse:
        if request.user_ids[0] == "u0-0":
            raise AdminError("no", grpc.StatusCode.RESOURCE_EXHAUSTED, "STORAGE_FULL")
        return cluster.send(request)

    with pytest.raises(AdminError, match="no"), Loader(send) as loader:
        list(loader.load([block(number, 2 * MAX_LIKES, posts=1) for number in range(3)]))
    assert cluster.users == {}
