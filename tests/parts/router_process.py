"""A router as an operator starts it: ``python -m router``, with its log lines."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import psutil

from tests.parts.until import until


class RouterProcess:
    """A running router. ``lines``: what it has logged so far; a line that is no JSON is {"text": …}."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self._reading = asyncio.create_task(self._read())

    @property
    def address(self) -> str:
        """host:port, once it listens."""
        return next(str(line["address"]) for line in self.lines if line.get("event") == "listening")

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The lines of one event."""
        return [line for line in self.lines if line.get("event") == event]

    def workers(self) -> list[psutil.Process]:
        """The processes that it has started."""
        return psutil.Process(self.process.pid).children()

    async def has_logged(self, event: str, times: int = 1) -> None:
        """Waits for lines of an event."""
        await until(lambda: len(self.logged(event)) >= times, 30)

    async def ended(self) -> int:
        """Waits for its end; gives its exit code."""
        async with asyncio.timeout(40):
            await self.process.wait()
            await self._reading
        assert self.process.returncode is not None
        return self.process.returncode

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                self.lines.append({"text": line.decode().rstrip("\n")})


@asynccontextmanager
async def router_process(*arguments: str, **environment: str) -> AsyncIterator[RouterProcess]:
    """Starts a router; it is gone afterwards."""
    async with _running((sys.executable, "-m", "router", *arguments), environment) as router:
        yield router


@asynccontextmanager
async def router_process_of_few_files(
    open_files: int, /, *arguments: str, **environment: str
) -> AsyncIterator[RouterProcess]:
    """The same, which may have no more than that many files and connections open."""
    limited = ("sh", "-c", f'ulimit -n {open_files} && exec "$0" "$@"', sys.executable, "-m", "router")
    async with _running((*limited, *arguments), environment) as router:
        yield router


@asynccontextmanager
async def _running(command: Sequence[str], environment: Mapping[str, str]) -> AsyncIterator[RouterProcess]:
    process = await asyncio.create_subprocess_exec(*command, stderr=PIPE, env={**os.environ, **environment})
    router = RouterProcess(process)
    try:
        yield router
    finally:
        workers = router.workers() if process.returncode is None else []
        for running in workers:
            with suppress(psutil.NoSuchProcess):
                running.kill()
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await router.ended()
