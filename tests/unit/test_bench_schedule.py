"""When the load generator means to send, and what: schedules and workloads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice, pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from likering.bench.choices import Keys
from likering.bench.schedule import poisson, steady
from likering.bench.workload import Op, Source, Workload, parse_mix
from likering.v1 import like_service_pb2 as pb


@given(rate=st.integers(1, 5000), seconds=st.integers(1, 3), parts=st.integers(1, 5))
def test_processes_share_the_very_same_times(rate: int, seconds: int, parts: int) -> None:
    """However many processes send, the times together are those of one."""
    alone = list(steady(rate, seconds))
    together = sorted(time for part in range(parts) for time in steady(rate, seconds, part=part, parts=parts))
    assert together == alone
    assert len(alone) == rate * seconds


def test_poisson_arrivals_have_the_rate_and_are_uneven() -> None:
    """Independent arrivals: the mean is right, and some gaps are several times the mean."""
    times = list(poisson(1000, 20, Random(1)))
    assert 19_000 < len(times) < 21_000
    assert times == sorted(times)
    gaps = [after - before for before, after in pairwise(times)]
    assert max(gaps) > 5 / 1000


def test_poisson_parts_share_the_rate() -> None:
    """Each of four processes makes a quarter."""
    assert 4_500 < len(list(poisson(1000, 20, Random(2), parts=4))) < 5_500


def test_every_like_is_of_a_new_edge() -> None:
    """Over several processes and continued sources no edge comes twice, and all posts are of the run."""
    workload = Workload(prefix="abc123", posts=50)
    first = Source(workload, part=0)
    edges = [first.edge() for _ in range(200)]
    edges += islice(_edges(Source(workload, part=1)), 200)
    edges += islice(_edges(Source(workload, part=0, first_user=first.next_user)), 200)
    assert len(set(edges)) == 600
    assert {post for _, post in edges} <= {workload.post_id(index) for index in range(50)}
    assert {len(name) for edge in edges for name in edge} == {19}


def _edges(source: Source) -> Iterator[tuple[str, str]]:
    while True:
        yield source.edge()


def test_a_mix_is_kept() -> None:
    """Operations come in their shares, as the messages that they say they are."""
    workload = Workload(
        prefix="abc123", mix=parse_mix("like=1,count=3,mutate=1,summaries=1"), batch=7, page=9
    )
    source = Source(workload)
    calls = [source.next() for _ in range(6000)]
    shares = Counter(call.op for call in calls)
    assert 2700 < shares[Op.COUNT] < 3300
    assert 850 < shares[Op.LIKE] < 1150
    mutate = next(call for call in calls if call.op is Op.MUTATE)
    mutations = pb.MutateLikesRequest.FromString(mutate.request).mutations
    assert len(mutations) == mutate.items == 7
    assert {mutation.action for mutation in mutations} == {pb.LikeMutation.ACTION_LIKE}
    summaries = next(call for call in calls if call.op is Op.SUMMARIES)
    assert len(pb.GetLikeSummariesRequest.FromString(summaries.request).post_ids) == summaries.items == 9


def test_unlikes_are_of_edges_of_the_run() -> None:
    """Once there are likes, an unlike takes back one of them."""
    source = Source(Workload(prefix="abc123", mix=parse_mix("like=1,unlike=1"), posts=10))
    calls = [source.next() for _ in range(400)]
    liked = set()
    taken_back = 0
    for call in calls:
        if call.op is Op.LIKE:
            like = pb.LikeRequest.FromString(call.request)
            liked.add((like.user_id, like.post_id))
        else:
            unlike = pb.UnlikeRequest.FromString(call.request)
            taken_back += (unlike.user_id, unlike.post_id) in liked
    assert taken_back > 150


def test_keys_follow_their_distribution() -> None:
    """Hot is one post; zipf prefers the first ones by far; spread prefers none."""
    hot = Source(Workload(prefix="abc123", keys=Keys.HOT))
    assert {hot.post() for _ in range(100)} == {"abc123p000000000000"}
    zipf = Counter(
        islice(iter(Source(Workload(prefix="abc123", keys=Keys.ZIPF, posts=1000)).post, None), 20_000)
    )
    assert zipf.most_common(1)[0][0] == "abc123p000000000000"
    assert zipf.most_common(1)[0][1] > 20 * 20_000 / 1000
    spread = Counter(islice(iter(Source(Workload(prefix="abc123", posts=100)).post, None), 20_000))
    assert max(spread.values()) < 2 * min(spread.values())


def test_the_same_seed_makes_the_same_calls() -> None:
    """Two runs of one seed are equal, two seeds are not."""

    def requests(seed: int) -> list[bytes]:
        source = Source(Workload(prefix="abc123", seed=seed))
        return [source.next().request for _ in range(50)]

    assert requests(1) == requests(1)
    assert requests(1) != requests(2)


@pytest.mark.parametrize("mix", ["", "lik=1", "like=x", "like=1,,count=1"])
def test_a_wrong_mix_is_a_sentence(mix: str) -> None:
    """The error names the operations that there are."""
    with pytest.raises(ValueError, match="has-liked"):
        parse_mix(mix)


@pytest.mark.parametrize("wrong", [{"prefix": "ab"}, {"prefix": "abc12é"}, {"mix": {}}, {"posts": 0}])
def test_a_wrong_workload_is_refused(wrong: dict[str, object]) -> None:
    """Before anything is sent."""
    with pytest.raises(ValueError, match=r"must|needs"):
        Workload(**{"prefix": "abc123", **wrong})  # type: ignore[arg-type]
