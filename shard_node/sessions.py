"""Refuses batches that their router has given up, however late they arrive.

A router numbers its batches to a node and, when it gives one up, raises the lowest number that it still stands by.
A batch below that number has not been executed and never will be, so the router may send its operations again.
"""

from __future__ import annotations

from collections import OrderedDict


class Sessions:
    """The lowest acceptable batch number per router session. Forgets the session unheard of for longest."""

    def __init__(self, remembered: int = 4096) -> None:
        self._lowest: OrderedDict[str, int] = OrderedDict()
        self._remembered = remembered

    def accepts(self, session_id: str, batch_number: int, lowest_batch_number: int) -> bool:
        """Whether the batch may be executed. Raises the session's floor to ``lowest_batch_number``."""
        lowest = max(self._lowest.get(session_id, 0), lowest_batch_number)
        self._lowest[session_id] = lowest
        self._lowest.move_to_end(session_id)
        if len(self._lowest) > self._remembered:
            self._lowest.popitem(last=False)
        return batch_number >= lowest
