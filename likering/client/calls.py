"""The calls of likering.v1.LikeService, each as a value: its request, how its response reads, its answer in memory.

The synchronous and the asyncio client differ only in how they carry these out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from likering.client.memory import MemoryLikes
from likering.client.model import (
    Action,
    Exactness,
    LikeCount,
    LikedPost,
    LikedPostsPage,
    Liker,
    LikersPage,
    LikeState,
    LikeSummaries,
    LikeSummary,
    MutationResult,
    Outcome,
    time_of,
)
from likering.errors import FieldViolation, InternalError, InvalidArgument, LikeringError
from likering.serving.status import from_status
from likering.v1 import like_service_pb2 as pb
from likering.validation import (
    MAX_PAGE,
    Violations,
    action_violations,
    count_violations,
    filter_violations,
    has_liked_violations,
    like_violations,
    list_violations,
    mutate_violations,
    mutation_violations,
    summaries_violations,
)

T_co = TypeVar("T_co", covariant=True)

_LAST_VERSION: Final = 2**63 - 1
_EXACTNESS: Final[Mapping[int, Exactness]] = {int(exactness): exactness for exactness in Exactness}
_OUTCOMES: Final[Mapping[int, Outcome]] = {int(outcome): outcome for outcome in Outcome}
_SERVER_DECIDES: Final = 2**63
"""As the present moment: whether an intent is too far ahead is for the server's clock to say, not for ours."""


class Call(Protocol[T_co]):
    """One call. ``request`` raises InvalidArgument when the server would surely refuse it."""

    @property
    def method(self) -> str: ...
    def request(self) -> Message: ...
    def parse(self, response: Any) -> T_co: ...
    def in_memory(self, memory: MemoryLikes) -> T_co: ...


@dataclass(frozen=True, slots=True)
class Apply:
    """Like or Unlike. ``intent`` in µs since 1970."""

    user_id: str
    post_id: str
    action: Action
    intent: int

    @property
    def method(self) -> str:
        return "Like" if self.action is Action.LIKE else "Unlike"

    def request(self) -> Message:
        refuse(action_violations(self.action))
        refuse(like_violations(self.user_id, self.post_id, self.intent, _SERVER_DECIDES))
        kind = pb.LikeRequest if self.action is Action.LIKE else pb.UnlikeRequest
        return kind(user_id=self.user_id, post_id=self.post_id, intent_time=timestamp(self.intent))

    def parse(self, response: pb.LikeResponse | pb.UnlikeResponse) -> MutationResult:
        return MutationResult(outcome_of(response.outcome), count_of(response.like_count))

    def in_memory(self, memory: MemoryLikes) -> MutationResult:
        refuse(action_violations(self.action))
        return memory.apply(self.user_id, self.post_id, self.action, self.intent)


@dataclass(frozen=True, slots=True)
class Mutate:
    """MutateLikes over (user, post, action, intent in µs since 1970)."""

    mutations: Sequence[tuple[str, str, int, int]]
    method: ClassVar[str] = "MutateLikes"

    def request(self) -> Message:
        refuse(mutate_violations(len(self.mutations)))
        request = pb.MutateLikesRequest()
        refused = self._refused()
        for index, (user_id, post_id, action, intent) in enumerate(self.mutations):
            if index in refused:
                # Its answer is known already. The server will refuse this too; the others keep their positions.
                request.mutations.add()
            else:
                add_mutation(request, user_id, post_id, action, intent)
        return request

    def parse(self, response: pb.MutateLikesResponse) -> list[MutationResult]:
        if len(response.results) != len(self.mutations):
            raise InternalError(f"{len(self.mutations)} mutations got {len(response.results)} results")
        results = list(map(result_of, response.results))
        for index, error in self._refused().items():
            results[index] = MutationResult(error=error)
        return results

    def in_memory(self, memory: MemoryLikes) -> list[MutationResult]:
        return memory.mutate(self.mutations)

    def _refused(self) -> dict[int, InvalidArgument]:
        return {
            index: InvalidArgument.of(violations)
            for index, mutation in enumerate(self.mutations)
            if (violations := mutation_violations(index, *mutation, _SERVER_DECIDES))
        }


