"""Runs one load in several processes, each with its part of the rate, and merges what they report."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import replace

from likering.bench.load import Load
from likering.bench.results import LoadResult, Second, from_json, merged
from likering.bench.worker import load_to_json

_LINE_LIMIT = 2**26  # a result with its histograms is one line


class LoadFailed(Exception):
    """The load could not be run; the message says why."""


async def run_processes(
    load: Load, processes: int, *, pace: float = 0.0, on_second: Callable[[Second], None] | None = None
) -> LoadResult:
    """Runs the load in so many processes.

    ``on_second`` is called with each process's seconds as they come. Raises LoadFailed when a process cannot connect or
    dies.
    """
    parts = [replace(load, part=part, parts=processes) for part in range(processes)]
    tasks = [asyncio.create_task(_run_one(part, pace, on_second)) for part in parts]
    try:
        return merged(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run_one(load: Load, pace: float, on_second: Callable[[Second], None] | None) -> LoadResult:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "likering.bench.worker",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_LINE_LIMIT,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps({**load_to_json(load), "pace": pace}).encode() + b"\n")
        await process.stdin.drain()
        async for line in process.stdout:
            message = json.loads(line)
            if "second" in message and on_second is not None:
                on_second(Second(**message["second"]))
            elif "error" in message:
                raise LoadFailed(message["error"])
            elif "result" in message:
                return from_json(message["result"])
        raise LoadFailed(f"a load process ended without a result (exit code {await process.wait()})")
    finally:
        if process.returncode is None:
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), 0 if load.seconds <= 0 else 1)
            except TimeoutError:
                process.kill()
                await process.wait()
