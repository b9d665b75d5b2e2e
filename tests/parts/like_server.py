"""A real gRPC server that serves LikeService from memory, and fails or waits when a test wants it to."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_status import rpc_status

from likering.client.feed import MemoryFeed, StreamLikeEvents
from likering.client.memory import MemoryLikes
from likering.client.model import EPOCH, Action, LikeCount, LikeSummaries, MutationResult
from likering.errors import LikeringError, ShardUnavailable
from likering.serving.status import to_status
from likering.v1 import like_service_pb2 as pb
from likering.v1 import like_service_pb2_grpc as pb_grpc
from likering.validation import intent_micros

T = TypeVar("T")


class LikeServer(pb_grpc.LikeServiceServicer):
    """Listens on a port of the loopback from its start on."""

    def __init__(
        self,
        port: int = 0,
        *,
        memory: MemoryLikes | None = None,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self.memory = memory or MemoryLikes()
        self.calls: list[tuple[str, Any]] = []
        """Method and request of each call, in the order of arrival."""
        self.metadata: list[dict[str, str | bytes]] = []
        """What came with each call."""
        self.certificates: list[str] = []
        """The common name of the certificate that the caller showed, for each call that came with one."""
        self.faults: deque[LikeringError] = deque()
        """Each fails one call that arrives."""
        self.unreachable: set[str] = set()
        """Posts whose shard does not answer GetLikeSummaries."""
        self.gate = threading.Event()
        """While it is cleared, calls wait before they do anything."""
        self.gate.set()
        self.streams_end = threading.Event()
        """While it is set, a watch ends after one response."""
        self.arrived = threading.Semaphore(0)
        """Released by each call that arrives, before the gate."""
        self._server = grpc.server(ThreadPoolExecutor(16, "like-server"), options=[("grpc.so_reuseport", 0)])
        pb_grpc.add_LikeServiceServicer_to_server(self, self._server)
        address = f"localhost:{port}"
        if credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, credentials)
        self.address = f"localhost:{self.port}"
        self._server.start()

    def stop(self) -> None:
        """Cuts all calls off, and returns when the port is free."""
        self.gate.set()
        self._server.stop(None).wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def methods(self) -> list[str]:
        """The methods that were called."""
        return [method for method, _ in self.calls]

    def Like(self, request: pb.LikeRequest, context: grpc.ServicerContext) -> pb.LikeResponse:
        result = self._serve("Like", request, context, lambda: self._apply(request, Action.LIKE))
        return pb.LikeResponse(outcome=_outcome(result), like_count=_count(result.like_count))

    def Unlike(self, request: pb.UnlikeRequest, context: grpc.ServicerContext) -> pb.UnlikeResponse:
        result = self._serve("Unlike", request, context, lambda: self._apply(request, Action.UNLIKE))
        return pb.UnlikeResponse(outcome=_outcome(result), like_count=_count(result.like_count))

    def HasLiked(self, request: pb.HasLikedRequest, context: grpc.ServicerContext) -> pb.HasLikedResponse:
        state = self._serve(
            "HasLiked",
            request,
            context,
            lambda: self.memory.like_state(
                request.user_id, request.post_id, request.consistency, request.min_version
            ),
        )
        return pb.HasLikedResponse(
            liked=state.liked,
            like_time=_time(state.like_time),
            exactness=pb.Exactness.ValueType(state.exactness),
            as_of_time=_time(state.as_of_time),
        )

    def GetLikeCount(
        self, request: pb.GetLikeCountRequest, context: grpc.ServicerContext
    ) -> pb.GetLikeCountResponse:
        count = self._serve(
            "GetLikeCount",
            request,
            context,
            lambda: self.memory.like_count(request.post_id, request.consistency, request.min_version),
        )
        return pb.GetLikeCountResponse(like_count=_count(count))

    def MutateLikes(
        self, request: pb.MutateLikesRequest, context: grpc.ServicerContext
    ) -> pb.MutateLikesResponse:
        mutations = [
            (mutation.user_id, mutation.post_id, mutation.action, _intent(mutation))
            for mutation in request.mutations
        ]
        results = self._serve("MutateLikes", request, context, lambda: self.memory.mutate(mutations))
        response = pb.MutateLikesResponse()
        for result in results:
            if result.error is not None:
                response.results.add(status=to_status(result.error))
            else:
                response.results.add(outcome=_outcome(result), like_count=_count(result.like_count))
        return response

    def GetLikeSummaries(
        self, request: pb.GetLikeSummariesRequest, context: grpc.ServicerContext
    ) -> pb.GetLikeSummariesResponse:
        summaries = self._serve(
            "GetLikeSummaries",
            request,
            context,
            lambda: self._summaries(request),
        )
        response = pb.GetLikeSummariesResponse()
        for summary in summaries:
            if summary.like_count.post_id in self.unreachable:
                response.unreachable.append(summary.like_count.post_id)
            else:
                response.summaries.add(
                    like_count=_count(summary.like_count),
                    viewer_has_liked=summary.viewer_has_liked,
                    viewer_exactness=pb.Exactness.ValueType(summary.viewer_exactness or 0),
                    viewer_as_of_time=_time(summary.viewer_as_of_time),
                )
        return response

    def FilterLikers(
        self, request: pb.FilterLikersRequest, context: grpc.ServicerContext
    ) -> pb.FilterLikersResponse:
        likers = self._serve(
            "FilterLikers",
            request,
            context,
            lambda: self.memory.filter_likers(
                request.post_id, request.user_ids, request.consistency, request.min_version
            ),
        )
        return pb.FilterLikersResponse(liked_user_ids=likers)

    def ListLikers(
        self, request: pb.ListLikersRequest, context: grpc.ServicerContext
    ) -> pb.ListLikersResponse:
        page = self._serve(
            "ListLikers",
            request,
            context,
            lambda: self.memory.list_likers(request.post_id, request.page_size, request.page_token),
        )
        response = pb.ListLikersResponse(next_page_token=page.next_page_token, total=_count(page.total))
        for like in page:
            response.likes.add(user_id=like.user_id, like_time=_time(like.like_time))
        return response

    def WatchLikeCounts(
        self, request: pb.WatchLikeCountsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchLikeCountsResponse]:
        woken = threading.Event()
        watching = self._serve(
            "WatchLikeCounts", request, context, lambda: self.memory.watch(request.post_ids, woken.set)
        )
        context.add_callback(woken.set)
        try:
            with watching as watch:
                while context.is_active():
                    woken.clear()
                    counts, due_in = watch.take()
                    yield pb.WatchLikeCountsResponse(like_counts=map(_count, counts))
                    if self.streams_end.is_set():
                        return
                    woken.wait(due_in)
        except LikeringError as error:
            _abort(context, error)

    def StreamLikeEvents(
        self, request: pb.StreamLikeEventsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.StreamLikeEventsResponse]:
        wanted = StreamLikeEvents(request.slots, request.from_now, request.max_batch)
        feed = self._serve(
            "StreamLikeEvents", request, context, lambda: MemoryFeed(self.memory, wanted, request.cursor)
        )
        changed = threading.Event()
        with self.memory.changes.watched(changed.set):
            while context.is_active():
                changed.clear()
                if not feed.due():
                    changed.wait(0.2)
                    continue
                response = pb.StreamLikeEventsResponse(
                    cursor=feed.batch.cursor, slot_count=feed.batch.slot_count
                )
                for event in feed.batch:
                    told = response.events.add(
                        kind=pb.LikeEvent.Kind.ValueType(event.kind),
                        slot=event.slot,
                        user_id=event.user_id,
                        post_id=event.post_id,
                        liked=event.liked,
                        first_like=event.first_like,
                        like_time=_time(event.like_time),
                    )
                    if event.post_id:
                        told.like_count.CopyFrom(_count(event.like_count))
                yield response

    def ListLikedPosts(
        self, request: pb.ListLikedPostsRequest, context: grpc.ServicerContext
    ) -> pb.ListLikedPostsResponse:
        page = self._serve(
            "ListLikedPosts",
            request,
            context,
            lambda: self.memory.list_liked_posts(request.user_id, request.page_size, request.page_token),
        )
        response = pb.ListLikedPostsResponse(next_page_token=page.next_page_token)
        for like in page:
            response.likes.add(post_id=like.post_id, like_time=_time(like.like_time))
        return response

    def _apply(self, request: pb.LikeRequest | pb.UnlikeRequest, action: Action) -> MutationResult:
        return self.memory.apply(request.user_id, request.post_id, action, _intent(request))

    def _summaries(self, request: pb.GetLikeSummariesRequest) -> LikeSummaries:
        if not request.return_partial_success and not self.unreachable.isdisjoint(request.post_ids):
            raise ShardUnavailable
        return self.memory.summaries(request.post_ids, request.viewer_user_id, request.consistency)

    def _serve(self, method: str, request: Any, context: grpc.ServicerContext, act: Callable[[], T]) -> T:
        self.calls.append((method, request))
        self.metadata.append(dict(_pairs(context.invocation_metadata())))
        shown: Any = context.auth_context()  # typed as a mapping of something else
        self.certificates += [name.decode() for name in shown.get("x509_common_name", ())]
        self.arrived.release()
        self.gate.wait()
        try:
            if self.faults:
                raise self.faults.popleft()
            return act()
        except LikeringError as error:
            _abort(context, error)


def _abort(context: grpc.ServicerContext, error: LikeringError) -> NoReturn:
    context.abort_with_status(rpc_status.to_status(to_status(error)))
    raise AssertionError("abort raises")


def _pairs(metadata: Iterable[Any]) -> Sequence[tuple[str, str | bytes]]:
    return [(key, value) for key, value in metadata]


def _intent(request: pb.LikeRequest | pb.UnlikeRequest | pb.LikeMutation) -> int:
    return intent_micros(request.intent_time) if request.HasField("intent_time") else 0


def _outcome(result: MutationResult) -> pb.MutationOutcome.ValueType:
    assert result.outcome is not None
    return pb.MutationOutcome.ValueType(result.outcome)


def _count(count: LikeCount | None) -> pb.LikeCount:
    assert count is not None
    return pb.LikeCount(
        post_id=count.post_id,
        count=count.count,
        version=count.version,
        exactness=pb.Exactness.ValueType(count.exactness),
        as_of_time=_time(count.as_of_time),
    )


def _time(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    passed = moment - EPOCH
    return Timestamp(seconds=passed.days * 86400 + passed.seconds, nanos=passed.microseconds * 1000)
