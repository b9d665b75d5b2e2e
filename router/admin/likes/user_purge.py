"""Has a user erased from all slots, step by step: ``shard_node.admin.user_purge`` says why in this order.

Nothing of it is kept here but what the receipts say. When it is interrupted, whoever repeats it goes on with the same
purge: its number is in the user's own slot.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from time import monotonic
from typing import Final, TypeVar

from likering.admin.v1 import like_admin_service_pb2 as api
from likering.errors import NotPossible
from likering.shard.v1 import shard_admin_service_pb2 as shard
from likering.topology.watch import TopologyWatch
from router.admin.likes.counts import Throttle
from router.admin.likes.owners import ANSWER_SECONDS, SlotOwners, SlotUnreachable

MAX_POSTS: Final = 5000
"""Posts of one question to a node, unless the rate asks for fewer."""
WAIT_SECONDS: Final = 0.2
"""Before what waits for something is asked for again."""
TELL_SECONDS: Final = 1.0
"""Between two responses of one phase."""

T = TypeVar("T", api.UserPurgeReceipt, api.UserPurgeEstimate)


class UserPurge:
    """One PurgeUser."""

    def __init__(
        self,
        watch: TopologyWatch,
        owners: SlotOwners,
        request_id: str,
        user_id: str,
        posts_per_second: int,
    ) -> None:
        topology = watch.current
        self._owners = owners
        self._cluster_id = topology.cluster_id
        self._request_id = request_id
        self._user_id = user_id
        self._throttle = Throttle(posts_per_second)
        self._own = topology.slot_of(user_id)
        # The user's own slot first: it says which purge this is, and when it ends.
        self._slots = [self._own, *(slot for slot in range(topology.slot_count) if slot != self._own)]
        self._purge = 0
        self._edges_erased: dict[int, int] = {}
        self._told_at = 0.0
        self._progress = api.PurgeUserResponse()

    def __repr__(self) -> str:
        progress = self._progress
        return f"<UserPurge {self._purge} in phase {progress.phase}, {progress.slots_done} slots done>"

    async def estimate(self) -> AsyncGenerator[api.PurgeUserResponse, None]:
        """Counts. Raises what keeps the owner of a slot from answering."""
        estimates: dict[str, api.UserPurgeEstimate] = {}
        self._begin(api.USER_PURGE_PHASE_COUNTING, self._slots)
        for slot in self._slots:
            async for node, answer in self._over_posts(slot, shard.USER_PURGE_STEP_COUNT):
                found = estimates.setdefault(node, api.UserPurgeEstimate(node=node))
                found.slots += not answer.HasField("next_post_no")
                found.likes += answer.likes
                found.edges += answer.edges
                found.list_rows += answer.list_rows
                if self._due:
                    yield self._progress
            self._progress.slots_done += 1
        self._progress.estimates.extend(_by_name(estimates.values()))
        yield self._progress

    async def purge(self) -> AsyncGenerator[api.PurgeUserResponse, None]:
        """Erases. Raises what keeps the owner of a slot from answering, and NotPossible if another call was faster."""
        self._begin(api.USER_PURGE_PHASE_MARKING, self._slots)
        for slot in self._slots:
            _, answer = await self._ask(slot, shard.USER_PURGE_STEP_MARK)
            self._purge = self._purge or answer.purge
            self._check(answer)
            self._edges_erased[slot] = answer.edges_erased
            self._progress.slots_done += 1
            if self._due:
                yield self._progress

        found: list[int] = []
        self._begin(api.USER_PURGE_PHASE_ENDING_LIKES, self._slots)
        for slot in self._slots:
            edges = 0
            async for _, answer in self._over_posts(slot, shard.USER_PURGE_STEP_END_LIKES):
                edges += answer.edges
                if self._due:
                    yield self._progress
            if edges:
                found.append(slot)
            self._progress.slots_done += 1

        self._begin(api.USER_PURGE_PHASE_ERASING, found)
        # Elsewhere there is nothing, and the marks see to it that nothing comes.
        for slot in found:
            async for _, answer in self._over_posts(slot, shard.USER_PURGE_STEP_ERASE_EDGES):
                self._edges_erased[slot] = max(self._edges_erased[slot], answer.edges_erased)
                self._progress.waits_for = answer.waits_for
                if self._due:
                    yield self._progress
            self._progress.slots_done += 1
        list_rows = 0
        while rows := self._check(
            (await self._ask(self._own, shard.USER_PURGE_STEP_ERASE_LIST))[1]
        ).list_rows:
            list_rows += rows
            if self._due:
                yield self._progress

        receipts: dict[str, api.UserPurgeReceipt] = {}
        ended_at = 0
        self._begin(api.USER_PURGE_PHASE_RELEASING, self._slots)
        for slot in self._slots:
            node, answer = await self._ask(slot, shard.USER_PURGE_STEP_RELEASE)
            ended_at = ended_at or answer.purge_time
            receipt = receipts.setdefault(node, api.UserPurgeReceipt(node=node))
            receipt.slots += 1
            receipt.edges_erased += self._edges_erased[slot]
            if slot == self._own:
                receipt.list_rows_erased = list_rows
            self._progress.slots_done += 1
            if self._due:
                yield self._progress
        for receipt in receipts.values():
            receipt.purge_time.FromMicroseconds(ended_at)
        self._progress.receipts.extend(_by_name(receipts.values()))
        yield self._progress

    def _begin(self, phase: api.UserPurgePhase.ValueType, slots: Sequence[int]) -> None:
        self._progress = api.PurgeUserResponse(phase=phase, slots_total=len(slots))
        self._told_at = monotonic()

    @property
    def _due(self) -> bool:
        """Whether it is time to tell how far this is."""
        now = monotonic()
        due = now >= self._told_at + TELL_SECONDS
        if due:
            self._told_at = now
        return due

    def _check(self, answer: shard.PurgeUserResponse) -> shard.PurgeUserResponse:
        if answer.purge != self._purge:
            raise NotPossible("Another call has ended this purge of the user, or begun one: repeat yours")
        return answer

    async def _over_posts(
        self, slot: int, step: shard.UserPurgeStep.ValueType
    ) -> AsyncGenerator[tuple[str, shard.PurgeUserResponse], None]:
        """Goes over the posts of a slot with a step, at the rate: what each piece was answered, and by whom."""
        after: int | None = 0
        while after is not None:
            await self._throttle.wait()
            limit = min(self._throttle.piece, MAX_POSTS)
            node, answer = await self._ask(slot, step, after, limit)
            if step != shard.USER_PURGE_STEP_COUNT:
                self._check(answer)
            self._throttle.spent(answer.posts)
            yield node, answer
            if answer.waits_for:
                await asyncio.sleep(WAIT_SECONDS)
            else:
                after = answer.next_post_no if answer.HasField("next_post_no") else None

    async def _ask(
        self, slot: int, step: shard.UserPurgeStep.ValueType, after: int = 0, limit: int = 0
    ) -> tuple[str, shard.PurgeUserResponse]:
        try:
            return await self._owners.ask(
                slot,
                lambda stub, epoch: stub.PurgeUser(
                    shard.PurgeUserRequest(
                        cluster_id=self._cluster_id,
                        request_id=self._request_id,
                        user_id=self._user_id,
                        slot=slot,
                        epoch=epoch,
                        step=step,
                        purge=self._purge,
                        after_post_no=after,
                        limit=limit,
                    ),
                    timeout=ANSWER_SECONDS,
                ),
            )
        except SlotUnreachable as unreachable:
            raise unreachable.error from unreachable


def _by_name(found: Iterable[T]) -> list[T]:
    return sorted(found, key=lambda one: one.node)
