"""One call to many keystores at once: batches that each keystore answers item by item."""

import queue
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from mdm.acl.v1 import acl_pb2_grpc
from mdm.common.v1.common_pb2 import ItemStatus
from mdm.keystore.v1 import admin_pb2_grpc, keystore_pb2_grpc
from mdm_wire import batch
from mdm_wire.errors import MdmError, TimedOut
from mdm_wire.status import from_rpc_error

Key = TypeVar("Key")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class KeystoreServer:
    """One keystore: its name in messages, the share index it holds, a channel to it."""

    name: str
    index: int
    channel: grpc.Channel

    @property
    def place(self) -> str:
        """How messages name it."""
        return f"keystore {self.name}"

    @property
    def keys(self) -> keystore_pb2_grpc.KeystoreServiceStub:
        """Its key service."""
        return keystore_pb2_grpc.KeystoreServiceStub(self.channel)

    @property
    def admin(self) -> admin_pb2_grpc.KeystoreAdminServiceStub:
        """Its service for operators."""
        return admin_pb2_grpc.KeystoreAdminServiceStub(self.channel)

    @property
    def acls(self) -> acl_pb2_grpc.AclServiceStub:
        """Its ACL service."""
        return acl_pb2_grpc.AclServiceStub(self.channel)


@dataclass(frozen=True)
class Reply:
    """What one keystore answered to one call: a response, or the error that stands for it."""

    server: KeystoreServer
    response: Any = None
    error: MdmError | None = None


class Replies:
    """Calls under way, in the order in which they end."""

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
        """Return the next call that ended, None if none does within `timeout` seconds."""
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
        """Give up the calls that have not ended."""
        for future in self._running.values():
            future.cancel()


def call_all(
    servers: Iterable[KeystoreServer],
    method: Callable[[KeystoreServer], Callable[..., Any]],
    request: Callable[[KeystoreServer], Any],
    timeout: float,
) -> dict[KeystoreServer, Reply]:
    """Call every keystore at the same time and wait for all of them, each at most `timeout` seconds."""
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


def item_errors(reply: Reply, keys: Sequence[Key], statuses: Callable[[Any], Iterable[ItemStatus]]) -> dict[Key, MdmError | None]:
    """Return each item's error at one keystore; a call that failed as a whole fails each of its items."""
    if reply.error is not None:
        return dict.fromkeys(keys, reply.error)
    place = reply.server.place
    try:
        errors = batch.item_errors(keys, statuses(reply.response))
    except MdmError as error:
        return dict.fromkeys(keys, error.at(place))
    return {key: error and error.at(place) for key, error in zip(keys, errors, strict=True)}


def item_answers(
    reply: Reply, keys: Sequence[Key], results: Callable[[Any], Iterable[Any]], value: Callable[[Any], Answer]
) -> dict[Key, Answer | MdmError]:
    """Return each item's value or error at one keystore; a call that failed as a whole fails each of its items."""
    if reply.error is not None:
        return dict.fromkeys(keys, reply.error)
    place = reply.server.place
    try:
        answers = batch.item_answers(keys, results(reply.response), value)
    except MdmError as error:
        return dict.fromkeys(keys, error.at(place))
    return {key: answer.at(place) if isinstance(answer, MdmError) else answer for key, answer in zip(keys, answers, strict=True)}


def first_error(by_server: Mapping[KeystoreServer, Mapping[Key, MdmError | None]], key: Key) -> MdmError | None:
    """Return the error of the first keystore that failed this item."""
    return next((errors[key] for errors in by_server.values() if errors.get(key) is not None), None)
