"""Help for tests of services: run one in this process over real mutual TLS, or as a program by several workers, and call it."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc
from mdm_service.identity.authentication import Authenticator
from mdm_service.identity.membership import Membership
from mdm_service.identity.trust import Authority, TrustStore
from mdm_service.server.server import ServiceServer
from mdm_service.settings import Address, TlsSettings


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
    """Open a mutual-TLS channel with a client's identity, on a connection of its own."""
    credentials = grpc.ssl_channel_credentials(identity.ca.read_bytes(), identity.key.read_bytes(), identity.certificate.read_bytes())
    options = (
        ("grpc.max_receive_message_length", 32 * 1024 * 1024),
        ("grpc.max_send_message_length", 32 * 1024 * 1024),
        ("grpc.use_local_subchannel_pool", 1),
    )
    with grpc.secure_channel(address, credentials, options=options) as opened:
        yield opened


class WorkersProcess:
    """A service as a program of its own, by one process or several workers, known by what it logs."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, workers: int) -> None:
        self.process = process
        self._workers = workers
        self._log = log

    @property
    def said(self) -> str:
        """All that the program has written."""
        return self._log.read_text()

    @property
    def address(self) -> str:
        """host:port of the listener."""
        return f"127.0.0.1:{(self._logged('serving by workers') or self._logged('serving'))[0]['port']}"

    @property
    def pids(self) -> list[int]:
        """The process ids of all workers that ever served, in that order; where there is only one, it is the program itself."""
        if self._workers == 1:
            return [self.process.pid] if self._logged("serving") else []
        return [line["pid"] for line in self._logged("worker serves")]

    def wait_for(self, workers: int, seconds: float = 60.0) -> None:
        """Wait until so many workers have begun to serve since the start."""
        end = time.monotonic() + seconds
        while len(self.pids) < workers:
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.said}"
            assert time.monotonic() < end, self.said
            time.sleep(0.05)

    def _logged(self, message: str) -> list[dict[str, Any]]:
        lines = [line for line in self.said.splitlines() if line.startswith("{") and line.endswith("}")]
        return [entry for entry in map(json.loads, lines) if entry["message"] == message]


@contextmanager
def serve_by_workers(program: Sequence[str], configuration: Path, workers: int, *, migrate: bool = False) -> Iterator[WorkersProcess]:
    """Have a program serve a configuration until the block ends."""
    log = configuration.with_suffix(".log")
    command = [*program, "serve", *(["--migrate"] if migrate else []), "--config", str(configuration), "--workers", str(workers)]
    with log.open("wb") as output, subprocess.Popen(command, stderr=output) as process:
        try:
            started = WorkersProcess(process, log, workers)
            started.wait_for(workers)
            yield started
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
