"""Does several things at once, and waits for all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from likering.dev.errors import Interrupted


def all_at_once(tasks: Sequence[Callable[[], None]], give_up: threading.Event) -> None:
    """Each in a thread of its own. At the first error, which is raised in the end, ``give_up`` tells the others."""
    if not tasks:
        return
    errors: list[BaseException] = []
    with ThreadPoolExecutor(len(tasks)) as pool:
        try:
            for future in as_completed([pool.submit(task) for task in tasks]):
                if error := future.exception():
                    give_up.set()
                    errors.append(error)
        except BaseException:  # Ctrl-C where nobody handles it: the pool would wait for the tasks
            give_up.set()
            raise
    if errors:
        # Those that were told to give up may have ended before the one that was the reason.
        raise min(errors, key=lambda error: isinstance(error, Interrupted))
