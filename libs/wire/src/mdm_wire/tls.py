"""A channel over mutual TLS, and the files of the identity that opens it. It imports little: health checks load it every few seconds."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc

MAX_MESSAGE_BYTES = 64 * 1024 * 1024

# Services are reached directly, never through a proxy that the environment names.
_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)


class Identity(Protocol):
    """PEM files: a certificate (chain), its private key, the roots that are trusted."""

    @property
    def certificate(self) -> Path:
        """The certificate, with its chain if any."""

    @property
    def key(self) -> Path:
        """The private key, unencrypted."""

    @property
    def ca(self) -> Path:
        """The roots."""


@dataclass(frozen=True)
class TlsFiles:
    """The files of one identity."""

    certificate: Path
    key: Path
    ca: Path


def secure_channel(
    address: str, identity: Identity, options: Iterable[tuple[str, Any]] = (), metadata: tuple[str, Callable[[], str]] | None = None
) -> grpc.Channel:
    """Return a channel to the server at `host:port`, whose certificate must name the host; connecting happens with the first call.

    `metadata` are a key and what gives its value, sent with each call.

    Raises:
        OSError: a file cannot be read, or is empty, as it may be while it is replaced; gRPC would abort the process.
    """
    files = (identity.ca, identity.key, identity.certificate)
    contents = [path.read_bytes() for path in files]
    if not all(contents):
        raise OSError(f"{files[contents.index(b'')]}: the file is empty")
    credentials = grpc.ssl_channel_credentials(*contents)
    if metadata is not None:
        credentials = grpc.composite_channel_credentials(credentials, grpc.metadata_call_credentials(_Metadata(*metadata)))
    return grpc.secure_channel(address, credentials, options=(*_OPTIONS, *options))


class _Metadata(grpc.AuthMetadataPlugin):
    """Sends a value with each call."""

    def __init__(self, key: str, value: Callable[[], str]) -> None:
        self._key, self._value = key, value

    def __call__(self, context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
        """Give gRPC the value; an error ends the call."""
        try:
            callback(((self._key, self._value()),), None)
        except Exception as error:
            callback((), error)
