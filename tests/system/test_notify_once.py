"""The consumers of examples/notify_once.py are killed, and every like is notified exactly once."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from likering import Action, LikeTracker, Mutation
from likering.admin.v1 import like_admin_service_pb2 as admin_api
from likering.admin.v1.like_admin_service_pb2_grpc import LikeAdminServiceStub
from likering.dev.cluster import EmbeddedCluster

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).parents[2]
MEMBERS = 2


class Group:
    """The example's processes."""

    def __init__(self, address: str, directory: Path) -> None:
        self._address = address
        self._directory = directory
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, member: int) -> None:
        self._processes[member] = subprocess.Popen(
            [
                *(sys.executable, ROOT / "examples" / "notify_once.py", self._address),
                *(self._directory, str(member), str(MEMBERS)),
            ],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def kill(self, member: int) -> None:
        process = self._processes[member]
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        for process in self._processes.values():
            process.terminate()
            process.wait()

    def notified(self) -> list[tuple[str, str]]:
        """Post and user of each notification."""
        found: list[tuple[str, str]] = []
        for path in self._directory.glob("*.db"):
            # Not read-only: whoever opens it first after a kill has to undo what the killed process had begun.
            with closing(sqlite3.connect(path, timeout=30.0)) as database:
                if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'notifications'").fetchone():
                    found += database.execute("SELECT post_id, user_id FROM notifications").fetchall()
        return found


@pytest.fixture
def group(cluster: EmbeddedCluster, tmp_path: Path) -> Iterator[Group]:
    group = Group(cluster.address, tmp_path)
    yield group
    group.stop()


def test_every_like_is_notified_exactly_once(cluster: EmbeddedCluster, group: Group) -> None:
    """Consumers are killed again and again while likes go on, are taken back and given again."""
    name = f"notify-{time.time_ns():x}"
    posts = [f"{name}-{number}" for number in range(40)]
    for member in range(MEMBERS):
        group.start(member)
    ever: set[tuple[str, str]] = set()
    with LikeTracker(cluster.address, timeout=30.0) as likes:
        for round_ in range(12):
            users = [f"u{round_}-{number}" for number in range(5)]
            edges = [(post, user) for post in posts for user in users]
            likes.mutate([Mutation.like(user, post) for post, user in edges])
            ever.update(edges)
            likes.mutate([Mutation(user, post, Action.UNLIKE) for post, user in edges[::3]])
            likes.mutate([Mutation.like(user, post) for post, user in edges[::6]])
            if round_ % 2:
                _until(lambda: len(_of(group, name)) >= len(ever) // 2)
                group.kill(round_ % 4 // 2)
                group.start(round_ % 4 // 2)
    _until(lambda: set(_of(group, name)) == ever)
    assert sorted(_of(group, name)) == sorted(ever)
    # What is purged while a member is away goes, too.
    group.kill(1)
    with grpc.insecure_channel(cluster.admin_address) as channel:
        admin = LikeAdminServiceStub(channel)
        list(admin.PurgePost(admin_api.PurgePostRequest(post_id=posts[0])))
        list(admin.PurgePost(admin_api.PurgePostRequest(post_id=posts[1])))
        list(admin.PurgeUser(admin_api.PurgeUserRequest(user_id="u3-2")))
    group.start(1)
    left = {(post, user) for post, user in ever if post not in posts[:2] and user != "u3-2"}
    _until(lambda: set(_of(group, name)) == left)
    assert sorted(_of(group, name)) == sorted(left)


def _of(group: Group, name: str) -> list[tuple[str, str]]:
    return [(post, user) for post, user in group.notified() if post.startswith(name)]


def _until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the consumers do not get there"
        time.sleep(0.05)
