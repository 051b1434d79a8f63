"""The feed over gRPC."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import grpc
from mdm.metadata.v1 import feed_pb2 as pb
from mdm.metadata.v1 import feed_pb2_grpc
from mdm_service.identity.caller import Caller, current_caller
from mdm_wire.errors import Exhausted, NotFound

from mdm_metadata.rules.model import fold_path

FULL_NAME = "mdm.metadata.v1.MetadataFeedService"
STREAM_SECONDS = 300.0
POLL_SECONDS = 0.25
BEAT_SECONDS = 2.0
MAX_STREAMS = 8


class Origin(Protocol):
    """The source of a feed's steps, in the form in which they are sent."""

    def step(self, subtree: str, position: pb.FeedPosition) -> pb.SubscribeResponse:
        """Return the step that follows a position in a subtree; an empty one at the end."""
        ...

    def is_sensitive(self, path: str) -> bool:
        """Return whether a subtree is a sensitive collection, which is never sent."""
        ...


class FeedServicer(feed_pb2_grpc.MetadataFeedServiceServicer):
    """MetadataFeedService over gRPC. `subscribers` are the folded subtrees that each subject may copy; streams end at `stopping`."""

    def __init__(
        self,
        origin: Origin,
        list_replicas: Callable[[], Sequence[pb.Replica]],
        subscribers: Mapping[str, frozenset[str]],
        stopping: threading.Event,
    ) -> None:
        self._origin = origin
        self._list_replicas = list_replicas
        self._subscribers = subscribers
        self._stopping = stopping
        self._streams = threading.BoundedSemaphore(MAX_STREAMS)

    def Subscribe(self, request: pb.SubscribeRequest, context: grpc.ServicerContext) -> Iterator[pb.SubscribeResponse]:
        """Stream steps until the client disconnects, this service stops, or five minutes are over."""
        self._check(current_caller(), request.subtree)
        if not self._streams.acquire(blocking=False):
            raise Exhausted("TOO_MANY_SUBSCRIBERS", f"At most {MAX_STREAMS} subscriptions at once: try again later.")
        try:
            yield from self._steps(request, context)
        finally:
            self._streams.release()

    def _steps(self, request: pb.SubscribeRequest, context: grpc.ServicerContext) -> Iterator[pb.SubscribeResponse]:
        position, sent = request.position, 0.0
        end = time.monotonic() + STREAM_SECONDS
        while context.is_active() and time.monotonic() < end and not self._stopping.is_set():
            step = self._origin.step(request.subtree, position)
            moved = step.to != position
            if moved or time.monotonic() - sent > BEAT_SECONDS:
                yield step
                sent = time.monotonic()
            position = step.to
            if not moved:
                self._stopping.wait(POLL_SECONDS)

    def ListReplicas(self, request: pb.ListReplicasRequest, context: grpc.ServicerContext) -> pb.ListReplicasResponse:
        """List the replicas on this service."""
        return pb.ListReplicasResponse(replicas=self._list_replicas())

    def _check(self, caller: Caller, subtree: str) -> None:
        wanted = fold_path(subtree)
        for allowed in self._subscribers.get(caller.dn, ()):
            if (wanted == allowed or wanted.startswith(allowed.rstrip("/") + "/")) and not self._origin.is_sensitive(wanted):
                return
        raise NotFound("SUBTREE_NOT_FOUND", "No such subtree, or it is not published to you.")
