"""Calls to many keystores at once: batches that each keystore answers item by item, and which keystore to ask first."""

import math
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

import grpc
from mdm.acl.v1 import acl_pb2_grpc
from mdm.keystore.v1 import admin_pb2_grpc, keystore_pb2_grpc
from mdm_wire import batch
from mdm_wire.errors import MdmError, TimedOut
from mdm_wire.status import from_rpc_error

Key = TypeVar("Key")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class KeystoreServer:
    """One keystore: its name in messages, the index of its shares, a channel to it."""

    name: str
    index: int
    channel: grpc.Channel

    @property
    def place(self) -> str:
        """Its name at the beginning of messages."""
        return f"keystore {self.name}"

    @property
    def keys(self) -> keystore_pb2_grpc.KeystoreServiceStub:
        return keystore_pb2_grpc.KeystoreServiceStub(self.channel)

    @property
    def admin(self) -> admin_pb2_grpc.KeystoreAdminServiceStub:
        return admin_pb2_grpc.KeystoreAdminServiceStub(self.channel)

    @property
    def acls(self) -> acl_pb2_grpc.AclServiceStub:
        return acl_pb2_grpc.AclServiceStub(self.channel)


@dataclass(frozen=True)
class Reply:
    """The answer of one keystore to one call: a response or an error."""

    server: KeystoreServer
    response: Any = None
    error: MdmError | None = None


class Replies:
    """Running calls, whose replies come in the order in which the calls end."""

    def __init__(self) -> None:
        self._ended: queue.SimpleQueue[tuple[KeystoreServer, Any]] = queue.SimpleQueue()
        self._running: dict[KeystoreServer, Any] = {}

    @property
    def running(self) -> list[KeystoreServer]:
        """The keystores that have not answered."""
        return list(self._running)

    def start(self, server: KeystoreServer, method: Callable[..., Any], request: Any, timeout: float) -> None:
        """Begin a call of a stub's `method`."""
        future = method.future(request, timeout=timeout)  # type: ignore[attr-defined]
        self._running[server] = future
        future.add_done_callback(lambda ended: self._ended.put((server, ended)))

    def next(self, timeout: float) -> Reply | None:
        """Return the reply of the next call that ends, None if none does within `timeout` seconds."""
        try:
            server, future = self._ended.get(timeout=max(0.0, timeout))
        except queue.Empty:
            return None
        del self._running[server]
        try:
            return Reply(server, response=future.result())
        except grpc.RpcError as error:
            return Reply(server, error=from_rpc_error(error, server.place))

    def cancel(self) -> None:
        """Cancel the calls that run."""
        for future in self._running.values():
            future.cancel()


class Preference:
    """Remembers which keystores answer fast and which failed. Thread-safe."""

    def __init__(self, servers: Sequence[KeystoreServer]) -> None:
        self._lock = threading.Lock()
        shuffled = list(servers)
        random.shuffle(shuffled)  # new clients spread their load
        self._seconds = dict.fromkeys(shuffled, math.inf)
        self._avoid_until = dict.fromkeys(shuffled, 0.0)

    def order(self) -> list[KeystoreServer]:
        """Return all keystores: the fastest first, then those not asked yet, last those to avoid."""
        now = time.monotonic()
        with self._lock:
            return sorted(self._seconds, key=lambda server: (self._avoid_until[server] > now, self._seconds[server]))

    def answered(self, server: KeystoreServer, seconds: float) -> None:
        """Record a good answer and its duration in seconds."""
        with self._lock:
            before = self._seconds[server]
            self._seconds[server] = 0.7 * before + 0.3 * seconds if before < math.inf else seconds

    def avoid(self, server: KeystoreServer, seconds: float) -> None:
        """Put a keystore last for some time."""
        with self._lock:
            self._avoid_until[server] = max(self._avoid_until[server], time.monotonic() + seconds)


def uuid_of(text: str) -> UUID:
    """Return a UUID; malformed text of a keystore becomes the nil UUID, which no key and no audit has."""
    try:
        return UUID(text)
    except ValueError:
        return UUID(int=0)


def call_all(
    servers: Iterable[KeystoreServer],
    method: Callable[[KeystoreServer], Callable[..., Any]],
    request: Callable[[KeystoreServer], Any],
    timeout: float,
) -> dict[KeystoreServer, Reply]:
    """Call every keystore at the same time; return all replies after at most `timeout` seconds, of a late keystore an error."""
    replies = Replies()
    wanted = list(servers)
    for server in wanted:
        replies.start(server, method(server), request(server), timeout)
    found: dict[KeystoreServer, Reply] = {}
    deadline = time.monotonic() + timeout + 1.0
    while len(found) < len(wanted):
        reply = replies.next(deadline - time.monotonic())
        if reply is None:
            break
        found[reply.server] = reply
    replies.cancel()
    for server in wanted:
        late = TimedOut("DEADLINE_EXCEEDED", f"{server.place}: no answer in time; try again")
        found.setdefault(server, Reply(server, error=late))
    return found


def item_errors(reply: Reply, keys: Sequence[Key]) -> dict[Key, MdmError | None]:
    """Return each item's error at one keystore; a call that failed as a whole fails each of its items."""
    return _by_key(reply, keys, lambda: batch.item_errors(keys, reply.response.statuses))


def item_answers(reply: Reply, keys: Sequence[Key], value: Callable[[Any], Answer]) -> dict[Key, Answer | MdmError]:
    """Return each item's value or error at one keystore; a call that failed as a whole fails each of its items."""
    return _by_key(reply, keys, lambda: batch.item_answers(keys, reply.response.results, value))


def _by_key(reply: Reply, keys: Sequence[Key], answers: Callable[[], Sequence[Answer | MdmError]]) -> dict[Key, Answer | MdmError]:
    if reply.error is not None:
        return dict.fromkeys(keys, reply.error)
    place = reply.server.place
    try:
        found = answers()
    except MdmError as error:
        return dict.fromkeys(keys, error.at(place))
    return {key: answer.at(place) if isinstance(answer, MdmError) else answer for key, answer in zip(keys, found, strict=True)}
