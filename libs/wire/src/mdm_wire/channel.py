"""Mutual-TLS channels to the services; several addresses of one service are used in turn."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import grpc.experimental
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from mdm_wire.errors import Invalid, Unauthenticated

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
# How long an address that failed is left out while others remain.
_AVOID_SECONDS = 2.0

_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # Files of hundreds of kilobytes travel whole: do not start them with a 64 KiB window.
    ("grpc.http2.lookahead_bytes", 4 * 1024 * 1024),
    ("grpc.lb_policy_name", "round_robin"),
    # An own pool: two channels of one process never share (and never block) a connection.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    # Streamed answers are read by the thread that asks: handing each message over from another one doubles what a small answer costs.
    (grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1),
]


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of one identity: its certificate (chain), its private key, the roots it trusts."""

    certificate: Path
    key: Path
    ca: Path


def read_certificate(path: Path) -> x509.Certificate:
    """Return the first certificate of a PEM file.

    Raises:
        Invalid: CERTIFICATE_UNREADABLE.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Invalid("CERTIFICATE_UNREADABLE", f"{path}: no readable certificate ({_why(error)})") from error


def check_identity(tls: TlsFiles, now: datetime | None = None) -> x509.Certificate:
    """Return the certificate of `tls` after checking what can be checked without a server.

    Raises:
        Unauthenticated: CERTIFICATE_EXPIRED or CERTIFICATE_NOT_YET_VALID.
        Invalid: a file is unreadable, or the key is not the certificate's (KEY_MISMATCH).
    """
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


def open_channel(addresses: Sequence[str], tls: TlsFiles, connect_seconds: float | None = None) -> grpc.Channel:
    """Return a channel to one service over mutual TLS; connecting happens with the first call.

    Each address is `host:port` and each server's certificate must name its own host. With several addresses calls
    go round them, and a unary call that finds one down tries the next. Looking up one address, or connecting to it until TLS and HTTP/2
    are agreed on, takes at most `connect_seconds` (gRPC's default: minutes, 20 s).

    Raises:
        Unauthenticated, Invalid: as `check_identity`.
    """
    if not addresses:
        raise Invalid("NO_ADDRESS", "a service needs at least one address host:port")
    check_identity(tls)
    read_certificate(tls.ca)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=tls.ca.read_bytes(),
        private_key=tls.key.read_bytes(),
        certificate_chain=tls.certificate.read_bytes(),
    )
    options = _OPTIONS if connect_seconds is None else [*_OPTIONS, *_connecting_within(connect_seconds)]
    channels = [grpc.secure_channel(address, credentials, options=options) for address in addresses]
    return channels[0] if len(channels) == 1 else RotatingChannel(channels)


def _connecting_within(seconds: float) -> list[tuple[str, Any]]:
    milliseconds = max(1, round(seconds * 1000))
    # gRPC gives an attempt to connect as long as it would at least wait for the next one.
    return [("grpc.min_reconnect_backoff_ms", milliseconds), ("grpc.dns_ares_query_timeout", milliseconds)]


class RotatingChannel(grpc.Channel):
    """Several channels as one: calls take turns, and one that just failed is avoided for a moment.

    gRPC's own list of addresses (`ipv4:a,b`) checks every server's certificate against one name; here each
    server answers for its own.
    """

    def __init__(self, channels: Sequence[grpc.Channel]) -> None:
        self._channels = list(channels)
        self._turn = itertools.count()
        self._avoid_until = [0.0] * len(self._channels)

    def order(self) -> list[int]:
        """Return the indexes of the channels in the order to try them now."""
        start = next(self._turn)
        count = len(self._channels)
        turn = [(start + offset) % count for offset in range(count)]
        now = time.monotonic()
        return sorted(turn, key=lambda index: self._avoid_until[index] > now)

    def note(self, index: int, code: grpc.StatusCode | None) -> None:
        """Remember whether the channel could be reached."""
        down = code is grpc.StatusCode.UNAVAILABLE
        self._avoid_until[index] = time.monotonic() + _AVOID_SECONDS if down else 0.0

    def noting(self, index: int) -> Callable[[Any], None]:
        """Return a callback for a call that ends: it notes how."""
        return lambda done: self.note(index, done.code())

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        """Return a callable that goes round the channels."""
        return _RotatingUnary(self, [channel.unary_unary(*args, **kwargs) for channel in self._channels])

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        """Return a callable that goes round the channels, one call each."""
        return self._rotating([channel.unary_stream(*args, **kwargs) for channel in self._channels])

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        """Return a callable that goes round the channels, one call each."""
        return self._rotating([channel.stream_unary(*args, **kwargs) for channel in self._channels])

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        """Return a callable that goes round the channels, one call each."""
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

    def _rotating(self, callables: Sequence[Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            index = self.order()[0]
            answer = callables[index](*args, **kwargs)
            if isinstance(answer, grpc.Future):
                answer.add_done_callback(self.noting(index))
            return answer

        return call


class _RotatingUnary:
    """A unary call that tries the next channel when one cannot be reached."""

    def __init__(self, owner: RotatingChannel, callables: Sequence[Any]) -> None:
        self._owner = owner
        self._callables = callables

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.with_call(*args, **kwargs)[0]

    def with_call(self, *args: Any, **kwargs: Any) -> Any:
        order = self._owner.order()
        for index in order:
            try:
                answer = self._callables[index].with_call(*args, **kwargs)
            except grpc.RpcError as error:
                code = error.code() if isinstance(error, grpc.Call) else None
                self._owner.note(index, code)
                if code is not grpc.StatusCode.UNAVAILABLE or index == order[-1]:
                    raise
            else:
                self._owner.note(index, grpc.StatusCode.OK)
                return answer
        raise AssertionError("a rotating channel has no channels")

    def future(self, *args: Any, **kwargs: Any) -> Any:
        index = self._owner.order()[0]
        answer = self._callables[index].future(*args, **kwargs)
        answer.add_done_callback(self._owner.noting(index))
        return answer


def _why(error: Exception) -> str:
    return error.strerror or "unreadable" if isinstance(error, OSError) else "not valid PEM"
