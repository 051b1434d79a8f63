"""Services under test: their configuration; one in this process over real mutual TLS, or a program of several workers; calling it."""

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from mdm_service.identity.caller import Authenticator, Membership
from mdm_service.identity.trust import Authority, TrustStore
from mdm_service.server.server import ServiceServer
from mdm_service.settings import Address, TlsSettings
from mdm_site.pki import DevelopmentCa
from mdm_wire.tls import Identity, secure_channel

from mdm_testing.process import START_SECONDS, eventually, running_process


def configuration(pki: DevelopmentCa, name: str, conninfo: str, *, port: int = 0, **sections: Any) -> dict[str, Any]:
    """Return a service's configuration, for its settings class or as TOML: it listens on 127.0.0.1 with a certificate of that name.

    `sections` are added; `database` is added to the section of that name.
    """
    tls = pki.issue(pki.subject(name))
    return {
        "listen": {"host": "127.0.0.1", "port": port},
        "tls": {"certificate": tls.certificate, "key": tls.key, "ca": tls.ca},
        "trust": {"ca": [{"certificate": tls.ca, "namespaces": [pki.namespace]}]},
        **sections,
        "database": {"conninfo": conninfo, **sections.get("database", {})},
    }


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
    with secure_channel(address, identity, [("grpc.use_local_subchannel_pool", 1)]) as opened:
        yield opened


def answering(address: str, identity: Identity) -> Callable[[], bool]:
    """Return a probe that returns whether a gRPC server answers at an address over mutual TLS."""

    def probe() -> bool:
        with channel(address, identity) as opened:
            try:
                grpc.channel_ready_future(opened).result(timeout=5)
            except grpc.FutureTimeoutError:
                return False
            return True

    return probe


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

    def wait_for(self, workers: int) -> None:
        """Wait until so many workers have begun to serve since the start."""

        def serve() -> bool:
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.said}"
            return len(self.pids) >= workers

        eventually(serve, START_SECONDS)

    def _logged(self, message: str) -> list[dict[str, Any]]:
        lines = [line for line in self.said.splitlines() if line.startswith("{") and line.endswith("}")]
        return [entry for entry in map(json.loads, lines) if entry["message"] == message]


@contextmanager
def serve_by_workers(program: Sequence[str], configuration: Path, workers: int, *, migrate: bool = False) -> Iterator[WorkersProcess]:
    """Have a program serve a configuration until the block ends."""
    log = configuration.with_suffix(".log")
    command = [*program, "serve", *(["--migrate"] if migrate else []), "--config", str(configuration), "--workers", str(workers)]
    log.unlink(missing_ok=True)
    with running_process(command, log, lambda: True) as process:
        started = WorkersProcess(process, log, workers)
        started.wait_for(workers)
        yield started
