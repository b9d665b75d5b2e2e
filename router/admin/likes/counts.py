"""Goes over the counts of all slots, one piece after the other, and has what differs mended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from likering.admin.v1 import like_admin_service_pb2 as api
from likering.errors import LikeringError
from likering.shard.v1 import shard_admin_service_pb2 as shard
from router.admin.likes.owners import ANSWER_SECONDS, SlotOwners, SlotUnreachable

PIECE_ROWS: Final = 20_000
"""Posts or likes of one question to a node, unless the rate asks for less."""
PIECES_PER_SECOND: Final = 4
"""Into so many pieces at least a second's rows are divided: so that it is no burst."""
MAX_REPAIRS: Final = 500
"""Posts of one transaction."""


class Throttle:
    """So many rows a second at most. ``rows_per_second`` 0: as fast as it goes."""

    def __init__(self, rows_per_second: int) -> None:
        self._rate = rows_per_second
        self._free_at = monotonic()

    @property
    def piece(self) -> int:
        """How many rows to ask for at once."""
        if not self._rate:
            return PIECE_ROWS
        return max(1, min(PIECE_ROWS, self._rate // PIECES_PER_SECOND))

    async def wait(self) -> None:
        """Until the rows of before are paid for."""
        await asyncio.sleep(max(0.0, self._free_at - monotonic()))

    def spent(self, rows: int) -> None:
        """So many rows were looked at."""
        if self._rate:
            self._free_at = max(self._free_at, monotonic()) + rows / self._rate


@dataclass(slots=True)
class Found:
    """What one piece gave. ``repairs`` only where there is something to mend; ``unverified`` why a slot was left."""

    drifts: list[api.CountDrift] = field(default_factory=list)
    repairs: list[api.CountRepair] = field(default_factory=list)
    unverified: list[api.UnverifiedSlot] = field(default_factory=list)


class CountsRun:
    """One look at the counts of some slots."""

    def __init__(
        self,
        owners: SlotOwners,
        cluster_id: str,
        request_id: str,
        slots: Sequence[int],
        rows_per_second: int,
        *,
        repair: bool,
    ) -> None:
        """``repair``: mend what is found."""
        self._owners = owners
        self._cluster_id = cluster_id
        self._request_id = request_id
        self._slots = slots
        self._throttle = Throttle(rows_per_second)
        self._repair = repair
        self._silent = ""
        """A node that was waited for in vain: not again for each of its slots."""
        self.progress = api.CountsProgress(slots_total=len(slots))
        self.mended = 0

    def __repr__(self) -> str:
        return f"<CountsRun {self.progress.slots_done} of {self.progress.slots_total} slots>"

    async def pieces(self) -> AsyncGenerator[Found, None]:
        """What each piece gave, with ``progress`` as it is after it."""
        for slot in self._slots:
            after: int | None = 0
            while after is not None:
                await self._throttle.wait()
                found = Found()
                try:
                    after = await self._piece(slot, after, found)
                except SlotUnreachable as error:
                    self._silent = error.node
                    found.unverified.append(api.UnverifiedSlot(slot=slot, node=error.node, why=str(error)))
                    after = None
                except LikeringError as error:
                    found.unverified.append(api.UnverifiedSlot(slot=slot, why=error.message))
                    after = None
                if after is None:
                    self.progress.slots_done += 1
                yield found

    async def _piece(self, slot: int, after: int, found: Found) -> int | None:
        """Behind which post to go on; None: the slot is done."""
        node, answer = await self._owners.ask(
            slot,
            lambda stub, epoch: stub.VerifyCounts(
                shard.VerifyCountsRequest(
                    cluster_id=self._cluster_id,
                    request_id=self._request_id,
                    slot=slot,
                    epoch=epoch,
                    after_post_no=after,
                    limit=self._throttle.piece,
                ),
                timeout=ANSWER_SECONDS,
            ),
            patience=0.0 if self._silent and self._owners.owner(slot) == self._silent else None,
        )
        self._silent = ""
        self._throttle.spent(answer.posts + answer.likes)
        self.progress.posts += answer.posts
        self.progress.likes += answer.likes
        self.progress.drifted += len(answer.drifts)
        found.drifts = [
            api.CountDrift(
                post_id=drift.post_id,
                slot=slot,
                node=node,
                stored_count=drift.stored_count,
                counted_likes=drift.counted_likes,
                version=drift.version,
            )
            for drift in answer.drifts
        ]
        found.repairs = [api.CountRepair(drift=drift) for drift in found.drifts]
        if self._repair:
            for start in range(0, len(found.repairs), MAX_REPAIRS):
                await self._mend(slot, found.repairs[start : start + MAX_REPAIRS])
        return answer.next_post_no if answer.HasField("next_post_no") else None

    async def _mend(self, slot: int, repairs: Sequence[api.CountRepair]) -> None:
        """Fills in what the counts are then."""
        node, answer = await self._owners.ask(
            slot,
            lambda stub, epoch: stub.RepairCounts(
                shard.RepairCountsRequest(
                    cluster_id=self._cluster_id,
                    request_id=self._request_id,
                    slot=slot,
                    epoch=epoch,
                    post_ids=[repair.drift.post_id for repair in repairs],
                ),
                timeout=ANSWER_SECONDS,
            ),
        )
        after = {
            post_id: (count, version)
            for post_id, count, version in zip(answer.post_ids, answer.counts, answer.versions, strict=True)
        }
        self.mended += len(after)
        for repair in repairs:
            if repair.drift.post_id in after:
                repair.drift.node = node
                repair.count, repair.version = after[repair.drift.post_id]
