"""Mutual-TLS channels to the services; several addresses of one service are used in turn."""

import copy
import itertools
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.experimental

from mdm_wire.delegation import METADATA_KEY
from mdm_wire.errors import Invalid, Unauthenticated
from mdm_wire.retry import Backoff, Retries, is_idempotent
from mdm_wire.tls import TlsFiles, secure_channel
from mdm_wire.validity import is_usable

if TYPE_CHECKING:
    from cryptography import x509

# How long an address that failed is left out while others remain.
_AVOID_SECONDS = 2.0
# How long one address may take to answer before a call that is sent once looks at the next one.
_CONNECT_SECONDS = 5.0
_PROBE = "/grpc.health.v1.Health/Check"
_PAUSE_SECONDS = 0.2
# A single address that answered within this time is not asked again whether it is up.
_FRESH_SECONDS = 1.0

_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # Files of hundreds of kilobytes travel whole: do not start them with a 64 KiB window.
    ("grpc.http2.lookahead_bytes", 4 * 1024 * 1024),
    ("grpc.lb_policy_name", "round_robin"),
    # A pool of its own: two channels of one process never share (and never block) a connection.
    ("grpc.use_local_subchannel_pool", 1),
    # gRPC itself repeats only what the server has not seen; no name server may make it repeat more.
    ("grpc.service_config_disable_resolution", 1),
    # Streamed answers are read by the thread that asks: handing each message over from another one doubles what a small answer costs.
    (grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1),
]


def read_certificate(path: Path) -> "x509.Certificate":
    """Return the first certificate of a PEM file.

    Raises:
        Invalid: CERTIFICATE_UNREADABLE.
    """
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Invalid("CERTIFICATE_UNREADABLE", f"{path}: no readable certificate ({_why(error)})") from error


def check_files(tls: TlsFiles) -> None:
    """Check an identity and its roots, fast where all is well; errors as `check_identity`, and Invalid for the roots."""
    if not is_usable(tls, datetime.now(UTC)):
        check_identity(tls)
        read_certificate(tls.ca)


