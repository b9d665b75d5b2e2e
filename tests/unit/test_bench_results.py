"""Histograms and results of loads: recorded, merged, written and read again."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from likering.bench.choices import CallerKind, Keys
from likering.bench.histogram import Histogram, quantised
from likering.bench.load import Load
from likering.bench.readback import ReadBack
from likering.bench.results import LoadResult, OpResult, Second, Written, from_json, merged, to_json
from likering.bench.worker import load_from_json, load_to_json
from likering.bench.workload import Op, Workload, parse_mix
from likering.client.credentials import CredentialFiles

latencies = st.lists(st.integers(1, 100_000_000), min_size=1, max_size=200)


@given(latency=st.integers(1, 600_000_000))
def test_quantising_keeps_three_digits(latency: int) -> None:
    """At most a thousandth is lost, and there are few different values."""
    assert latency * 0.999 <= quantised(latency) <= latency
    assert quantised(quantised(latency)) == quantised(latency)


@given(left=latencies, right=latencies)
def test_merging_is_as_recording_together(left: list[int], right: list[int]) -> None:
    """Merged histograms of two processes answer as one that saw everything."""
    apart = Histogram.merged([Histogram.of([Counter(left)]), Histogram.of([Counter(right)])])
    together = Histogram.of([Counter(left), Counter(right)])
    assert apart.count == together.count == len(left) + len(right)
    for percent in (0, 50, 99, 99.9, 100):
        assert apart.percentile(percent) == together.percentile(percent)


@given(values=latencies)
def test_percentiles_are_right_within_three_digits(values: list[int]) -> None:
    """Compared with the sorted values themselves."""
    histogram = Histogram.of([Counter(values)])
    assert histogram.maximum == pytest.approx(max(values), rel=0.001, abs=1)
    median = sorted(values)[(len(values) + 1) // 2 - 1]
    assert histogram.percentile(50) == pytest.approx(median, rel=0.001, abs=1)


def test_an_encoded_histogram_comes_back() -> None:
    """As JSON carries it; an empty one too."""
    histogram = Histogram.of([Counter({120: 5, 4_000: 2, 9_000_000: 1})])
    again = Histogram.decode(histogram.encode())
    assert (again.count, again.percentile(50), again.maximum) == (8, 120, histogram.maximum)
    empty = Histogram.decode(Histogram().encode())
    assert (empty.count, empty.percentile(99), empty.maximum, empty.mean) == (0, 0, 0, 0.0)


def _result(likes: int, errors: int) -> LoadResult:
    part = OpResult(
        codes=Counter({"OK": likes, "UNAVAILABLE": errors}),
        items=likes,
        latency=Histogram.of([Counter({1000: likes, 50_000: errors})]),
    )
    return LoadResult(
        seconds=2.0,
        ops={Op.LIKE: part},
        written=Written(likes=likes, uncertain=errors),
        timeline=[Second(calls=likes + errors, errors=errors, p50=1000, p99=50_000)],
        client_cpu_seconds=0.5,
        messages=Counter({"UNAVAILABLE: gone": errors}),
    )


def test_processes_add_up() -> None:
    """Calls, codes, writes and CPU are sums; rates follow from them."""
    total = merged([_result(100, 1), _result(300, 3)])
    assert total.calls == 404
    assert total.errors == 4
    assert total.calls_per_second == 200
    assert total.items_per_second == 200
    assert total.ops[Op.LIKE].codes == {"OK": 400, "UNAVAILABLE": 4}
    assert total.ops[Op.LIKE].latency.count == 404
    assert total.written == Written(likes=400, uncertain=4)
    assert total.client_cpu_seconds == 1.0
    assert total.timeline == [Second(calls=404, errors=4, p50=1000, p99=50_000)]
    assert total.messages == {"UNAVAILABLE: gone": 4}


def test_a_result_survives_json() -> None:
    """What a process reports is what the parent reads."""
    result = _result(100, 1)
    again = from_json(to_json(result))
    assert to_json(again) == to_json(result)
    assert again.written == result.written
    assert again.ops[Op.LIKE].codes == result.ops[Op.LIKE].codes


def test_a_load_survives_json() -> None:
    """What the parent asks for is what a process runs."""
    workload = Workload(prefix="abc123", mix=parse_mix("like=1,count=2"), keys=Keys.ZIPF)
    load = Load(address="localhost:1", workload=workload, rate=10.0, caller=CallerKind.GRPC, part=1, parts=2)
    assert load_from_json(load_to_json(load)) == load
    secured = replace(load, shown=CredentialFiles(ca=Path("ca.pem"), token=Path("token")))
    assert load_from_json(load_to_json(secured)) == secured


@pytest.mark.parametrize(
    ("found", "written", "word"),
    [
        (ReadBack(5, 7), Written(likes=6, unlikes=1), None),
        (ReadBack(4, 7), Written(likes=6, unlikes=1), "counts"),
        (ReadBack(5, 6), Written(likes=6, unlikes=1), "versions"),
        (ReadBack(7, 9), Written(likes=6, unlikes=1, uncertain=2), None),
        (ReadBack(8, 9), Written(likes=6, unlikes=1, uncertain=2), "counts"),
        (ReadBack(5, 6), Written(likes=6, unlikes=1, uncertain=2), "versions"),
    ],
)
def test_what_is_read_back_is_judged(found: ReadBack, written: Written, word: str | None) -> None:
    """Without uncertain writes exactly; with them, within what they may have done."""
    problem = found.problem(written)
    if word is None:
        assert problem is None
    else:
        assert problem is not None
        assert word in problem
