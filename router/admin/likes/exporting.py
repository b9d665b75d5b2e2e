"""Goes over the likes of all slots, page by page, from any place on."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator, Sequence
from typing import Final

from likering.admin.v1 import like_admin_service_pb2 as api
from likering.errors import FieldViolation, InvalidArgument
from likering.paging import SealedTokens
from likering.shard.v1 import shard_admin_service_pb2 as shard
from router.admin.likes.owners import ANSWER_SECONDS, SlotOwners, SlotUnreachable

PAGE: Final = 5000
"""Likes of one question to a node, and of one response."""
_PLACE: Final = struct.Struct(">Iiqq")
_BEGINNING: Final = shard.LikePlace()


class ExportCursors:
    """Where an export goes on: how many of its slots are done, and the place in the next one."""

    def __init__(self, cluster_id: str, slots: Sequence[int]) -> None:
        # Another form than that of earlier versions, whose cursors name no number of a post.
        self._tokens = SealedTokens(cluster_id, "ExportLikes 2")
        self._slots = slots
        self._subject = ",".join(map(str, slots))

    def make(self, done: int, place: shard.LikePlace) -> str:
        """The cursor behind a place."""
        data = _PLACE.pack(done, place.post_no, place.like_time, place.rev)
        return self._tokens.seal(self._subject, data)

    def read(self, cursor: str) -> tuple[int, shard.LikePlace]:
        """What ``make`` was given for the same slots of the same cluster. Raises InvalidArgument for any other."""
        data = self._tokens.open(self._subject, cursor)
        if data is None:
            raise InvalidArgument.of(
                [FieldViolation("cursor", "CURSOR_INVALID", "not a cursor of an export of these slots")]
            )
        done, post_no, like_time, rev = _PLACE.unpack(data)
        return done, shard.LikePlace(post_no=post_no, like_time=like_time, rev=rev)


class ExportRun:
    """One ExportLikes."""

    def __init__(
        self, owners: SlotOwners, cluster_id: str, request_id: str, slots: Sequence[int], cursor: str
    ) -> None:
        """Raises InvalidArgument for a cursor of another export."""
        self._owners = owners
        self._cluster_id = cluster_id
        self._request_id = request_id
        self._slots = slots
        self._cursors = ExportCursors(cluster_id, slots)
        self._done, self._place = self._cursors.read(cursor) if cursor else (0, _BEGINNING)

    def __repr__(self) -> str:
        return f"<ExportRun {self._done} of {len(self._slots)} slots>"

    async def pages(self) -> AsyncGenerator[api.ExportLikesResponse, None]:
        """Each page. Raises what kept the owner of a slot from answering."""
        reading = self._read()
        try:
            while reading is not None:
                page = await reading
                if page.HasField("next"):
                    self._place = page.next
                else:
                    self._done, self._place = self._done + 1, _BEGINNING
                reading = self._read()  # while the one before is sent
                yield api.ExportLikesResponse(
                    user_ids=page.user_ids,
                    post_ids=page.post_ids,
                    like_times=page.like_times,
                    cursor=self._cursors.make(self._done, self._place),
                    slots_done=self._done,
                    slots_total=len(self._slots),
                )
        finally:
            if reading is not None:
                reading.cancel()
                await asyncio.wait((reading,))

    def _read(self) -> asyncio.Task[shard.ExportLikesResponse] | None:
        if self._done >= len(self._slots):
            return None
        return asyncio.create_task(self._page(self._slots[self._done], self._place))

    async def _page(self, slot: int, place: shard.LikePlace) -> shard.ExportLikesResponse:
        try:
            _, page = await self._owners.ask(
                slot,
                lambda stub, epoch: stub.ExportLikes(
                    shard.ExportLikesRequest(
                        cluster_id=self._cluster_id,
                        request_id=self._request_id,
                        slot=slot,
                        epoch=epoch,
                        after=place,
                        limit=PAGE,
                    ),
                    timeout=ANSWER_SECONDS,
                ),
            )
        except SlotUnreachable as error:
            raise error.error from error
        return page