def check_identity(tls: TlsFiles, now: datetime | None = None) -> "x509.Certificate":
    """Return the certificate of `tls`, checked as far as possible without a server.

    Raises:
        Unauthenticated: CERTIFICATE_EXPIRED or CERTIFICATE_NOT_YET_VALID.
        Invalid: a file is unreadable, or the key is not the certificate's (KEY_MISMATCH).
    """
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    certificate = read_certificate(tls.certificate)
    moment = now or datetime.now(UTC)
    if moment > certificate.not_valid_after_utc:
        when = certificate.not_valid_after_utc.strftime("%Y-%m-%d %H:%M UTC")
        raise Unauthenticated(
            "CERTIFICATE_EXPIRED",
            f"{tls.certificate}: your certificate expired on {when}; ask for a new one",
        )
    if moment < certificate.not_valid_before_utc:
        when = certificate.not_valid_before_utc.strftime("%Y-%m-%d %H:%M UTC")
        raise Unauthenticated(
            "CERTIFICATE_NOT_YET_VALID",
            f"{tls.certificate}: your certificate is valid only from {when}; check this machine's clock",
        )
    try:
        key = load_pem_private_key(tls.key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise Invalid("KEY_UNREADABLE", f"{tls.key}: no readable unencrypted key ({_why(error)})") from error
    if key.public_key() != certificate.public_key():
        raise Invalid("KEY_MISMATCH", f"{tls.key}: this key does not belong to {tls.certificate}")
    return certificate


def open_channel(addresses: Sequence[str], tls: TlsFiles, connect_seconds: float | None = None, token: str = "") -> grpc.Channel:
    """Return a channel to one service over mutual TLS; it connects with the first call.

    Each address is `host:port` and each server's certificate must name its own host. With several addresses calls
    take turns. If one is down, a unary call tries the next: an idempotent one (see `mdm_wire.retry`) after any UNAVAILABLE, another
    one only before it is sent (see `UnaryMethod`). Looking up one address, or connecting to it until TLS and HTTP/2
    are agreed on, takes at most `connect_seconds` (gRPC's default: minutes, 20 s). `token` is that of a delegation, sent with each call.

    Raises:
        Unauthenticated, Invalid: as `check_files`.
    """
    if not addresses:
        raise Invalid("NO_ADDRESS", "a service needs at least one address host:port")
    check_files(tls)
    options = _OPTIONS if connect_seconds is None else [*_OPTIONS, *_connecting_within(connect_seconds)]
    metadata = (METADATA_KEY, lambda: token) if token else None
    channels = [secure_channel(address, tls, options, metadata) for address in addresses]
    return RotatingChannel(channels)


def _connecting_within(seconds: float) -> list[tuple[str, Any]]:
    milliseconds = max(1, round(seconds * 1000))
    # gRPC lets an attempt to connect take as long as it would wait before the next one.
    return [("grpc.min_reconnect_backoff_ms", milliseconds), ("grpc.dns_ares_query_timeout", milliseconds)]


class RotatingChannel(grpc.Channel):
    """One or more channels as one: calls take turns, and one that just failed is avoided for a moment.

    gRPC's own list of addresses (`ipv4:a,b`) checks every server's certificate against one name; here each
    server answers for its own.
    """

    def __init__(self, channels: Sequence[grpc.Channel]) -> None:
        self._channels = list(channels)
        self._turn = itertools.count()
        self._avoid_until = [0.0] * len(self._channels)
        self._fresh_until = 0.0
        self._preferred: int | None = None
        # Raw bytes: only whether there is an answer counts, and an empty request is valid.
        self._probes: list[Any] = [channel.unary_unary(_PROBE) for channel in self._channels]

    def __len__(self) -> int:
        return len(self._channels)

    def preferring(self, index: int) -> "RotatingChannel":
        """Return a view whose calls go to one of the channels, and round the others only while that one is avoided."""
        view = copy.copy(self)
        view._preferred = index
        return view

    def only(self, index: int) -> "RotatingChannel":
        """Return a view whose calls go to one of the channels alone; what becomes of them is noted there only."""
        return RotatingChannel([self._channels[index]])

    def order(self) -> list[int]:
        """Return the indexes of the channels in the order to try them now."""
        start = next(self._turn) if self._preferred is None else self._preferred
        count = len(self._channels)
        turn = [(start + offset) % count for offset in range(count)]
        now = time.monotonic()
        return sorted(turn, key=lambda index: self._avoid_until[index] > now)

    def note(self, index: int, code: grpc.StatusCode | None) -> None:
        """Record whether the channel could be reached."""
        down, now = code is grpc.StatusCode.UNAVAILABLE, time.monotonic()
        self._avoid_until[index] = now + _AVOID_SECONDS if down else 0.0
        self._fresh_until = 0.0 if down else now + _FRESH_SECONDS

    def noted(self, index: int) -> Callable[[Any], None]:
        """Return a callback that records how a call ended."""
        return lambda done: self.note(index, done.code())

    def connected(self, wait_seconds: float) -> int:
        """Return the index of a channel that answers; after `wait_seconds` without an answer, that of the next in turn."""
        order = self.order()
        if len(order) == 1 and time.monotonic() < self._fresh_until:
            return order[0]
        retries = Retries(wait_seconds, Backoff(_PAUSE_SECONDS, _PAUSE_SECONDS))
        while True:
            for index in order:
                if self._answers(index):
                    return index
            if not retries.pause():
                return order[0]

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return a callable that uses the channels in turn."""
        return UnaryMethod(self, method, [channel.unary_unary(method, *args, **kwargs) for channel in self._channels])

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        """Return a callable that uses the channels in turn."""
        return self._rotating([channel.unary_stream(*args, **kwargs) for channel in self._channels])

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        """Return a callable that uses the channels in turn."""
        return self._rotating([channel.stream_unary(*args, **kwargs) for channel in self._channels])

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        """Return a callable that uses the channels in turn."""
        return self._rotating([channel.stream_stream(*args, **kwargs) for channel in self._channels])

    def subscribe(self, callback: Callable[..., Any], try_to_connect: bool = False) -> None:
        """Report every channel's connectivity to `callback`."""
        for channel in self._channels:
            channel.subscribe(callback, try_to_connect=try_to_connect)

    def unsubscribe(self, callback: Callable[..., Any]) -> None:
        """Stop reporting to `callback`."""
        for channel in self._channels:
            channel.unsubscribe(callback)

    def close(self) -> None:
        """Close every channel."""
        for channel in self._channels:
            channel.close()

    def __enter__(self) -> "RotatingChannel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answers(self, index: int) -> bool:
        """Return whether the server behind a channel answers now; a refusal is an answer."""
        try:
            self._probes[index](b"", timeout=_CONNECT_SECONDS)
        except grpc.RpcError as error:
            code = _code(error)
            self.note(index, code)
            return code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        self.note(index, grpc.StatusCode.OK)
        return True

    def _rotating(self, callables: Sequence[Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            index = self.order()[0]
            answer = callables[index](*args, **kwargs)
            if isinstance(answer, grpc.Future):
                answer.add_done_callback(self.noted(index))
            return answer

        return call


class UnaryMethod:
    """A unary method of a service at one or more addresses.

    A call of an idempotent method tries the next address when one cannot be reached. Any other call is sent at most once: a health
    check, which changes nothing, first finds an address that answers. UNAVAILABLE does not say whether the connection was refused or
    was lost after the server acted, so such a call is never sent again after it.
    """

    def __init__(self, owner: RotatingChannel, name: str, callables: Sequence[Any]) -> None:
        self._owner = owner
        self._callables = callables
        self.is_idempotent = is_idempotent(name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.with_call(*args, **kwargs)[0]

    def with_call(self, *args: Any, **kwargs: Any) -> Any:
        return self._repeated(*args, **kwargs) if self.is_idempotent else self._sent(self._owner.connected(0), *args, **kwargs)

    def once(self, request: Any, timeout: float | None, wait_seconds: float) -> Any:
        """Return the response to one sending of `request`, which waits for a connection for at most `wait_seconds`."""
        return self._sent(self._owner.connected(wait_seconds), request, timeout=timeout)[0]

    def _repeated(self, *args: Any, **kwargs: Any) -> Any:
        order = self._owner.order()
        for index in order[:-1]:
            try:
                return self._sent(index, *args, **kwargs)
            except grpc.RpcError as error:
                if _code(error) is not grpc.StatusCode.UNAVAILABLE:
                    raise
        return self._sent(order[-1], *args, **kwargs)

    def _sent(self, index: int, *args: Any, **kwargs: Any) -> Any:
        try:
            answer = self._callables[index].with_call(*args, **kwargs)
        except grpc.RpcError as error:
            self._owner.note(index, _code(error))
            raise
        self._owner.note(index, grpc.StatusCode.OK)
        return answer

    def future(self, *args: Any, **kwargs: Any) -> Any:
        index = self._owner.order()[0]
        answer = self._callables[index].future(*args, **kwargs)
        answer.add_done_callback(self._owner.noted(index))
        return answer


def _code(error: grpc.RpcError) -> grpc.StatusCode | None:
    return error.code() if isinstance(error, grpc.Call) else None


def _why(error: Exception) -> str:
    return error.strerror or "unreadable" if isinstance(error, OSError) else "not valid PEM"
