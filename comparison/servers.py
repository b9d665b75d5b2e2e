"""Starts what is measured beside likering: echo and peers with their databases, and the direct writers."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from comparison.serving import READY
from likering.dev.ports import HOST, free_port
from likering.dev.process import Child

_ROOT = Path(__file__).resolve().parent.parent
_START_SECONDS = 60.0


def _environment() -> Mapping[str, str]:
    return {**os.environ, "PYTHONPATH": str(_ROOT), "PYTHONUNBUFFERED": "1"}


class ServerGroup:
    """Processes of one module that serve on one port, as a router's workers do."""

    def __init__(self, module: str, processes: int, logs: Path, *, store: str = "") -> None:
        self.address = f"{HOST}:{free_port()}"
        logs.mkdir(parents=True, exist_ok=True)
        name = module.rpartition(".")[2].replace("_", "-")
        command = [sys.executable, "-m", module, "--listen", self.address, "--store", store]
        self._children = [
            Child(command, log=logs / f"{name}-{number}.log", environment=_environment())
            for number in range(processes)
        ]
        for child in self._children:
            child.until(
                lambda child=child: READY in child.output().splitlines(),  # type: ignore[misc]
                what=module,
                timeout=_START_SECONDS,
            )

    def pids(self) -> list[int]:
        """The processes."""
        return [child.pid for child in self._children]

    def stop(self) -> None:
        """Ends the processes: nothing that they hold needs care."""
        for child in self._children:
            child.kill()


class DirectWriter:
    """A process that writes to one database."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, dsn: str, slots: Sequence[int], slot_count: int, part: int) -> DirectWriter:
        """Starts the process and waits until its database is prepared."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "comparison.direct",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=_environment(), cwd=_ROOT,
        )  # fmt: skip
        writer = cls(process)
        await writer._say({"dsn": dsn, "slots": list(slots), "slot_count": slot_count, "part": part})
        line = await writer._hear()
        assert line.strip() == READY, line
        return writer

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    async def run(self, job: Mapping[str, object]) -> dict[str, float]:
        """Runs a job (see comparison.direct)."""
        await self._say(job)
        result: dict[str, float] = json.loads(await self._hear())
        return result

    async def stop(self) -> None:
        """Ends the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._process.wait()

    async def _say(self, data: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(data).encode() + b"\n")
        await self._process.stdin.drain()

    async def _hear(self) -> str:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("a direct writer has ended; its message stands above")
        return line.decode()


def create_database(server_dsn: str, name: str, schema: str = "") -> str:
    """Makes a database in a server that runs already, with the schema, and gives its DSN."""
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    base, _, options = server_dsn.partition("?")
    dsn = f"{base.rpartition('/')[0]}/{name}" + (f"?{options}" if options else "")
    if schema:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(schema.encode())
    return dsn
