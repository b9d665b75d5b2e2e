"""The operations of one call, column by column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from likering.shard.v1 import shard_service_pb2 as shard

WRITES: Final[int] = shard.READ_MODE_UNSPECIFIED
"""The kind of traffic that is no read; the others have the number of their ReadMode."""
TRAFFIC: Final[tuple[int, ...]] = (
    WRITES,
    shard.READ_MODE_CACHED,
    shard.READ_MODE_STRONG,
    shard.READ_MODE_STALE_OK,
)
"""All kinds, each at the index of its number."""


class Operations:
    """Position i of every column belongs to operation i. ``traffic`` is their kind, one of TRAFFIC."""

    __slots__ = ("intent_times", "kinds", "min_versions", "post_ids", "request_id", "traffic", "user_ids")

    def __init__(
        self,
        traffic: int,
        kinds: Sequence[int],
        post_ids: Sequence[str],
        user_ids: Sequence[str],
        intent_times: Sequence[int],
        min_versions: Sequence[int],
        request_id: str,
    ) -> None:
        self.traffic = traffic
        self.kinds = kinds
        self.post_ids = post_ids
        self.user_ids = user_ids
        self.intent_times = intent_times
        self.min_versions = min_versions
        self.request_id = request_id

    def __repr__(self) -> str:
        return f"<{len(self.kinds)} Operations of {self.request_id}>"

    def pick(self, positions: Sequence[int]) -> Operations:
        """Those at the positions, in their order."""
        return Operations(
            self.traffic,
            [self.kinds[position] for position in positions],
            [self.post_ids[position] for position in positions],
            [self.user_ids[position] for position in positions],
            [self.intent_times[position] for position in positions],
            [self.min_versions[position] for position in positions],
            self.request_id,
        )
