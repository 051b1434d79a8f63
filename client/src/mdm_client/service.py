"""A service as one client sees it: how it is called, in batches, again after a failure, and what its errors say."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import grpc
from mdm_wire.batch import in_batches, item_answers, item_errors
from mdm_wire.errors import MdmError, TimedOut, Unavailable
from mdm_wire.retry import Retries, RetryPolicy, is_busy
from mdm_wire.status import from_rpc_error

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Service:
    """A channel, the service's place in messages, and how calls are repeated."""

    def __init__(self, place: str, channel: grpc.Channel, policy: RetryPolicy) -> None:
        self.place = place
        self.channel = channel
        self.policy = policy

    def call(self, method: Callable[..., Any], request: Any, timeout: float | None = None) -> Any:
        """Return the response of a unary call, each attempt of which may take `timeout` seconds (else `policy.call_seconds`).

        While the service is away, or has too many calls of this caller, it is tried for at most `policy.retry_seconds`: repeated if the
        method declares that it is idempotent, else sent once, when the service answers; see `mdm_wire.channel.UnaryMethod`.

        Raises:
            MdmError: what the service answered, its message beginning with the service's place.
        """
        seconds = timeout or self.policy.call_seconds
        if getattr(method, "is_idempotent", False):
            return self.repeat(lambda: method(request, timeout=seconds))
        return self.call_once(method, request, seconds)

    def call_once(self, method: Callable[..., Any], request: Any, timeout: float | None) -> Any:
        """Return the response of a unary call that is carried out at most once and may take `timeout` seconds, None: any time.

        What a server refuses before it looks at the request, because of other calls of the same caller, is not carried out.

        Raises:
            MdmError: as `call`; where it is Unavailable the call may have been carried out.
        """
        once = getattr(method, "once", None)  # a channel of somebody else's has none
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
        """Return what `attempt`, which is idempotent, returns; repeat it while the service is away or busy."""
        retries = self.retries()
        while True:
            try:
                return attempt()
            except grpc.RpcError as error:
                retries.after(from_rpc_error(error, self.place))

    def resumed(self, start: Callable[[str], Any], parts: Callable[[Any], Iterable[Any]], place: Callable[[Any], str]) -> Iterator[Any]:
        """Yield the parts of a stream that `start` opens after a place, opening it again where it broke."""
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
        """Return what went wrong with each item, None if nothing did, in the order asked, `size` items in a request."""
        return [error for batch in in_batches(items, size) for error in item_errors(batch, self.call(method, request(batch)).statuses)]

    def answers(
        self,
        method: Callable[..., Any],
        items: Iterable[Item],
        request: Callable[[list[Item]], Any],
        size: int,
        value: Callable[[Any], Answer],
    ) -> list[Answer | MdmError]:
        """Return the value that `value` makes of each item's result, or its error, in the order asked, `size` items in a request."""
        return [
            answer for batch in in_batches(items, size) for answer in item_answers(batch, self.call(method, request(batch)).results, value)
        ]

    def pages(self, method: Callable[..., Any], request: Callable[[str], Any]) -> Iterator[Any]:
        """Yield the pages of a listing; `request` gives the request for a page token, empty for the first page."""
        token = ""
        while True:
            page = self.call(method, request(token))
            yield page
            token = page.next_page_token
            if not token:
                return

    def retries(self) -> Retries:
        """Return the attempts of an operation that is about to begin."""
        return Retries(self.policy.retry_seconds)


def raise_first(errors: Sequence[MdmError | None]) -> None:
    """Raise the first error, if there is one."""
    for error in errors:
        if error is not None:
            raise error
