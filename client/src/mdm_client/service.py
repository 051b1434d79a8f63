"""Calls of one service: in batches, repeated after a failure, with errors that name the service."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import grpc
from mdm_wire.batch import in_batches, item_answers, item_errors
from mdm_wire.errors import MdmError, TimedOut, Unavailable
from mdm_wire.retry import Retries, RetryPolicy, is_busy
from mdm_wire.status import from_rpc_error, translated

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Stream:
    """The responses of a running call: iterate them, or cancel it."""

    def __init__(self, call: Any, place: str) -> None:
        self._call = call
        self._place = place

    def __iter__(self) -> Iterator[Any]:
        """Yield the responses.

        Raises:
            MdmError: what the service answered, its message beginning with the service's place.
        """
        with translated(self._place):
            yield from self._call

    def cancel(self) -> None:
        """End the call; whoever iterates it gets Cancelled."""
        self._call.cancel()


class Service:
    """A channel to a service, the service's name in messages, and the policy of retries."""

    def __init__(self, place: str, channel: grpc.Channel, policy: RetryPolicy) -> None:
        self.place = place
        self.channel = channel
        self.policy = policy

    def call(self, method: Callable[..., Any], request: Any, timeout: float | None = None) -> Any:
        """Return the response of a unary call; each attempt may take `timeout` seconds (else `policy.call_seconds`).

        While the service is unreachable or has too many calls of this caller, it is tried for at most `policy.retry_seconds`. A method that
        declares that it is idempotent is repeated; another is sent once, when the service answers; see `mdm_wire.channel.UnaryMethod`.

        Raises:
            MdmError: what the service answered, its message beginning with the service's place.
        """
        seconds = timeout or self.policy.call_seconds
        if getattr(method, "is_idempotent", False):
            return self.repeat(lambda: method(request, timeout=seconds))
        return self.call_once(method, request, seconds)

    def attempt(self, method: Callable[..., Any], request: Any) -> Any:
        """Return the response of a unary call that is sent once and changes nothing, or the MdmError."""
        try:
            return method(request, timeout=self.policy.call_seconds)
        except grpc.RpcError as error:
            return from_rpc_error(error, self.place)

    def call_once(self, method: Callable[..., Any], request: Any, timeout: float | None) -> Any:
        """Return the response of a unary call that is carried out at most once; it may take `timeout` seconds, None: any time.

        A call that the server refuses because of other calls of the same caller was not carried out, and is sent again.

        Raises:
            MdmError: as `call`; where it is Unavailable the call may have been carried out.
        """
        once = getattr(method, "once", None)  # only channels of mdm_wire have it
        retries = self.retries()
        while True:
            try:
                return once(request, timeout, self.policy.retry_seconds) if once else method(request, timeout=timeout)
            except grpc.RpcError as error:
                failure = from_rpc_error(error, self.place)
                if is_busy(failure) and retries.pause():
                    continue
                if isinstance(failure, Unavailable | TimedOut):
                    failure = failure.saying(f"{failure.message}; it may have been done: look before you repeat it")
                raise failure from error

    def repeat(self, attempt: Callable[[], Answer]) -> Answer:
        """Return the result of `attempt`, which is idempotent; repeat it while the service is unreachable or busy."""
        retries = self.retries()
        while True:
            try:
                return attempt()
            except grpc.RpcError as error:
                retries.after(from_rpc_error(error, self.place))

    def resumed(self, start: Callable[[str], Any], parts: Callable[[Any], Iterable[Any]], place: Callable[[Any], str]) -> Iterator[Any]:
        """Yield the parts of a stream that `start` opens at a position; a broken stream is opened again where it broke."""
        after = ""
        retries = self.retries()
        while True:
            try:
                for response in start(after):
                    for part in parts(response):
                        yield part
                        after = place(part)
                    retries.progress()
                return
            except grpc.RpcError as error:
                retries.after(from_rpc_error(error, self.place))

    def errors(
        self, method: Callable[..., Any], items: Iterable[Item], request: Callable[[list[Item]], Any], size: int
    ) -> list[MdmError | None]:
        """Return the error of each item, or None, in the order asked; `size` items in a request."""
        return [error for batch in in_batches(items, size) for error in item_errors(batch, self.call(method, request(batch)).statuses)]

    def answers(
        self,
        method: Callable[..., Any],
        items: Iterable[Item],
        request: Callable[[list[Item]], Any],
        size: int,
        value: Callable[[Any], Answer],
    ) -> list[Answer | MdmError]:
        """Return `value` of each item's result, or its error, in the order asked; `size` items in a request."""
        batches = in_batches(items, size)
        return [answer for batch in batches for answer in item_answers(batch, self.call(method, request(batch)).results, value)]

    def pages(self, method: Callable[..., Any], request: Callable[[str], Any]) -> Iterator[Any]:
        """Yield the pages of a listing; `request` makes the request for a page token, which is empty for the first page."""
        token = ""
        while True:
            page = self.call(method, request(token))
            yield page
            token = page.next_page_token
            if not token:
                return

    def retries(self) -> Retries:
        """Return the retries of an operation that begins now."""
        return Retries(self.policy.retry_seconds)


def raise_first(errors: Sequence[MdmError | None]) -> None:
    """Raise the first error, if there is one."""
    for error in errors:
        if error is not None:
            raise error
