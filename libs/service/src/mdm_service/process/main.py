"""The command line of every service: serve, migrate, check-config."""

import argparse
import contextlib
import logging
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import grpc
import psycopg
from psycopg_pool import ConnectionPool

from mdm_service import database, settings
from mdm_service.identity import revocation
from mdm_service.identity.caller import Authenticator
from mdm_service.identity.delegation import DelegationVerifier
from mdm_service.process.supervisor import ORPHAN_GRACE_SECONDS, Supervisor, Worker, reserve
from mdm_service.process.target import Target, database_target, report, try_all
from mdm_service.server import monitoring
from mdm_service.server.monitoring import DependencyWatch
from mdm_service.server.server import GRACE_SECONDS, ServiceServer
from mdm_service.settings import MAX_WORKERS, Address, ConfigurationError, ServiceSettings

S = TypeVar("S", bound=ServiceSettings)
_log = logging.getLogger(__name__)


@dataclass
class Runtime:
    """The server and the pool that a service's `__main__` builds on, and its shutdown callbacks."""

    service_server: ServiceServer
    pool: ConnectionPool | None
    authenticator: Authenticator
    #: The number of the worker that this process is, from 1; 0 where it is the only process.
    worker: int = 0
    _callbacks: list[Callable[[], None]] = field(default_factory=list)

    @property
    def server(self) -> grpc.Server:
        """The server to register servicers on."""
        return self.service_server.grpc

    @property
    def database(self) -> ConnectionPool:
        """The pool, for services that have a database.

        Raises:
            ConfigurationError: the configuration has no `[database]`.
        """
        if self.pool is None:
            raise ConfigurationError("database: this service needs a [database] section")
        return self.pool

    def add_service(self, full_name: str) -> None:
        """Announce a registered service to health and reflection."""
        self.service_server.add_service(full_name)

    def watch(self, name: str, ask: Callable[[], object]) -> None:
        """Report by health, metric and log whether a dependency answers: `ask` raises where it does not."""
        watch = DependencyWatch(name, ask, self.service_server.set_health)
        self.on_stop(watch.stop)
        watch.start()

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Call `callback` at shutdown, after the last call has ended, last registered first."""
        self._callbacks.append(callback)

    def close(self) -> None:
        """Run the shutdown callbacks and close the pool."""
        for callback in reversed(self._callbacks):
            callback()
        if self.pool is not None:
            self.pool.close()


#: What a service connects to besides its database, each tried for at most that many seconds.
TargetsOf = Callable[[S, float], Sequence[Target]]


def run(
    name: str,
    settings_class: type[S],
    build: Callable[[S, Runtime], None],
    migrations: Sequence[str] = (),
    targets: TargetsOf[S] | None = None,
) -> None:
    """Run service `name`: parse the command line, carry it out, exit."""
    arguments = _parser(name).parse_args()
    worker: Worker | None = arguments.as_worker
    try:
        loaded = settings.load(settings_class, name, arguments.config)
        if arguments.workers is not None:
            loaded = loaded.model_copy(update={"workers": arguments.workers})
        monitoring.configure_log(name, loaded.log.level, worker.number if worker else None)
        if arguments.command == "migrate":
            _migrate(loaded, migrations)
        elif arguments.command == "check-config":
            check(loaded)
            _print_totals(name, loaded)
            if arguments.connect:
                sys.exit(connect(loaded, migrations, targets, arguments.timeout))
        else:
            if arguments.migrate and worker is None:
                _migrate(loaded, migrations)
            if loaded.workers > 1 and worker is None:
                sys.exit(supervise(name, loaded, migrations))
            serve(loaded, build, migrations, worker)
    except ConfigurationError as error:
        sys.exit(f"mdm-{name}: {error}")
    except psycopg.OperationalError as error:
        sys.exit(f"mdm-{name}: database: {str(error).splitlines()[0]}")


def check(loaded: ServiceSettings) -> None:
    """Read every file the configuration names.

    Raises:
        ConfigurationError: one of them cannot be used.
    """
    Authenticator.from_settings(loaded)
    for path in (loaded.tls.certificate, loaded.tls.key, loaded.tls.ca):
        if not path.is_file():
            raise ConfigurationError(f"tls: {path}: no such file")
    if loaded.database is not None:
        loaded.database.full_conninfo()


def connect(loaded: S, migrations: Sequence[str], targets: TargetsOf[S] | None, seconds: float) -> int:
    """Try every target that the service connects to and print the answers; return 1 if any failed, else 0."""
    asked = [*(targets(loaded, seconds) if targets else ())]
    if loaded.database is not None:
        asked.insert(0, database_target(loaded.database, migrations, seconds))
    answers = try_all(asked, seconds)
    sys.stdout.write("".join(f"{line}\n" for line in report(answers)))
    return 0 if all(answer.ok for answer in answers) else 1


def supervise(name: str, loaded: ServiceSettings, migrations: Sequence[str]) -> int:
    """Serve by several processes on one port until SIGTERM or SIGINT; return the exit code. Metrics are served here, for all of them."""
    check(loaded)
    if loaded.database is not None:
        with psycopg.connect(loaded.database.full_conninfo()) as connection:
            database.check_schema(connection, migrations)
            allowed = database.allowed_connections(connection)
        if loaded.connections > allowed:
            _log.warning(
                "workers may want more database connections than there are", extra={"wanted": loaded.connections, "allowed": allowed}
            )
    with contextlib.ExitStack() as stack:
        reservation = stack.enter_context(contextlib.closing(reserve(loaded.listen)))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"mdm-{name}-metrics-")))
        registry = monitoring.registry_of_workers(directory)
        supervisor = Supervisor([sys.executable, *sys.orig_argv[1:]], loaded.workers, reservation.port, directory, registry)
        if loaded.metrics.port:
            stack.callback(monitoring.serve_metrics(loaded.metrics, loaded.tls, Authenticator.from_settings(loaded), registry))
        _log.info("serving by workers", extra={"port": reservation.port, "workers": loaded.workers})
        return supervisor.run()


def serve(loaded: S, build: Callable[[S, Runtime], None], migrations: Sequence[str], worker: Worker | None = None) -> None:
    """Serve until SIGTERM or SIGINT, or the death of a worker's supervisor, then shut down gracefully."""
    stopping = threading.Event()
    if worker is not None:
        worker.watch(stopping)
    check(loaded)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    runtime = start(loaded, build, migrations, worker)
    _log.info("serving", extra={"port": runtime.service_server.port})
    if worker is not None:
        worker.report_ready()
    stopping.wait()
    _log.info("stopping")
    runtime.service_server.stop(ORPHAN_GRACE_SECONDS if worker is not None and worker.is_orphaned else GRACE_SECONDS)
    runtime.close()
    if worker is not None:
        worker.clean_up()