@dataclass(frozen=True, slots=True)
class GetState:
    """HasLiked."""

    user_id: str
    post_id: str
    consistency: int
    min_version: int
    method: ClassVar[str] = "HasLiked"

    def request(self) -> Message:
        refuse(has_liked_violations(self.user_id, self.post_id, self.consistency, self.min_version))
        return pb.HasLikedRequest(
            user_id=self.user_id,
            post_id=self.post_id,
            consistency=pb.Consistency.ValueType(self.consistency),
            min_version=min(self.min_version, _LAST_VERSION),
        )

    def parse(self, response: pb.HasLikedResponse) -> LikeState:
        return LikeState(
            response.liked,
            time_of(micros(response.like_time)) if response.liked else None,
            exactness_of(response.exactness),
            time_of(micros(response.as_of_time)),
        )

    def in_memory(self, memory: MemoryLikes) -> LikeState:
        return memory.like_state(self.user_id, self.post_id, self.consistency, self.min_version)


@dataclass(frozen=True, slots=True)
class GetCount:
    """GetLikeCount."""

    post_id: str
    consistency: int
    min_version: int
    method: ClassVar[str] = "GetLikeCount"

    def request(self) -> Message:
        refuse(count_violations(self.post_id, self.consistency, self.min_version))
        return pb.GetLikeCountRequest(
            post_id=self.post_id,
            consistency=pb.Consistency.ValueType(self.consistency),
            min_version=min(self.min_version, _LAST_VERSION),
        )

    def parse(self, response: pb.GetLikeCountResponse) -> LikeCount:
        return count_of(response.like_count)

    def in_memory(self, memory: MemoryLikes) -> LikeCount:
        return memory.like_count(self.post_id, self.consistency, self.min_version)


@dataclass(frozen=True, slots=True)
class GetSummaries:
    """GetLikeSummaries; an empty viewer is nobody."""

    post_ids: Sequence[str]
    viewer: str
    consistency: int
    partial: bool
    method: ClassVar[str] = "GetLikeSummaries"

    def request(self) -> Message:
        refuse(summaries_violations(self.post_ids, self.viewer, self.consistency))
        return pb.GetLikeSummariesRequest(
            post_ids=self.post_ids,
            viewer_user_id=self.viewer,
            consistency=pb.Consistency.ValueType(self.consistency),
            return_partial_success=self.partial,
        )

    def parse(self, response: pb.GetLikeSummariesResponse) -> LikeSummaries:
        return LikeSummaries(
            tuple(map(self._summary, response.summaries)),
            tuple(response.unreachable),
        )

    def in_memory(self, memory: MemoryLikes) -> LikeSummaries:
        return memory.summaries(self.post_ids, self.viewer, self.consistency)

    def _summary(self, summary: pb.LikeSummary) -> LikeSummary:
        count = count_of(summary.like_count)
        if not self.viewer:
            return LikeSummary(count, False)
        return LikeSummary(
            count,
            summary.viewer_has_liked,
            exactness_of(summary.viewer_exactness),
            time_of(micros(summary.viewer_as_of_time)),
        )


@dataclass(frozen=True, slots=True)
class Filter:
    """FilterLikers."""

    post_id: str
    user_ids: Sequence[str]
    consistency: int
    min_version: int
    method: ClassVar[str] = "FilterLikers"

    def request(self) -> Message:
        refuse(filter_violations(self.post_id, self.user_ids, self.consistency, self.min_version))
        return pb.FilterLikersRequest(
            post_id=self.post_id,
            user_ids=self.user_ids,
            consistency=pb.Consistency.ValueType(self.consistency),
            min_version=min(self.min_version, _LAST_VERSION),
        )

    def parse(self, response: pb.FilterLikersResponse) -> list[str]:
        return list(response.liked_user_ids)

    def in_memory(self, memory: MemoryLikes) -> list[str]:
        return memory.filter_likers(self.post_id, self.user_ids, self.consistency, self.min_version)


