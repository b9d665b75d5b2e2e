"""What a node says of the time that writes took."""

from __future__ import annotations

from time import monotonic

from likering.serving.trail import Trail
from likering.shard.v1.shard_service_pb2 import OP_CODE_UNAVAILABLE, ExecuteResponse
from shard_node.batches import tell_times
from shard_node.commit import Batch, WriteUnit


def unit(*, waited: float) -> WriteUnit:
    """One that has been waiting for so many seconds."""
    made = WriteUnit([True], ["p"], ["u"], [0], [1], [])
    made.arrived -= waited
    return made


async def test_writes_that_are_refused_have_spent_their_time_in_the_queue() -> None:
    refused = unit(waited=5.0)
    refused.refuse(OP_CODE_UNAVAILABLE)
    assert refused.began - refused.arrived >= 5.0
    assert refused.committed == refused.began


async def test_each_unit_of_a_batch_has_waited_for_the_same_transaction() -> None:
    first, second = unit(waited=2.0), unit(waited=1.0)
    batch = Batch(0)
    batch.add(first, {})
    batch.add(second, {})
    batch.began, batch.ended = first.arrived + 2.5, first.arrived + 3.5
    batch.answer(OP_CODE_UNAVAILABLE)
    assert first.began - first.arrived == 2.5
    assert second.began - second.arrived < 2.5
    assert first.committed == second.committed == first.began + 1.0


def test_what_the_router_is_told_is_in_microseconds() -> None:
    response, trail = ExecuteResponse(), Trail(monotonic() - 1.0)
    tell_times(response, trail, {"node_queue": 0.1, "commit": 0.2, "cache": 0.05})
    assert (response.queue_us, response.execute_us, response.cache_us) == (100_000, 200_000, 50_000)
    assert 1_000_000 <= response.node_us < 2_000_000
    assert trail.parts == {"node_queue": 0.1, "commit": 0.2, "cache": 0.05}
    tell_times(response, trail, {"reads": 0.3})
    assert (response.queue_us, response.execute_us, response.cache_us) == (0, 300_000, 0)
