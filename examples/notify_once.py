"""A group of consumers that notify authors of likes, each like once, whoever dies in between.

    python examples/notify_once.py ADDRESS DIRECTORY MEMBER MEMBERS

Each of MEMBERS consumers (numbered from 0) takes its share of the slots, and keeps notifications and cursor in a
SQLite database of its own in DIRECTORY. Both change in one transaction: after a kill -9 it goes on where its database
says, so no like is told of twice, and none is forgotten. When a post or a user is purged, the notifications of those
likes are deleted, however long the consumer was away meanwhile. Ends with SIGTERM or Ctrl-C; or with CursorExpired, if
it was away for longer than the cluster remembers unlikes: without its database it begins anew.

Whoever sends something into the world instead (an e-mail, a push) does it from such a table, with the like (post and
user) as the key by which the receiver knows a repetition.
"""

from __future__ import annotations

import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from likering import EventBatch, EventKind, LikeTracker

SCHEMA = """
CREATE TABLE IF NOT EXISTS notifications (
    post_id TEXT NOT NULL, user_id TEXT NOT NULL, slot INTEGER NOT NULL, likes INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS by_post ON notifications (post_id);
CREATE INDEX IF NOT EXISTS by_user ON notifications (user_id, slot);
CREATE TABLE IF NOT EXISTS cursor (one_row INTEGER PRIMARY KEY CHECK (one_row = 1), cursor TEXT NOT NULL);
"""


def consume(address: str, database: sqlite3.Connection, member: int, members: int) -> None:
    """Notifies for as long as the process lives."""
    with LikeTracker(address) as likes:
        row = database.execute("SELECT cursor FROM cursor").fetchone()
        if row is not None:
            batches = likes.events(cursor=row[0])  # which knows its slots
        else:
            slots = range(member, next(likes.events(from_now=True)).slot_count, members)
            batches = likes.events(slots=slots)
        for batch in batches:
            store(database, batch)
            print(f"{len(batch)} events", flush=True)  # noqa: T201 - for the one who watches


def store(database: sqlite3.Connection, batch: EventBatch) -> None:
    """What a batch leads to, and the cursor after it: all or nothing."""
    with database:
        for event in batch:  # in their order: who was purged may like anew
            match event.kind:
                case EventKind.EDGE:
                    # The first like comes once only, so a like that was taken back meanwhile is told of, too.
                    if event.first_like:
                        row = event.post_id, event.user_id, event.slot, event.like_count.count
                        database.execute("INSERT INTO notifications VALUES (?, ?, ?, ?)", row)
                case EventKind.POST_PURGED:
                    database.execute("DELETE FROM notifications WHERE post_id = ?", [event.post_id])
                case EventKind.USER_PURGED:
                    # Of posts of this slot. The others' slots tell it themselves, and may be another member's.
                    whose = event.user_id, event.slot
                    database.execute("DELETE FROM notifications WHERE user_id = ? AND slot = ?", whose)
        database.execute("INSERT OR REPLACE INTO cursor VALUES (1, ?)", [batch.cursor])


def main() -> None:
    """The arguments are those above."""
    address, directory, member, members = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with closing(sqlite3.connect(Path(directory) / f"notifications-{member}.db")) as database:
        database.executescript(SCHEMA)
        consume(address, database, int(member), int(members))


if __name__ == "__main__":
    main()
