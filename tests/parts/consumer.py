"""A consumer of the change feed, which checks what it is told and keeps the last state of each edge."""

from __future__ import annotations

import random
from contextlib import aclosing

from likering import AsyncLikes, EventKind, LikeEvent


class Consumer:
    """Folds events into last states, and forgets nothing but its stream."""

    def __init__(self) -> None:
        self.cursor = ""
        self.starts = 0
        self.events = 0
        self.purges = 0
        self.last: dict[tuple[str, str], LikeEvent] = {}
        self.first: set[tuple[str, str]] = set()
        self._versions: dict[str, int] = {}

    async def consume(self, address: str, seed: int) -> None:
        """Follows the feed; now and then it drops its stream and begins again from its cursor."""
        choose = random.Random(seed)
        async with AsyncLikes(address) as likes:
            while True:
                self.starts += 1
                left = choose.randrange(2, 12)
                async with aclosing(
                    likes.events(cursor=self.cursor, max_batch=choose.choice((1, 7, 0)))
                ) as batches:
                    async for batch in batches:
                        for event in batch:
                            self.take(event)
                        self.cursor = batch.cursor
                        left -= 1
                        if not left:
                            break

    async def read_some(self, address: str, events: int) -> None:
        """Goes on from its cursor, and stops once it has come by so many events."""
        async with (
            AsyncLikes(address) as likes,
            aclosing(likes.events(cursor=self.cursor, max_batch=20)) as batches,
        ):
            async for batch in batches:
                for event in batch:
                    self.take(event)
                self.cursor = batch.cursor
                if self.events >= events:
                    return

    def take(self, event: LikeEvent) -> None:
        self.events += 1
        if event.kind is not EventKind.EDGE:
            self.purges += 1
            for post, user in list(self.last):
                slot = self.last[post, user].slot
                if post == event.post_id or (user, slot) == (event.user_id, event.slot):
                    del self.last[post, user]
                    self.first.discard((post, user))
            return
        edge = event.post_id, event.user_id
        before = self.last.get(edge)
        if before is not None:
            assert before.like_time <= event.like_time, edge
            assert before.liked is event.liked or before.like_time < event.like_time, edge
        version = event.like_count.version
        assert version >= self._versions.get(event.post_id, 0), event
        self._versions[event.post_id] = version
        if event.first_like:
            assert edge not in self.first, f"the first like of {edge} was told of twice"
            self.first.add(edge)
        self.last[edge] = event
