"""Reads back what a load wrote: do the counts that the service gives add up to what it acknowledged?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from likering.bench.callers import NOTHING, bearer_metadata, open_channel
from likering.bench.choices import Keys
from likering.bench.results import Written
from likering.bench.workload import Workload
from likering.client.credentials import CredentialFiles
from likering.v1 import like_service_pb2 as pb
from likering.v1.like_service_pb2_grpc import LikeServiceStub

if TYPE_CHECKING:
    from likering.v1.like_service_pb2_grpc import LikeServiceAsyncStub

_PAGE = 200


@dataclass(frozen=True, slots=True)
class ReadBack:
    """Sums over all posts of a run, read with CONSISTENCY_STRONG."""

    counts: int
    versions: int

    def problem(self, written: Written) -> str | None:
        """A sentence when the sums cannot come from what was written, else None.

        Mutations whose outcome is not known may have taken effect or not.
        """
        if written.uncertain == 0:
            likes, changes = written.likes - written.unlikes, written.likes + written.unlikes
            if self.counts != likes:
                return f"the counts add up to {self.counts}, but {likes} likes were acknowledged and not taken back"
            if self.versions != changes:
                return f"the versions add up to {self.versions}, but {changes} changes were acknowledged"
            return None
        low = written.likes - written.unlikes - written.uncertain
        high = written.likes - written.unlikes + written.uncertain
        if not low <= self.counts <= high:
            return f"the counts add up to {self.counts}, outside {low} to {high}"
        changes = written.likes + written.unlikes
        if not changes <= self.versions <= changes + written.uncertain:
            return (
                f"the versions add up to {self.versions}, outside {changes} to {changes + written.uncertain}"
            )
        return None


async def read_back(
    address: str, workload: Workload, *, timeout: float = 30.0, shown: CredentialFiles = NOTHING
) -> ReadBack:
    """Reads every post that the workload can have written to. Raises grpc.RpcError when a call fails."""
    posts = 1 if workload.keys is Keys.HOT else workload.posts
    counts = versions = 0
    token = shown.bearer()
    async with open_channel(address, shown) as channel:
        stub = cast("LikeServiceAsyncStub", LikeServiceStub(channel))
        for first in range(0, posts, _PAGE):
            page = [workload.post_id(index) for index in range(first, min(first + _PAGE, posts))]
            request = pb.GetLikeSummariesRequest(post_ids=page, consistency=pb.CONSISTENCY_STRONG)
            metadata = bearer_metadata(token)
            response = await stub.GetLikeSummaries(request, timeout=timeout, metadata=metadata)
            counts += sum(summary.like_count.count for summary in response.summaries)
            versions += sum(summary.like_count.version for summary in response.summaries)
    return ReadBack(counts, versions)
