"""Tells any number of watchers that moves have changed, from one connection to the topology database."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress

import structlog

from likering.errors import LikeringError
from likering.topology.moves import MoveStore

_RETRY_SECONDS = 0.5

_log = structlog.get_logger(__name__)


class Changes:
    """Counts changes while it runs. Without the database there are none to count: watchers look now and then anyway."""

    def __init__(self, moves: MoveStore) -> None:
        self._moves = moves
        self._changed = asyncio.Event()  # replaced with each change, so that everybody who waits wakes once
        self._task: asyncio.Task[None] | None = None
        self.count = 0

    def __repr__(self) -> str:
        return f"<Changes {self.count}>"

    def start(self) -> None:
        """Begin to listen."""
        self._task = asyncio.create_task(self._forever(), name="move changes")

    async def stop(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def after(self, seen: int, longest: float) -> None:
        """Waits until there have been more than ``seen`` changes, ``longest`` seconds at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(longest):
                while self.count <= seen:
                    await self._changed.wait()

    async def _forever(self) -> None:
        while True:
            try:
                async with aclosing(self._moves.changes()) as changes:
                    async for _ in changes:
                        self.count += 1
                        changed, self._changed = self._changed, asyncio.Event()
                        changed.set()
            except LikeringError:
                pass  # whoever watches is told by their own look at the store
            except Exception:
                # A listener that died would make every watcher a second late for ever, and nobody would know.
                _log.exception("listening for moves failed")
            await asyncio.sleep(_RETRY_SECONDS)
