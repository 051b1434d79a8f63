"""Threads that keep copies of other services' subtrees up to date."""

import logging
import threading
from collections.abc import Sequence

import grpc
import psycopg
from mdm.metadata.v1 import feed_pb2 as pb
from mdm.metadata.v1 import feed_pb2_grpc
from mdm_service.settings import TlsSettings
from mdm_wire.errors import MdmError
from mdm_wire.status import from_rpc_error
from mdm_wire.tls import secure_channel
from psycopg_pool import ConnectionPool, PoolTimeout

from mdm_metadata.store.feed_copy import ReplicaCopy

_log = logging.getLogger(__name__)
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 10.0
#: Seconds until the next check whether another process of this service has stopped following.
OTHER_PROCESS_PAUSE = 2.0
#: Seconds of silence after which the connection to the origin is probed.
SILENCE_SECONDS = 30.0


class Subscription:
    """One subtree of one origin, copied in a thread of its own until `stop`.

    Several processes on one database may run it: one of them follows the origin, and another one when that has ended. Should two follow
    for a moment, each step is still applied once, at the copy's position.
    """

    def __init__(self, pool: ConnectionPool, origin: str, addresses: Sequence[str], subtree: str, tls: TlsSettings) -> None:
        """Follow `subtree` at one of `addresses`, whose certificate must be of an authority in `tls.ca`."""
        self._copy = ReplicaCopy(pool, origin, subtree)
        self._subtree = subtree
        self._addresses = list(addresses)
        self._tls = tls
        self._stopping = threading.Event()
        self._call: grpc.Call | None = None
        self._thread = threading.Thread(target=self._run, name=f"replica {origin}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; applied steps remain."""
        self._stopping.set()
        if self._call is not None:
            self._call.cancel()
        self._thread.join(10)

    def _run(self) -> None:
        pause, turn, again = FIRST_PAUSE, 0, False
        while not self._stopping.is_set():
            try:
                with self._copy.following() as mine:
                    if mine and again:
                        self._copy.begin_again()
                    again = False  # another process that follows finds out by itself
                    if mine:
                        self._follow(self._addresses[turn % len(self._addresses)])
                if not mine:
                    self._stopping.wait(OTHER_PROCESS_PAUSE)
                pause = FIRST_PAUSE
                continue
            except grpc.RpcError as error:
                reason = from_rpc_error(error).reason
                again = again or reason == "FEED_TRIMMED"
            except MdmError as error:
                reason = error.reason
            except (psycopg.Error, PoolTimeout):
                reason = "DATABASE_UNAVAILABLE"
            except Exception as error:  # nothing that an origin sends ends the thread
                reason = type(error).__name__
            turn += 1
            self._report(reason)
            self._stopping.wait(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _follow(self, address: str) -> None:
        """Apply the steps of one stream."""
        with secure_channel(address, self._tls, [("grpc.keepalive_time_ms", int(SILENCE_SECONDS * 1000))]) as channel:
            stub = feed_pb2_grpc.MetadataFeedServiceStub(channel)
            call = stub.Subscribe(pb.SubscribeRequest(subtree=self._subtree, position=self._copy.position()), timeout=600)
            self._call = call
            try:
                for step in call:
                    if self._stopping.is_set():
                        return
                    if not self._copy.apply(step):
                        self._stopping.wait(1)  # another process of this service applies it
                        return
            finally:
                call.cancel()

    def _report(self, reason: str) -> None:
        if self._stopping.is_set():
            return
        _log.warning("a replica does not go on", extra={"reason": reason})
        try:
            self._copy.note_problem(reason)
        except (psycopg.Error, PoolTimeout):
            return
