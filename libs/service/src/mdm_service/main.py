"""The command line of every service: serve, migrate, check-config."""

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import grpc
import psycopg
from psycopg_pool import ConnectionPool

from mdm_service import database, logs, metrics, settings
from mdm_service.authentication import Authenticator
from mdm_service.errors import ConfigurationError
from mdm_service.server import ServiceServer
from mdm_service.settings import ServiceSettings

S = TypeVar("S", bound=ServiceSettings)
_log = logging.getLogger(__name__)


@dataclass
class Runtime:
    """What a service's composition root is given to build on."""

    service_server: ServiceServer
    pool: ConnectionPool | None
    authenticator: Authenticator
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

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Call `callback` at shutdown, after the last call has ended, last registered first."""
        self._callbacks.append(callback)

    def close(self) -> None:
        """Run the shutdown callbacks and close the pool."""
        for callback in reversed(self._callbacks):
            callback()
        if self.pool is not None:
            self.pool.close()


def run(name: str, settings_class: type[S], build: Callable[[S, Runtime], None], migrations: Sequence[str] = ()) -> None:
    """Be the whole `main` of service `name`: parse the command line, do it, exit."""
    parser = argparse.ArgumentParser(prog=f"mdm-{name}")
    parser.add_argument("command", choices=("serve", "migrate", "check-config"))
    parser.add_argument("--migrate", action="store_true", help="serve: bring the database to this program's version first")
    parser.add_argument("--config", type=Path, required=True, help="TOML file; see config.example.toml")
    arguments = parser.parse_args()
    try:
        loaded = settings.load(settings_class, name, arguments.config)
        logs.configure(name, loaded.log.level)
        if arguments.command == "migrate":
            _migrate(loaded, migrations)
        elif arguments.command == "check-config":
            check(loaded)
        else:
            if arguments.migrate:
                _migrate(loaded, migrations)
            serve(loaded, build, migrations)
    except ConfigurationError as error:
        sys.exit(f"mdm-{name}: {error}")
    except psycopg.OperationalError as error:
        sys.exit(f"mdm-{name}: database: {str(error).splitlines()[0]}")


def check(loaded: ServiceSettings) -> None:
    """Read every file the configuration names.

    Raises:
        ConfigurationError: one of them cannot be used.
    """
    loaded.authenticator()
    for path in (loaded.tls.certificate, loaded.tls.key, loaded.tls.ca):
        if not path.is_file():
            raise ConfigurationError(f"tls: {path}: no such file")
    if loaded.database is not None:
        loaded.database.full_conninfo()


def serve(loaded: S, build: Callable[[S, Runtime], None], migrations: Sequence[str]) -> None:
    """Serve until SIGTERM or SIGINT, then shut down gracefully."""
    check(loaded)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    runtime = start(loaded, build, migrations)
    _log.info("serving", extra={"port": runtime.service_server.port})
    stopping.wait()
    _log.info("stopping")
    runtime.service_server.stop()
    runtime.close()


def start(loaded: S, build: Callable[[S, Runtime], None], migrations: Sequence[str] = ()) -> Runtime:
    """Open the pool, check the schema, build the service, and serve in the background.

    Raises:
        ConfigurationError: something it needs cannot be used; nothing is left open.
    """
    authenticator = loaded.authenticator()
    pool = None
    if loaded.database is not None:
        with psycopg.connect(loaded.database.full_conninfo()) as connection:
            database.check_schema(connection, migrations)
        pool = database.open_pool(loaded.database)
    server = ServiceServer(loaded.listen, loaded.tls, authenticator, threads=loaded.threads)
    runtime = Runtime(server, pool, authenticator)
    try:
        build(loaded, runtime)
        if loaded.reflection:
            server.enable_reflection()
        if loaded.metrics.port:
            runtime.on_stop(metrics.serve_metrics(loaded.metrics, loaded.tls, authenticator))
        server.start()
    except BaseException:
        server.stop(0)
        runtime.close()
        raise
    return runtime


def _migrate(loaded: ServiceSettings, migrations: Sequence[str]) -> None:
    if loaded.database is None:
        raise ConfigurationError("database: this service needs a [database] section")
    for name in database.migrate(loaded.database.full_conninfo(), migrations):
        _log.info("applied", extra={"migration": name})
