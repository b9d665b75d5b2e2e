"""Shows why attached partitions have to be made known: python -m tests.stale_partitions (needs gdb, and may use it).

A session is stopped by a debugger in the middle of reading the list of a table's partitions; then another one attaches
a partition. The first session never sees it, until the table is said to have changed once more.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Final

import psycopg

from likering.dev.postgres import PostgresServer
from shard_node.partitions import attach_partition, create_slot_table, make_known
from tests.integration.node_database import prepared

_READS_THE_LIST: Final = "find_inheritance_children_extended"
_SECONDS: Final = 20.0
_SLOT: Final = 6
"""The one that comes; those below are there."""


class Debugger:
    """gdb, attached to a process."""

    def __init__(self, pid: int) -> None:
        self._said = threading.Condition()
        self._output = ""
        self._process = subprocess.Popen(
            ["gdb", "-q", "-nx", "-p", str(pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def tell(self, *commands: str) -> None:
        """Gives commands, without waiting for what they do."""
        assert self._process.stdin is not None
        for command in commands:
            self._process.stdin.write(command + "\n")
        self._process.stdin.flush()

    def wait_for(self, text: str) -> None:
        """Until it has said something; SystemExit with all that it has said when that does not come."""
        with self._said:
            if not self._said.wait_for(lambda: text in self._output, _SECONDS):
                sys.exit(f"gdb has not said {text!r}:\n{self._output}")

    def end(self) -> None:
        """Lets the process go on."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._said:
                self._output += line
                self._said.notify_all()


def _likes(session: psycopg.Connection, slot: int) -> int:
    row = session.execute("SELECT count(*) FROM posts WHERE slot = %s", [slot]).fetchone()
    assert row is not None
    return int(row[0])


async def show(dsn: str) -> int:
    """Returns the exit code: 0 when the session was blind, and make_known mended it."""
    async with prepared(dsn, slots=range(_SLOT)) as own:
        with psycopg.connect(dsn, options="-csearch_path=likering", autocommit=True) as session:
            print(session.execute("SELECT version()").fetchone()[0])  # type: ignore[index]  # noqa: T201
            session.execute("SET plan_cache_mode = force_generic_plan")
            _likes(session, 1)
            await create_slot_table(own, "posts", "posts_s6", indexes=True)
            await own.execute(
                "INSERT INTO posts_s6 (version, like_count, slot, post_id) VALUES (1, 1, 6, 'p')"
            )
            # So the session has to read the list anew, and one of its partitions' own rows besides.
            await own.execute("ALTER TABLE posts_s3 SET (fillfactor = 77)")
            await own.execute("ALTER TABLE ONLY posts ALTER COLUMN slot SET STATISTICS -1")

            debugger = Debugger(session.info.backend_pid)
            debugger.tell(
                "set pagination off", "set confirm off", f"break {_READS_THE_LIST}", "echo set\\n", "continue"
            )
            debugger.wait_for("Continuing.")
            reading = threading.Thread(target=_likes, args=(session, 1))
            reading.start()
            debugger.wait_for("Breakpoint 1, ")
            debugger.tell("finish", "echo has read the list\\n")
            debugger.wait_for("has read the list")
            await attach_partition(own, "posts", "posts_s6", _SLOT)
            debugger.tell("delete", "continue")
            reading.join(_SECONDS)

            blind = [_likes(session, _SLOT) for _ in range(3)]
            await make_known(own)
            seen = _likes(session, _SLOT)
            debugger.end()
    print(f"posts of the attached slot, as the session sees them: {blind}; once it was made known: {seen}")  # noqa: T201
    return 0 if (blind, seen) == ([0, 0, 0], 1) else 1


def main() -> int:
    """Shows it on the Postgres that the tests use."""
    with tempfile.TemporaryDirectory(prefix="likering-stale-") as directory:
        server = PostgresServer(Path(directory) / "postgres")
        server.start()
        try:
            return asyncio.run(show(server.dsn))
        finally:
            server.stop()


if __name__ == "__main__":
    sys.exit(main())
