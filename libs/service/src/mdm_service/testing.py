"""Help for tests of services: run one in this process over real mutual TLS, and call it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc

from mdm_service.authentication import Authenticator
from mdm_service.membership import Membership
from mdm_service.server import ServiceServer
from mdm_service.settings import Address, TlsSettings
from mdm_service.trust import Authority, TrustStore


class Identity(Protocol):
    """Paths of a certificate, its key and the trusted roots, as a development authority issues them."""

    @property
    def certificate(self) -> Path:
        """The certificate, PEM."""

    @property
    def key(self) -> Path:
        """Its private key, PEM."""

    @property
    def ca(self) -> Path:
        """The trusted roots, PEM."""


@dataclass(frozen=True)
class RunningServer:
    """A server on a free port of 127.0.0.1."""

    server: ServiceServer
    authenticator: Authenticator

    @property
    def address(self) -> str:
        """host:port of the listener."""
        return f"127.0.0.1:{self.server.port}"


@contextmanager
def serve_in_process(
    identity: Identity,
    register: Callable[[ServiceServer, Authenticator], None],
    *,
    namespaces: tuple[str, ...],
    crl: Path | None = None,
    ban_list: Path | None = None,
    groups: Path | None = None,
    roles: Mapping[str, tuple[str, ...]] | None = None,
    threads: int = 32,
    stall_seconds: float = 60.0,
) -> Iterator[RunningServer]:
    """Serve what `register(server, authenticator)` adds (`server.grpc` is the grpc.Server) until the block ends."""
    authority = Authority.load(identity.ca, namespaces, crl)
    authenticator = Authenticator(TrustStore((authority,), ban_list), Membership(groups), roles or {})
    tls = TlsSettings(certificate=identity.certificate, key=identity.key, ca=identity.ca)
    server = ServiceServer(Address(port=0), tls, authenticator, threads=threads, stall_seconds=stall_seconds)
    register(server, authenticator)
    server.start()
    try:
        yield RunningServer(server, authenticator)
    finally:
        server.stop(grace=0.5)


@contextmanager
def channel(address: str, identity: Identity) -> Iterator[grpc.Channel]:
    """Open a mutual-TLS channel with a client's identity."""
    credentials = grpc.ssl_channel_credentials(identity.ca.read_bytes(), identity.key.read_bytes(), identity.certificate.read_bytes())
    options = (("grpc.max_receive_message_length", 32 * 1024 * 1024), ("grpc.max_send_message_length", 32 * 1024 * 1024))
    with grpc.secure_channel(address, credentials, options=options) as opened:
        yield opened
