"""likering.v1.LikeService: checks requests, turns them into operations for the dispatch, and rows into responses."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from operator import itemgetter
from time import time_ns
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode

from likering import validation
from likering.cursors import Cursors
from likering.errors import FieldViolation, InvalidArgument, LikeringError, TopologyUnavailable
from likering.paging import PageTokens
from likering.serving.handlers import Call
from likering.serving.status import to_status
from likering.shard.v1 import shard_service_pb2 as shard
from likering.v1 import like_service_pb2 as api
from router.asking import ask_owner
from router.dispatch import Dispatch
from router.events import MergedFeed
from router.fragments import Row
from router.node_client import NodeClient
from router.operations import WRITES, Operations
from router.watches import Watches

PARTIAL_PATIENCE: Final = 1.0
"""How long a call that takes partial success waits for a shard, in seconds."""
FIRST_SILENCE: Final = 1.0
SILENCE: Final = 15.0
"""Seconds after which a watch says that it stands when there is nothing else to say: at its start, and later."""

_LIKE, _UNLIKE = int(shard.OP_KIND_LIKE), int(shard.OP_KIND_UNLIKE)
_HAS_LIKED, _COUNT = int(shard.OP_KIND_HAS_LIKED), int(shard.OP_KIND_COUNT)
_LIKED = shard.OP_OUTCOME_LIKED
# Consistency and ReadMode count alike, but for UNSPECIFIED, which means CACHED.
_READ_MODES: Final[tuple[int, ...]] = (
    shard.READ_MODE_CACHED,
    shard.READ_MODE_CACHED,
    shard.READ_MODE_STRONG,
    shard.READ_MODE_STALE_OK,
)
# By the number of the CountSource, which grows as freshness falls; what has none comes from the database.
_EXACTNESS: Final = (api.EXACTNESS_EXACT, api.EXACTNESS_EXACT, api.EXACTNESS_CACHED, api.EXACTNESS_STALE)
_ACTIONS: Final = frozenset(validation.ACTIONS)
_UNREACHABLE: Final = (StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED)
_LIKE_TIME, _SOURCE, _AS_OF = 3, 4, 5
_NEWEST: Final = (2**63 - 1, 2**63 - 1)
"""A revision above all there are."""


class LikeService:
    """The methods of LikeService, for ``likering.serving.handlers``."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch
        self._watches = Watches(dispatch)

    async def Like(self, request: api.LikeRequest, call: Call) -> api.LikeResponse:
        response = api.LikeResponse()
        response.outcome = await self._mutate(request, _LIKE, response.like_count, call)
        return response

    async def Unlike(self, request: api.UnlikeRequest, call: Call) -> api.UnlikeResponse:
        response = api.UnlikeResponse()
        response.outcome = await self._mutate(request, _UNLIKE, response.like_count, call)
        return response

    async def HasLiked(self, request: api.HasLikedRequest, call: Call) -> api.HasLikedResponse:
        user_id, post_id, min_version = request.user_id, request.post_id, request.min_version
        if violations := validation.has_liked_violations(user_id, post_id, request.consistency, min_version):
            raise InvalidArgument.of(violations)
        row = await self._dispatch.one(
            _READ_MODES[request.consistency],
            _HAS_LIKED,
            post_id,
            user_id,
            0,
            min_version,
            call.deadline,
            call.request_id,
        )
        response = api.HasLikedResponse(liked=row[0] == _LIKED, exactness=_EXACTNESS[row[_SOURCE]])
        if row[_LIKE_TIME]:
            _set_micros(response.like_time, row[_LIKE_TIME])
        _set_micros(response.as_of_time, row[_AS_OF])
        return response

    async def GetLikeCount(self, request: api.GetLikeCountRequest, call: Call) -> api.GetLikeCountResponse:
        post_id, min_version = request.post_id, request.min_version
        if violations := validation.count_violations(post_id, request.consistency, min_version):
            raise InvalidArgument.of(violations)
        row = await self._dispatch.one(
            _READ_MODES[request.consistency],
            _COUNT,
            post_id,
            "",
            0,
            min_version,
            call.deadline,
            call.request_id,
        )
        response = api.GetLikeCountResponse()
        _fill(response.like_count, post_id, row)
        return response

    async def MutateLikes(self, request: api.MutateLikesRequest, call: Call) -> api.MutateLikesResponse:
        if violations := validation.mutate_violations(len(request.mutations)):
            raise InvalidArgument.of(violations)
        user_ids: list[str] = []
        post_ids: list[str] = []
        actions: list[int] = []
        intents: list[int] = []
        for mutation in request.mutations:
            user_ids.append(mutation.user_id)
            post_ids.append(mutation.post_id)
            actions.append(mutation.action)
            intents.append(
                validation.intent_micros(mutation.intent_time) if mutation.HasField("intent_time") else 0
            )
        refused = _refused(user_ids, post_ids, actions, intents)
        # LikeMutation.Action and OpKind count alike, and so do their outcomes.
        operations = Operations(
            WRITES, actions, post_ids, user_ids, intents, [0] * len(actions), call.request_id
        )
        rows: Sequence[Row | None]
        if not refused:
            rows, errors = await self._dispatch.many(operations, call.deadline)
            refused = {position: _of_item(position, error) for position, error in errors.items()}
        else:
            rows = await self._mutate_others(operations, refused, call)
        response = api.MutateLikesResponse()
        add = response.results.add
        for position, (post_id, row) in enumerate(zip(post_ids, rows, strict=True)):
            result = add()
            if row is None:
                result.status.CopyFrom(to_status(refused[position]))
            else:
                result.outcome = row[0]  # type: ignore[assignment]  # the numbers of MutationOutcome
                _fill(result.like_count, post_id, row)
        return response

    async def GetLikeSummaries(
        self, request: api.GetLikeSummariesRequest, call: Call
    ) -> api.GetLikeSummariesResponse:
        post_ids, viewer = list(request.post_ids), request.viewer_user_id
        if violations := validation.summaries_violations(post_ids, viewer, request.consistency):
            raise InvalidArgument.of(violations)
        posts = len(post_ids)
        # Operation i counts post i; with a viewer, operation posts + i asks for the viewer's like of it.
        rounds = 2 if viewer else 1
        zeros = [0] * (posts * rounds)
        rows, errors = await self._dispatch.many(
            Operations(
                _READ_MODES[request.consistency],
                [_COUNT] * posts + [_HAS_LIKED] * (len(zeros) - posts),
                post_ids * rounds,
                [""] * posts + [viewer] * (len(zeros) - posts),
                zeros,
                zeros,
                call.request_id,
            ),
            call.deadline,
            patience=PARTIAL_PATIENCE if request.return_partial_success else None,
        )
        if errors and not request.return_partial_success:
            raise errors[min(errors)]
        for error in errors.values():
            if error.code not in _UNREACHABLE:
                raise error
        response = api.GetLikeSummariesResponse()
        likes = rows[posts:] if viewer else rows
        for post_id, row, like in zip(post_ids, rows[:posts], likes, strict=True):
            if row is None or like is None:
                response.unreachable.append(post_id)
                continue
            summary = response.summaries.add()
            _fill(summary.like_count, post_id, row)
            if viewer:
                summary.viewer_has_liked = like[0] == _LIKED
                summary.viewer_exactness = _EXACTNESS[like[_SOURCE]]
                _set_micros(summary.viewer_as_of_time, like[_AS_OF])
        return response

    async def FilterLikers(self, request: api.FilterLikersRequest, call: Call) -> api.FilterLikersResponse:
        post_id, user_ids, min_version = request.post_id, list(request.user_ids), request.min_version
        if violations := validation.filter_violations(post_id, user_ids, request.consistency, min_version):
            raise InvalidArgument.of(violations)
        users = len(user_ids)
        rows, errors = await self._dispatch.many(
            Operations(
                _READ_MODES[request.consistency],
                [_HAS_LIKED] * users,
                [post_id] * users,
                user_ids,
                [0] * users,
                [min_version] * users,
                call.request_id,
            ),
            call.deadline,
        )
        if errors:
            raise errors[min(errors)]
        found = [row for row in rows if row]  # all of them
        liked = [user_id for user_id, row in zip(user_ids, found, strict=True) if row[0] == _LIKED]
        # Of one post, so nearly always all from one answer. If not, the call is as fresh as its oldest part.
        source, as_of = max(map(itemgetter(_SOURCE), found)), min(map(itemgetter(_AS_OF), found))
        response = api.FilterLikersResponse(liked_user_ids=liked, exactness=_EXACTNESS[source])
        _set_micros(response.as_of_time, as_of)
        return response

    async def ListLikers(self, request: api.ListLikersRequest, call: Call) -> api.ListLikersResponse:
        post_id, size = request.post_id, validation.page_size(request.page_size)
        if violations := validation.list_violations("post_id", post_id, request.page_size):
            raise InvalidArgument.of(violations)

        def tokens() -> PageTokens:
            # Not before an owner is known: the cluster is not known either.
            return PageTokens(self._dispatch.cluster_id, "ListLikers", numbers=2)

        def ask(node: NodeClient, epoch: int, timeout: float) -> Awaitable[shard.ListLikersResponse]:
            before_time, before = (
                tokens().read(post_id, request.page_token) if request.page_token else _NEWEST
            )
            # One more than the page has, to know whether there is another one.
            wanted = shard.ListLikersRequest(
                cluster_id=self._dispatch.cluster_id,
                request_id=call.request_id,
                post_id=post_id,
                epoch=epoch,
                before_time=before_time,
                before=before,
                limit=size + 1,
            )
            return node.list_likers(wanted, timeout)

        answer = await ask_owner(self._dispatch, post_id, ask, call.deadline)
        response = api.ListLikersResponse()
        for user_id, like_time in zip(answer.user_ids[:size], answer.like_times, strict=False):
            like = response.likes.add()
            like.user_id = user_id
            _set_micros(like.like_time, like_time)
        if len(answer.user_ids) > size:
            response.next_page_token = tokens().make(
                post_id, answer.like_times[size - 1], answer.revs[size - 1]
            )
        _fill(response.total, post_id, (0, answer.count, answer.version, 0, 0, answer.as_of_time))
        return response

    async def WatchLikeCounts(
        self, request: api.WatchLikeCountsRequest, call: Call
    ) -> AsyncGenerator[api.WatchLikeCountsResponse, None]:
        if violations := validation.watch_violations(request.post_ids):
            raise InvalidArgument.of(violations)
        longest = FIRST_SILENCE
        with self._watches.watch(request.post_ids) as watcher:
            while True:
                response = api.WatchLikeCountsResponse()
                for post_id, (version, count, source, as_of) in await watcher.counts(longest):
                    _fill(response.like_counts.add(), post_id, (0, count, version, 0, source, as_of))
                yield response
                longest = SILENCE

    async def StreamLikeEvents(
        self, request: api.StreamLikeEventsRequest, call: Call
    ) -> AsyncGenerator[api.StreamLikeEventsResponse, None]:
        if violations := validation.events_violations(request.max_batch):
            raise InvalidArgument.of(violations)
        if not self._dispatch.cluster_id:
            raise TopologyUnavailable  # whose cursor it is cannot be told yet
        cursors = Cursors(self._dispatch.cluster_id, self._dispatch.slot_count)
        now = time_ns() // 1000
        standing = cursors.begin(request.cursor, request.slots, from_now=request.from_now, now=now)
        feed = MergedFeed(self._dispatch, standing, validation.batch_size(request.max_batch), call.request_id)
        async with aclosing(feed.responses(cursors)) as responses:
            async for response in responses:
                yield response

    async def ListLikedPosts(
        self, request: api.ListLikedPostsRequest, call: Call
    ) -> api.ListLikedPostsResponse:
        user_id, size = request.user_id, validation.page_size(request.page_size)
        if violations := validation.list_violations("user_id", user_id, request.page_size):
            raise InvalidArgument.of(violations)

        def tokens() -> PageTokens:
            return PageTokens(self._dispatch.cluster_id, "ListLikedPosts")

        def ask(node: NodeClient, epoch: int, timeout: float) -> Awaitable[shard.ListLikedPostsResponse]:
            before, below = _NEWEST[0], ""
            if request.page_token:
                before, below = tokens().read_after(user_id, request.page_token)
            wanted = shard.ListLikedPostsRequest(
                cluster_id=self._dispatch.cluster_id,
                request_id=call.request_id,
                user_id=user_id,
                epoch=epoch,
                before=before,
                below_post_id=below,
                limit=size + 1,
            )
            return node.list_liked_posts(wanted, timeout)

        # Users are on the same ring as posts.
        answer = await ask_owner(self._dispatch, user_id, ask, call.deadline)
        response = api.ListLikedPostsResponse()
        for post_id, like_time in zip(answer.post_ids[:size], answer.like_times, strict=False):
            like = response.likes.add()
            like.post_id = post_id
            _set_micros(like.like_time, like_time)
        if len(answer.post_ids) > size:
            response.next_page_token = tokens().make_after(
                user_id, answer.like_times[size - 1], answer.post_ids[size - 1]
            )
        return response

    async def _mutate(
        self, request: api.LikeRequest | api.UnlikeRequest, kind: int, like_count: api.LikeCount, call: Call
    ) -> api.MutationOutcome.ValueType:
        """Fills in the count and returns the outcome."""
        user_id, post_id = request.user_id, request.post_id
        intent = validation.intent_micros(request.intent_time) if request.HasField("intent_time") else 0
        if violations := validation.like_violations(user_id, post_id, intent, time_ns() // 1000):
            raise InvalidArgument.of(violations)
        row = await self._dispatch.one(
            WRITES, kind, post_id, user_id, intent, 0, call.deadline, call.request_id
        )
        _fill(like_count, post_id, row)
        return row[0]  # type: ignore[return-value]  # the numbers of MutationOutcome

    async def _mutate_others(
        self, operations: Operations, refused: dict[int, LikeringError], call: Call
    ) -> Sequence[Row | None]:
        """Executes those that were not refused; adds to ``refused`` those that failed."""
        rows: list[Row | None] = [None] * len(operations.kinds)
        good = [position for position in range(len(rows)) if position not in refused]
        if good:
            found, errors = await self._dispatch.many(operations.pick(good), call.deadline)
            for position, row in zip(good, found, strict=True):
                rows[position] = row
            for index, error in errors.items():
                refused[good[index]] = _of_item(good[index], error)
        return rows


def _refused(
    user_ids: Sequence[str], post_ids: Sequence[str], actions: Sequence[int], intents: Sequence[int]
) -> dict[int, LikeringError]:
    """The error of each mutation that is not valid, by its position."""
    now = time_ns() // 1000
    if (
        validation.valid_ids(user_ids)
        and validation.valid_ids(post_ids)
        and _ACTIONS.issuperset(actions)
        and min(intents) >= 0
        and max(intents) <= now + validation.MAX_INTENT_AHEAD
    ):
        return {}
    return {
        position: InvalidArgument.of(violations)
        for position, item in enumerate(zip(user_ids, post_ids, actions, intents, strict=True))
        if (violations := validation.mutation_violations(position, *item, now))
    }


def _of_item(position: int, error: LikeringError) -> LikeringError:
    """The error with the paths of a MutateLikes item."""
    if not error.violations:
        return error
    path = f"mutations[{position}]."
    return type(error)(
        error.message,
        violations=[
            FieldViolation(path + violation.field, violation.reason, violation.description)
            for violation in error.violations
        ],
    )


def _fill(like_count: api.LikeCount, post_id: str, row: Row) -> None:
    _, count, version, _, source, as_of = row
    like_count.post_id = post_id
    like_count.count = count
    like_count.version = version
    like_count.exactness = _EXACTNESS[source]
    _set_micros(like_count.as_of_time, as_of)


def _set_micros(timestamp: Timestamp, micros: int) -> None:
    timestamp.seconds = micros // 1_000_000
    timestamp.nanos = micros % 1_000_000 * 1000
