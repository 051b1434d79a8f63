"""PostgreSQL: the connection pool and forward-only migrations."""

import importlib.resources
import re
import select
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import psycopg
from psycopg import conninfo
from psycopg_pool import ConnectionPool

from mdm_service.settings import ConfigurationError, DatabaseSettings

_LOCK = 0x4D444D  # "MDM": one migration at a time per database
_FILE = re.compile(r"^(\d{4})_[a-z0-9_]+\.sql$")


def open_pool(settings: DatabaseSettings) -> ConnectionPool:
    """Return an open pool; connections are checked before use, so a restart of PostgreSQL costs a retry, not an error."""
    return _open(settings.full_conninfo(), settings, _without_jit)


def open_reading_pool(settings: DatabaseSettings, parameters: Mapping[str, str]) -> ConnectionPool:
    """Return an open pool of connections that cannot write; each statement is a transaction with one snapshot, in one round trip.

    PostgreSQL's `parameters` are set when a connection is made. Together with the pool of `open_pool` it has twice `pool_max`.
    """
    whole = settings.full_conninfo()
    given = conninfo.conninfo_to_dict(whole)
    session = {"default_transaction_read_only": "on", "default_transaction_isolation": "repeatable read", "jit": "off", **parameters}
    options = [str(given.get("options") or ""), *("-c " + f"{name}={value}".replace(" ", "\\ ") for name, value in session.items())]
    changed = {"options": " ".join(options)}
    if given.get("target_session_attrs") == "read-write":  # which is what these connections are not, though the server is
        changed["target_session_attrs"] = "primary"
    return _open(conninfo.make_conninfo(whole, **changed), settings, _with_autocommit)


def _open(conninfo: str, settings: DatabaseSettings, configure: Callable[[psycopg.Connection], None]) -> ConnectionPool:
    return ConnectionPool(
        conninfo,
        min_size=settings.pool_min,
        max_size=settings.pool_max,
        timeout=10,
        check=_check,
        configure=configure,
        open=True,
    )


def _check(connection: psycopg.Connection) -> None:
    # PostgreSQL says nothing to an idle connection. What can be read from one is its end, or a notice to be taken before use:
    # only then is a round trip worth its time, which otherwise is a tenth of a call for one row.
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if poll.poll(0):
        ConnectionPool.check_connection(connection)


def _with_autocommit(connection: psycopg.Connection) -> None:
    connection.autocommit = True


def _without_jit(connection: psycopg.Connection) -> None:
    # The planner guesses recursive queries to be enormous, and compiling them then takes a second where running takes a millisecond.
    connection.execute("SET jit = off")
    connection.commit()


@contextmanager
def lock_held(pool: ConnectionPool, number: int) -> Iterator[bool]:
    """Try to get a lock that only one process at a time can have, on whatever machine; yield whether this one has it during the block.

    It has a connection of its own, which the database closes when this process dies.
    """
    with psycopg.connect(str(pool.conninfo), autocommit=True) as connection:
        row = connection.execute("SELECT pg_try_advisory_lock(%s)", (number,)).fetchone()
        held = row is not None and bool(row[0])
        try:
            yield held
        finally:
            if held:
                # The server would notice the end of the connection, and release the lock, only a moment later.
                with suppress(psycopg.OperationalError):
                    connection.execute("SELECT pg_advisory_unlock(%s)", (number,))


def migrate(conninfo: str, components: Sequence[str]) -> list[str]:
    """Apply each component's missing `NNNN_name.sql` files, in order, each in its own transaction; return `component/file` of each.

    A component is a package that holds the files.

    Raises:
        ConfigurationError: the database has migrations that this program does not know, or a number is given twice.
        psycopg.Error: a migration failed; nothing of it is applied.
    """
    applied: list[str] = []
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migration ("
            "component text, number integer, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now(), "
            "PRIMARY KEY (component, number))"
        )
        for component in components:
            done = _applied(connection, component)
            for number, name, sql in _files(component, done):
                if number not in done:
                    with connection.transaction():
                        connection.execute(sql.encode())
                        connection.execute(
                            "INSERT INTO schema_migration (component, number, name) VALUES (%s, %s, %s)",
                            (component, number, name),
                        )
                    applied.append(f"{component}/{name}")
    return applied


def check_schema(connection: psycopg.Connection, components: Sequence[str]) -> None:
    """Refuse a database that is not exactly at this program's version.

    Raises:
        ConfigurationError: migrations are missing, or the database has some that this program does not know.
    """
    for component in components:
        exists = connection.execute("SELECT to_regclass('schema_migration') IS NOT NULL").fetchone()
        done = _applied(connection, component) if exists and exists[0] else set()
        missing = [name for number, name, _ in _files(component, done) if number not in done]
        if missing:
            raise ConfigurationError(f"database: {component} lacks {missing[0]}: run `migrate` first")


def allowed_connections(connection: psycopg.Connection) -> int:
    """Return how many connections the server allows to all roles but its superusers."""
    row = connection.execute("SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int")
    return int(row.fetchall()[0][0])


def _applied(connection: psycopg.Connection, component: str) -> set[int]:
    rows = connection.execute("SELECT number FROM schema_migration WHERE component = %s", (component,)).fetchall()
    return {row[0] for row in rows}


def _files(component: str, done: set[int]) -> list[tuple[int, str, str]]:
    found: dict[int, tuple[str, str]] = {}
    for entry in importlib.resources.files(component).iterdir():
        match = _FILE.match(entry.name)
        if match:
            number = int(match.group(1))
            if number in found:
                raise ConfigurationError(f"{component}: migration number {number} given twice")
            found[number] = (entry.name, entry.read_text(encoding="utf-8"))
    unknown = ", ".join(str(number) for number in sorted(done - found.keys()))
    if unknown:
        raise ConfigurationError(f"database: {component} has migrations that this program does not know ({unknown}): upgrade the program")
    return [(number, *found[number]) for number in sorted(found)]
