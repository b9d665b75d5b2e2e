"""A Postgres that stands still: alive for TCP, silent for everybody who asks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from likering.dev.postgres import PostgresServer


@contextmanager
def frozen(server: PostgresServer) -> Iterator[None]:
    """Stops all processes of the server by SIGSTOP, and lets them go on afterwards."""
    postmaster = psutil.Process(server.pid)
    postmaster.suspend()  # first, so that no backend is added behind our back
    processes = [postmaster, *postmaster.children(recursive=True)]
    try:
        for process in processes[1:]:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()
