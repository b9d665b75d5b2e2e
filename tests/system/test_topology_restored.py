"""A topology database that comes back as it was before a move, with nodes that have been started since."""

from __future__ import annotations

import psycopg
import pytest

from tests.parts.one_handoff import Handoff
from tests.parts.until import until

pytestmark = pytest.mark.timeout(120)

SAID = "the topology gives this node slots that have left it"


async def test_a_slot_that_has_left_is_not_begun_empty(handoff: Handoff) -> None:
    """Its likes are elsewhere: two nodes would own it, and the one that the routers are told of would know nothing."""
    before = await handoff.topology()
    await handoff.begin_until(handoff.target, "copying")
    handoff.release(handoff.target)
    await handoff.ends()
    assert handoff.epoch == 1, "only a slot's first owner begins it empty"
    with handoff.failpoints.kept_dead(handoff.source):
        handoff.kill(handoff.source)
        _restore(handoff, before.version)
    await until(lambda: SAID in handoff.log_of(handoff.source), 30)
    assert await handoff.row(handoff.source) == ("moved", 1)
    assert await handoff.row(handoff.target) == ("owner", 2)


def _restore(handoff: Handoff, version: int) -> None:
    """Makes the topology what it was before the move."""
    with psycopg.connect(handoff.cluster.topology_dsn, options="-csearch_path=likering") as connection:
        connection.execute("DELETE FROM move_events")
        connection.execute("DELETE FROM moves")
        connection.execute(
            "UPDATE slots SET owner = %s, epoch = %s WHERE slot = %s",
            [handoff.source, handoff.epoch, handoff.slot],
        )
        connection.execute("UPDATE cluster SET version = %s", [version])
