"""The feed over gRPC."""

import threading
import time
from collections.abc import Iterator, Mapping

import grpc
from mdm.metadata.v1 import feed_pb2 as pb
from mdm.metadata.v1 import feed_pb2_grpc
from mdm_service.identity.caller import Caller, current_caller
from mdm_wire.errors import Exhausted, NotFound
from psycopg_pool import ConnectionPool

from mdm_metadata.rules.model import fold_path
from mdm_metadata.store.feed_copy import list_replicas
from mdm_metadata.store.feed_origin import FeedOrigin

FULL_NAME = "mdm.metadata.v1.MetadataFeedService"
STREAM_SECONDS = 300.0
POLL_SECONDS = 0.25
BEAT_SECONDS = 2.0
MAX_STREAMS = 8


class FeedServicer(feed_pb2_grpc.MetadataFeedServiceServicer):
    """MetadataFeedService over gRPC. `subscribers` says which subtrees, folded, each subject may have; streams end at `stopping`."""

    def __init__(self, pool: ConnectionPool, subscribers: Mapping[str, frozenset[str]], stopping: threading.Event) -> None:
        self._pool = pool
        self._origin = FeedOrigin(pool)
        self._subscribers = subscribers
        self._stopping = stopping
        self._streams = threading.BoundedSemaphore(MAX_STREAMS)

    def Subscribe(self, request: pb.SubscribeRequest, context: grpc.ServicerContext) -> Iterator[pb.SubscribeResponse]:
        """Stream steps until the client or this service goes, or some minutes are over."""
        self._check(current_caller(), request.subtree)
        if not self._streams.acquire(blocking=False):
            raise Exhausted("TOO_MANY_SUBSCRIBERS", f"At most {MAX_STREAMS} subscriptions at once: try again later.")
        try:
            yield from self._steps(request, context)
        finally:
            self._streams.release()

    def _steps(self, request: pb.SubscribeRequest, context: grpc.ServicerContext) -> Iterator[pb.SubscribeResponse]:
        position, told = request.position, 0.0
        end = time.monotonic() + STREAM_SECONDS
        while context.is_active() and time.monotonic() < end and not self._stopping.is_set():
            step = self._origin.step(request.subtree, position)
            moved = step.to != position
            if moved or time.monotonic() - told > BEAT_SECONDS:
                yield step
                told = time.monotonic()
            position = step.to
            if not moved:
                self._stopping.wait(POLL_SECONDS)

    def ListReplicas(self, request: pb.ListReplicasRequest, context: grpc.ServicerContext) -> pb.ListReplicasResponse:
        """List the copies that are kept here."""
        return pb.ListReplicasResponse(replicas=list_replicas(self._pool))

    def _check(self, caller: Caller, subtree: str) -> None:
        wanted = fold_path(subtree)
        for allowed in self._subscribers.get(caller.dn, ()):
            if (wanted == allowed or wanted.startswith(allowed.rstrip("/") + "/")) and not self._origin.is_sensitive(wanted):
                return
        raise NotFound("SUBTREE_NOT_FOUND", "No such subtree is published for you.")
