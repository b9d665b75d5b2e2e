"""``python -m tests.parts.node_at_failpoint``: a shard node that stands still at the step of a handoff a test names.

The files of a directory say where; both sides use ``Failpoints``. Only this module reads them: a node that is started
in the usual way knows nothing of them.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.parts.until import until

DIRECTORY = "FAILPOINTS"
"""Names the environment variable that names the directory."""
_LOOK = 0.005
_ROUND = 0.25


class Failpoints:
    """Where nodes are to stand still, each once only: the files of a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def arm(self, node: str, step: str) -> None:
        """Has the node stand still, the whole process, the next time that it reaches the step."""
        new = self._directory / f"{node}.new"
        new.write_text(step)
        new.rename(self._armed(node))

    async def held(self, node: str, seconds: float = 30.0) -> None:
        """Returns once the node stands still at the step."""
        await until(self._held(node).exists, seconds)

    def release(self, node: str) -> None:
        """Lets a node that stands still go on, if it lives; nothing is armed any more."""
        self._keeps_reads(node).unlink(missing_ok=True)
        self._looks_when_told(node).unlink(missing_ok=True)
        self._armed(node).unlink(missing_ok=True)
        self._held(node).unlink(missing_ok=True)

    def go_on(self, node: str) -> None:
        """Lets a node that stands still go on; whatever else it was told is as it was."""
        self._held(node).unlink()

    def go_on_until(self, node: str, step: str) -> None:
        """Lets a node that stands still go on as far as a later step."""
        self.arm(node, step)
        self.go_on(node)

    def hold_answer(self, node: str) -> None:
        """Has the next answer that tells the node of a slot of its own which is being caught up with arrive late."""
        self._answer(node, "awaited").touch()

    async def answer_held(self, node: str) -> None:
        """Returns once there is such an answer."""
        await until(self._answer(node, "held").exists)

    def release_answer(self, node: str) -> None:
        """Lets it arrive."""
        self._answer(node, "held").unlink()

    async def delay_answer(self, node: str) -> None:
        """The node's side of ``hold_answer``."""
        try:
            self._answer(node, "awaited").rename(self._answer(node, "held"))
        except FileNotFoundError:
            return
        while self._answer(node, "held").exists():  # noqa: ASYNC110 - a file of another process
            await asyncio.sleep(_LOOK)

    @contextmanager
    def kept_dead(self, node: str) -> Iterator[None]:
        """A process of the node that is started meanwhile does nothing before the end of the ``with`` block."""
        self._dead(node).touch()
        try:
            yield
        finally:
            self._dead(node).unlink()

    def keep_reads(self, node: str) -> None:
        """Has the node read on in a slot that it freezes until it is asked to stop, as an older version does."""
        self._keeps_reads(node).touch()

    def keeps_reads(self, node: str) -> bool:
        """The node's side of ``keep_reads``."""
        return self._keeps_reads(node).exists()

    def look_when_told(self, node: str) -> None:
        """Has the node look at the moves only when it is told to, not now and then as well."""
        self._looks_when_told(node).touch()

    def looks_when_told(self, node: str) -> bool:
        """The node's side of ``look_when_told``."""
        return self._looks_when_told(node).exists()

    def await_birth(self, node: str) -> None:
        """The node's side of ``kept_dead``."""
        while self._dead(node).exists():
            time.sleep(_LOOK)

    def stand_still(self, node: str, step: str) -> None:
        """The node's side of ``arm``: blocks while the test wants it."""
        try:
            if self._armed(node).read_text() != step:
                return
            # Renamed before anything else: the process that replaces this one must pass.
            self._armed(node).rename(self._held(node))
        except FileNotFoundError:
            return
        while self._held(node).exists():
            time.sleep(_LOOK)

    def _armed(self, node: str) -> Path:
        return self._directory / f"{node}.armed"

    def _held(self, node: str) -> Path:
        return self._directory / f"{node}.held"

    def _keeps_reads(self, node: str) -> Path:
        return self._directory / f"{node}.keeps_reads"

    def _looks_when_told(self, node: str) -> Path:
        return self._directory / f"{node}.looks_when_told"

    def _dead(self, node: str) -> Path:
        return self._directory / f"{node}.dead"

    def _answer(self, node: str, state: str) -> Path:
        return self._directory / f"{node}.answer_{state}"


def main() -> None:
    """Runs the node whose ``--name`` is given, with failpoints; it looks round more often than it usually does."""
    node = sys.argv[sys.argv.index("--name") + 1]
    failpoints = Failpoints(Path(os.environ[DIRECTORY]))
    failpoints.await_birth(node)

    # Not before: importing takes longer than anything else at a start.
    from likering.shard.v1 import shard_service_pb2 as pb
    from likering.topology.move_names import Attempt
    from likering.topology.moves import MoveState, SlotMove
    from likering.topology.postgres_moves import PostgresMoveStore
    from shard_node import app
    from shard_node.admin import purge_pieces, sweeper
    from shard_node.admin import steps as admin_steps
    from shard_node.handoff import mover, steps
    from shard_node.handoff.source import Source

    def reached(step: str, move: SlotMove | Attempt) -> None:
        steps.logged(step, move)
        failpoints.stand_still(node, step)

    freeze = Source.freeze

    async def freeze_only(source: Source, request: pb.FreezeSlotRequest) -> pb.FreezeSlotResponse:
        if failpoints.keeps_reads(node):
            request.end_reads = False
        return await freeze(source, request)

    to_do = PostgresMoveStore.to_do

    async def to_do_late(store: PostgresMoveStore, name: str) -> list[SlotMove]:
        moves = await to_do(store, name)
        if any(move.source == name and move.state is MoveState.CATCHING_UP for move in moves):
            await failpoints.delay_answer(name)
        mover.ROUND = 3600.0 if failpoints.looks_when_told(name) else _ROUND
        return moves

    PostgresMoveStore.to_do = to_do_late  # type: ignore[method-assign,assignment]

    def maintained(step: str, slot: int) -> None:
        admin_steps.logged(step, slot)
        failpoints.stand_still(node, step)

    steps.reached = reached
    admin_steps.reached = maintained
    purge_pieces.PIECE = 20  # type: ignore[misc]
    sweeper.PIECE = 20  # type: ignore[misc]
    Source.freeze = freeze_only  # type: ignore[method-assign,assignment]
    mover.ROUND = _ROUND
    mover.CLEARING = 0.5
    app.main()


if __name__ == "__main__":
    main()