@dataclass(frozen=True, slots=True)
class ListLikers:
    """ListLikers, one page of it."""

    post_id: str
    page_size: int
    page_token: str
    method: ClassVar[str] = "ListLikers"

    def request(self) -> Message:
        refuse(list_violations("post_id", self.post_id, self.page_size))
        return pb.ListLikersRequest(
            post_id=self.post_id, page_size=min(self.page_size, MAX_PAGE), page_token=self.page_token
        )

    def parse(self, response: pb.ListLikersResponse) -> LikersPage:
        likes = tuple(Liker(like.user_id, time_of(micros(like.like_time))) for like in response.likes)
        return LikersPage(likes, response.next_page_token, count_of(response.total))

    def in_memory(self, memory: MemoryLikes) -> LikersPage:
        return memory.list_likers(self.post_id, self.page_size, self.page_token)


@dataclass(frozen=True, slots=True)
class ListLikedPosts:
    """ListLikedPosts, one page of it."""

    user_id: str
    page_size: int
    page_token: str
    method: ClassVar[str] = "ListLikedPosts"

    def request(self) -> Message:
        refuse(list_violations("user_id", self.user_id, self.page_size))
        return pb.ListLikedPostsRequest(
            user_id=self.user_id, page_size=min(self.page_size, MAX_PAGE), page_token=self.page_token
        )

    def parse(self, response: pb.ListLikedPostsResponse) -> LikedPostsPage:
        likes = tuple(LikedPost(like.post_id, time_of(micros(like.like_time))) for like in response.likes)
        return LikedPostsPage(likes, response.next_page_token)

    def in_memory(self, memory: MemoryLikes) -> LikedPostsPage:
        return memory.list_liked_posts(self.user_id, self.page_size, self.page_token)


def refuse(violations: Violations) -> None:
    """Raises the error of the violations, if there are any."""
    if violations:
        raise InvalidArgument.of(violations)


def add_mutation(
    request: pb.MutateLikesRequest, user_id: str, post_id: str, action: int, intent: int
) -> None:
    """Appends one mutation. Field by field is what protobuf does fastest: 1.6 µs, and 3.8 µs with keyword arguments."""
    mutation = request.mutations.add()
    mutation.user_id = user_id
    mutation.post_id = post_id
    mutation.action = pb.LikeMutation.Action.ValueType(action)
    time = mutation.intent_time
    time.seconds, rest = divmod(intent, 1_000_000)
    time.nanos = rest * 1000


def timestamp(intent: int) -> Timestamp:
    """µs since 1970 as a Timestamp."""
    seconds, rest = divmod(intent, 1_000_000)
    return Timestamp(seconds=seconds, nanos=rest * 1000)


def micros(time: Timestamp) -> int:
    """A Timestamp in µs since 1970."""
    return time.seconds * 1_000_000 + time.nanos // 1000


def count_of(count: pb.LikeCount) -> LikeCount:
    """The dataclass of the message."""
    return LikeCount(
        count.post_id,
        count.count,
        count.version,
        exactness_of(count.exactness),
        time_of(micros(count.as_of_time)),
    )


def exactness_of(exactness: int) -> Exactness:
    """The enum of the message's number."""
    # A kind that only a newer server knows promises nothing that we could rely on.
    return _EXACTNESS.get(exactness, Exactness.STALE)


def outcome_of(outcome: int) -> Outcome:
    """The enum of the message's number; InternalError for one that is not known."""
    known = _OUTCOMES.get(outcome)
    if known is None:
        raise InternalError(f"The service answered with an outcome that is not known: {outcome}")
    return known


def result_of(result: pb.MutationResult) -> MutationResult:
    """The dataclass of the message."""
    if result.outcome:
        return MutationResult(outcome_of(result.outcome), count_of(result.like_count))
    return MutationResult(error=error_of(result))


def error_of(result: pb.MutationResult) -> LikeringError:
    """Why one mutation of a batch failed."""
    error = from_status(result.status)
    if error is None:
        return InternalError(result.status.message or "The service gave neither an outcome nor an error")
    return error


def alone(error: LikeringError) -> LikeringError:
    """The error of a mutation whose caller knows of no list: ``user_id`` instead of ``mutations[7].user_id``."""
    if not error.violations:
        return error
    violations = [
        FieldViolation(violation.field.rpartition(".")[2], violation.reason, violation.description)
        for violation in error.violations
    ]
    same = InvalidArgument.of(violations)
    same.request_id = error.request_id
    return same
