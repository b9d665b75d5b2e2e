"""In which order a router has a user erased, over owners that only note what they are asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from likering.admin.v1 import like_admin_service_pb2 as api
from likering.errors import NotPossible
from likering.ring.hashing import slot_of
from likering.ring.topology import Topology
from likering.shard.v1 import shard_admin_service_pb2 as pb
from likering.topology.watch import TopologyWatch
from router.admin.likes import user_purge
from router.admin.likes.owners import SlotOwners
from router.admin.likes.user_purge import UserPurge

SLOTS = 4
USER = "u"
OWN = slot_of(USER, SLOTS)
PURGE = 77
MARK, END, ERASE, LIST, RELEASE = (
    pb.USER_PURGE_STEP_MARK,
    pb.USER_PURGE_STEP_END_LIKES,
    pb.USER_PURGE_STEP_ERASE_EDGES,
    pb.USER_PURGE_STEP_ERASE_LIST,
    pb.USER_PURGE_STEP_RELEASE,
)
OTHERS = [slot for slot in range(SLOTS) if slot != OWN]
LIKED_IN = OTHERS[1]
"""The slot in which the user has edges: three, in two pieces."""


class Owners:
    """Of four slots: each by a node of its own."""

    def __init__(self) -> None:
        self.asked: list[pb.PurgeUserRequest] = []
        self.marks: dict[int, int] = {}
        self.list_rows = [5, 2, 0]
        self.waits = 2

    async def ask(
        self, slot: int, ask: Callable[[Any, int], Awaitable[pb.PurgeUserResponse]], **_: object
    ) -> tuple[str, pb.PurgeUserResponse]:
        return f"node-{slot}", await ask(self, 9)

    async def PurgeUser(self, request: pb.PurgeUserRequest, timeout: float) -> pb.PurgeUserResponse:
        self.asked.append(request)
        slot, after = request.slot, request.after_post_no
        assert (request.epoch, request.user_id) == (9, USER)
        answer = pb.PurgeUserResponse()
        if request.step == MARK:
            self.marks[slot] = request.purge or PURGE
        elif request.step == LIST:
            answer.list_rows = self.list_rows.pop(0)
        elif request.step == RELEASE:
            self.marks.pop(slot)
            answer.purge_time = 1_000_000 if slot == OWN else 0
        elif slot == LIKED_IN:
            answer.posts = answer.edges = 1 if after else 2
            answer.likes = 1
            answer.edges_erased = (3 if after else 2) if request.step == ERASE else 0
            if request.step == ERASE and after and self.waits:
                self.waits -= 1
                answer.waits_for = "readers"
            elif not after:
                answer.next_post_no = 1
        answer.purge = self.marks.get(slot, 0)
        return answer

    def steps(self) -> list[tuple[int, int, int]]:
        return [(one.step, one.slot, one.after_post_no) for one in self.asked]


def purge_of(owners: Owners) -> UserPurge:
    topology = Topology("cluster", 1, SLOTS, {}, (None,) * SLOTS, (0,) * SLOTS)
    watch = cast(TopologyWatch, SimpleNamespace(current=topology))
    return UserPurge(watch, cast(SlotOwners, owners), "request", USER, 0)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_purge, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(user_purge, "TELL_SECONDS", 0.0)


async def test_every_slot_is_marked_before_any_like_is_ended_and_the_users_own_is_first() -> None:
    owners = Owners()
    responses = [
        api.PurgeUserResponse.FromString(one.SerializeToString()) async for one in purge_of(owners).purge()
    ]
    slots = [OWN, *OTHERS]
    assert owners.steps() == [
        *((MARK, slot, 0) for slot in slots),
        *((END, slot, after) for slot in slots for after in ((0, 1) if slot == LIKED_IN else (0,))),
        (ERASE, LIKED_IN, 0),
        *((ERASE, LIKED_IN, 1),) * 3,
        *((LIST, OWN, 0),) * 3,
        *((RELEASE, slot, 0) for slot in slots),
    ]
    assert [one.purge for one in owners.asked] == [0] + [PURGE] * (len(owners.asked) - 1)
    assert sum(one.waits_for == "readers" for one in responses) == 2
    *_, last = responses
    assert [(one.node, one.slots, one.edges_erased, one.list_rows_erased) for one in last.receipts] == [
        (f"node-{slot}", 1, 3 if slot == LIKED_IN else 0, 7 if slot == OWN else 0) for slot in range(SLOTS)
    ]
    assert {one.purge_time.ToMicroseconds() for one in last.receipts} == {1_000_000}
    assert [one.phase for one in responses] == sorted(one.phase for one in responses)


async def test_a_dry_run_only_counts() -> None:
    owners = Owners()
    *_, last = [one async for one in purge_of(owners).estimate()]
    assert {step for step, _, _ in owners.steps()} == {pb.USER_PURGE_STEP_COUNT}
    assert [(one.node, one.slots, one.likes, one.edges) for one in last.estimates] == [
        (f"node-{slot}", 1, *((2, 3) if slot == LIKED_IN else (0, 0))) for slot in range(SLOTS)
    ]


@pytest.mark.parametrize("step", [MARK, END, ERASE, LIST])
async def test_a_call_that_was_overtaken_deletes_nothing_more(step: pb.UserPurgeStep.ValueType) -> None:
    """Another call has ended the purge, or begun the next: at the latest the user's own slot says so."""
    owners = Owners()
    answer = owners.PurgeUser

    async def overtaken(request: pb.PurgeUserRequest, timeout: float) -> pb.PurgeUserResponse:
        response = await answer(request, timeout)
        if request.step == step and request.slot in (OWN if step == LIST else LIKED_IN,):
            response.purge = PURGE + 1 if step == MARK else 0
        return response

    owners.PurgeUser = overtaken  # type: ignore[method-assign]
    with pytest.raises(NotPossible):
        async for _ in purge_of(owners).purge():
            pass
    assert owners.asked[-1].step == step
