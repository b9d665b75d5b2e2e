"""Waits until the slots that have been handed over are verified."""

from __future__ import annotations

import time

from likering.admin.v1 import ring_service_pb2 as api
from likering.cli.admin import Ring

_TO_VERIFY = frozenset((api.MOVE_STATE_ACTIVE, api.MOVE_STATE_MOVED))


def wait_verified(ring: Ring, timeout: float | None) -> tuple[list[api.Move], bool]:
    """The moves that were waiting to be verified, as they are now, and whether ``timeout`` (seconds) was too short."""
    deadline = None if timeout is None else time.monotonic() + timeout
    moves: dict[int, api.Move] = {}
    first = True
    try:
        for picture in ring.watch(ring.stub.WatchMoves, api.WatchMovesRequest(), deadline=deadline):
            now = {move.move: move for move in picture.moves}
            if first:
                moves = {number: move for number, move in now.items() if move.state in _TO_VERIFY}
                first = False
            for number, move in moves.items():
                if number in now:
                    moves[number] = now[number]
                else:  # ended: verified, or given up with a node that is lost
                    move.state = api.MOVE_STATE_RETIRED
            if not any(move.state in _TO_VERIFY for move in moves.values()):
                break
    except TimeoutError:
        return list(moves.values()), True
    return list(moves.values()), False
