"""Several router processes on one port: starts them, starts them again when they die, and ends them together.

The parent makes nothing of gRPC, which does not go together with starting processes, and serves no call.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from time import monotonic
from typing import Final

import structlog
from pydantic import SecretStr

from likering.serving import runtime
from likering.serving.settings import EXIT_CONFIGURATION, refuse
from router.settings import ENVIRONMENT_PREFIX, EXIT_NO_TOPOLOGY, PROGRAM, RouterSettings

_log = structlog.get_logger(__name__)

_FINAL: Final = (EXIT_CONFIGURATION, EXIT_NO_TOPOLOGY)
"""Exit codes of a worker that would end the same way again."""
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
_STABLE_SECONDS: Final = 10.0
_KILL_AFTER_GRACE: Final = 5.0


async def supervise(settings: RouterSettings) -> int:
    """Keeps ``settings.workers`` workers running until SIGTERM or SIGINT. Returns the exit code."""
    stop = runtime.told_to_stop()
    with ExitStack() as reserved:
        address = reserved.enter_context(_reserved(settings.listen))
        token_address = (
            reserved.enter_context(_reserved(settings.token_listen)) if settings.token_listen else None
        )
        environment = _environment(
            settings.model_copy(update={"listen": address, "token_listen": token_address, "config": None})
        )
        workers = [_Worker(index, environment, settings) for index in range(settings.workers)]
        _log.info("starting workers", workers=len(workers), address=address)
        running = [asyncio.create_task(worker.keep_running(), name=repr(worker)) for worker in workers]
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            ended, _ = await asyncio.wait({*running, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return next((task.result() for task in running if task in ended), 0)
        finally:
            for task in (*running, stopping):
                task.cancel()
            await asyncio.wait(running)
            await asyncio.gather(*(worker.stop() for worker in workers))
            _log.info("all workers have ended")


class _Worker:
    """One process, and the one after it when it dies."""

    def __init__(self, index: int, environment: Mapping[str, str], settings: RouterSettings) -> None:
        self._index = index
        self._environment = environment
        self._patience = settings.drain_delay + settings.drain_grace + _KILL_AFTER_GRACE
        self._process: Process | None = None

    def __repr__(self) -> str:
        return f"<worker {self._index}, process {self._process.pid if self._process else None}>"

    async def keep_running(self) -> int:
        """Starts the process whenever it is not there. Returns an exit code that would come again."""
        pause = _FIRST_PAUSE
        while True:
            started = monotonic()
            # A pipe as its stdin, so that it ends with this process; settings by environment, since all can read flags.
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "router",
                "--worker-index",
                str(self._index),
                stdin=PIPE,
                env={**os.environ, **self._environment},
            )
            status = await self._process.wait()
            if status in _FINAL:
                return status
            pause = (
                _FIRST_PAUSE if monotonic() - started > _STABLE_SECONDS else min(pause * 2, _LONGEST_PAUSE)
            )
            _log.error("a worker died", worker=self._index, pid=self._process.pid, status=status, pause=pause)
            await asyncio.sleep(pause)

    async def stop(self) -> None:
        """Lets the process drain; kills it when that takes too long."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(self._patience):
                await process.wait()
        except TimeoutError:
            _log.error("a worker did not drain in time", worker=self._index, pid=process.pid)
            process.kill()
            await process.wait()


def _environment(settings: RouterSettings) -> dict[str, str]:
    """The settings as the workers read them."""
    values: dict[str, str] = {}
    for name in RouterSettings.model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        elif isinstance(value, tuple):
            value = ",".join(value)
        if value is not None:
            values[f"{ENVIRONMENT_PREFIX}{name.upper()}"] = str(value)
    return values


@contextmanager
def _reserved(listen: str) -> Iterator[str]:
    """Keeps a port for the workers, which share it; gives host:port with the port chosen.

    Among processes that share a port nobody notices a stranger that shares it too, so it is first asked for alone.
    """
    host, _, port = listen.rpartition(":")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as alone:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind(address)
            address = alone.getsockname()
        shared = socket.socket(family, kind, protocol)
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        shared.bind(address)
    except OSError as error:
        refuse(PROGRAM, f"Cannot listen on {listen}: {error.strerror or error}")
    with shared:
        yield f"{host}:{shared.getsockname()[1]}"