def start(loaded: S, build: Callable[[S, Runtime], None], migrations: Sequence[str] = (), worker: Worker | None = None) -> Runtime:
    """Open the pool, check the schema, build the service, and serve in the background; a worker does so on its supervisor's port.

    Raises:
        ConfigurationError: something it needs cannot be used; nothing is left open.
    """
    authenticator = Authenticator.from_settings(loaded)
    pool = None
    if loaded.database is not None:
        with psycopg.connect(loaded.database.full_conninfo()) as connection:
            database.check_schema(connection, migrations)
        pool = database.open_pool(loaded.database)
    address = loaded.listen if worker is None else Address(host=loaded.listen.host, port=worker.port)
    server = ServiceServer(address, loaded.tls, authenticator, threads=loaded.threads, shared=worker is not None)
    _accept_delegations(loaded, authenticator, server, pool, migrations)
    runtime = Runtime(server, pool, authenticator, worker.number if worker else 0)
    try:
        build(loaded, runtime)
        if loaded.reflection:
            server.enable_reflection()
        if loaded.metrics.port and worker is None:
            runtime.on_stop(monitoring.serve_metrics(loaded.metrics, loaded.tls, authenticator))
        server.start()
    except BaseException:
        server.stop(0)
        runtime.close()
        raise
    return runtime


def _accept_delegations(
    loaded: ServiceSettings, authenticator: Authenticator, server: ServiceServer, pool: ConnectionPool | None, migrations: Sequence[str]
) -> None:
    """Let jobs show delegations to a service that can keep which of them are revoked."""
    if pool is None or revocation.MIGRATIONS not in migrations or not loaded.delegation.audiences:
        return
    revocations, seconds = revocation.Revocations(pool), loaded.delegation.max_seconds
    verifier = DelegationVerifier(authenticator.trust, loaded.delegation.audiences, seconds, revocations.is_revoked)
    authenticator.accept_delegations(verifier)
    revocation.add_delegation_service(server.grpc, revocations, seconds)
    server.add_service(revocation.FULL_NAME)


def _migrate(loaded: ServiceSettings, migrations: Sequence[str]) -> None:
    if loaded.database is None:
        raise ConfigurationError("database: this service needs a [database] section")
    for name in database.migrate(loaded.database.full_conninfo(), migrations):
        _log.info("applied", extra={"migration": name})


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"mdm-{name}")
    parser.add_argument("command", choices=("serve", "migrate", "check-config"))
    parser.add_argument("--migrate", action="store_true", help="serve: bring the database to this program's version first")
    parser.add_argument("--workers", type=_count, help="processes that share the port (default: as configured)")
    parser.add_argument("--config", type=Path, required=True, help="TOML file; see config.example.toml")
    parser.add_argument("--connect", action="store_true", help="check-config: also try everything that the service connects to")
    parser.add_argument("--timeout", type=_seconds, default=10.0, help="--connect: seconds for each (default: 10)")
    parser.add_argument("--as-worker", type=Worker.parse, help=argparse.SUPPRESS)  # what a supervisor starts its workers with
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_WORKERS:
        raise argparse.ArgumentTypeError(f"needs a number from 1 to {MAX_WORKERS}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError("needs a number of seconds, at most 3600")
    return seconds


def _print_totals(name: str, loaded: ServiceSettings) -> None:
    """Print the threads and connections of all workers together, since each has as many as configured."""
    if loaded.workers > 1:
        connections = f" and {loaded.connections} database connections" if loaded.database else ""
        sys.stdout.write(f"mdm-{name}: {loaded.workers} workers: at most {loaded.workers * loaded.threads} calls{connections} at a time\n")
