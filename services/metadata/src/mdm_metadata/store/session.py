"""One query on PostgreSQL: a read-only snapshot, a streaming cursor, time and row limits, cancellation."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from mdm_service.errors import Exhausted, Invalid
from mdm_service.identity import Caller
from psycopg import IsolationLevel
from psycopg.pq import TransactionStatus
from psycopg.types.string import TextLoader

from mdm_metadata.model import AttributeType, StoredCollection
from mdm_metadata.query.compile import Statement
from mdm_metadata.store.schema import SchemaCache, select_collections, with_schemas

_CLOSE = b"CLOSE answer"
#: Characters that a change may make and return: they are held in memory.
MAX_HELD = 33_554_432
_SETTINGS = (
    "SELECT set_config('TimeZone', 'UTC', true), set_config('DateStyle', 'ISO, YMD', true), set_config('cursor_tuple_fraction', '1', true),"
    " set_config('jit', 'off', true), set_config('statement_timeout', %s, true)"
)
CANCEL_SECONDS = 5.0
#: Types that travel as text: what PostgreSQL prints is kept.
_TEXT_TYPES = ("uuid", "date", "timestamptz", "numeric")
_VALUE_ERRORS = {
    "22012": "division by zero",
    "22003": "a number out of range",
    "22P02": "a CAST of text that is no value of the type",
    "22007": "a CAST of text that is no date or timestamp",
    "22008": "a date or timestamp out of range",
    "2201F": "a square root of a negative number",
    "22011": "a SUBSTRING of negative length",
    "22025": "a LIKE pattern that ends in its escape character",
    "22019": "an ESCAPE that is not one character",
    "23514": "a CAST of text that is a number of more than 301 digits or 1,000 places",
}


@dataclass(frozen=True)
class QueryLimits:
    """What one query may cost: seconds until each batch of rows is there, and rows in all."""

    statement_seconds: float = 30.0
    rows: int = 10_000_000


class PostgresQuerySession:
    """A read-only snapshot. See the port for what each method does."""

    def __init__(self, connection: psycopg.Connection, cache: SchemaCache, limits: QueryLimits) -> None:
        self._connection = connection
        self._cache = cache
        self._limits = limits
        connection.isolation_level = IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        self._lock = threading.Lock()
        self._running = True
        self._cancelled = False

    def end(self) -> None:
        """End the snapshot; close the connection if `cancel` was called."""
        with self._lock:
            self._running = False
        if self._cancelled or self._connection.closed:
            self._connection.close()
            return
        self._connection.rollback()
        self._connection.isolation_level = None
        self._connection.read_only = None

    def cancel(self) -> None:
        """Stop what runs, from any thread."""
        with self._lock:
            if self._running and not self._cancelled:
                self._cancelled = True
                self._connection.cancel_safe(timeout=CANCEL_SECONDS)

    def collections(self, paths: Iterable[str], caller: Caller) -> dict[str, StoredCollection]:
        """Begin the snapshot, at the first call, and return the collections that exist among folded paths."""
        if self._connection.info.transaction_status is not TransactionStatus.IDLE:
            return with_schemas(self._connection, self._cache, select_collections(self._connection, paths, caller))
        with self._connection.pipeline():  # the beginning, the settings and the question in one round trip
            self._connection.execute(_SETTINGS, (str(max(1, int(self._limits.statement_seconds * 1000))),))
            rows = select_collections(self._connection, paths, caller)
        return with_schemas(self._connection, self._cache, rows)

    def rows(self, statement: Statement) -> Iterator[Sequence[tuple[object, ...]]]:
        """Run a statement and yield its rows in batches of at most 1,000, each as a list of columns; a cancelled one just ends."""
        timestamps = [index for index, output in enumerate(statement.outputs) if output.type is AttributeType.TIMESTAMP]
        sent = 0
        try:
            for rows in self._fetch(statement):
                sent += len(rows)
                if sent > self._limits.rows:
                    raise Exhausted("QUERY_TOO_MANY_ROWS", f"More than {self._limits.rows} rows: add conditions or LIMIT.")
                columns: list[tuple[object, ...]] = list(zip(*rows, strict=True))
                for index in timestamps:
                    columns[index] = tuple(None if text is None else _iso(str(text)) for text in columns[index])
                yield columns
        except psycopg.errors.QueryCanceled:
            if not self._cancelled:  # else the caller has gone: nobody is told
                raise Exhausted(
                    "QUERY_TIMEOUT", f"Not done in {self._limits.statement_seconds:g} s: make the query more selective."
                ) from None
        except psycopg.Error as error:
            raise translated(error) from None

    def explain(self, statement: Statement) -> list[str]:
        """Return PostgreSQL's plan of a statement, line by line."""
        rows = self._connection.execute(f"EXPLAIN {statement.sql}".encode(), statement.parameters)
        return [str(line) for (line,) in rows]

    def _fetch(self, statement: Statement) -> Iterator[list[tuple[object, ...]]]:
        with self._connection.cursor() as cursor:
            for name in _TEXT_TYPES:
                cursor.adapters.register_loader(name, TextLoader)
            if statement.limit is not None and statement.limit <= statement.batch:
                with self._connection.pipeline():  # the question and the end of the snapshot in one round trip
                    cursor.execute(statement.sql.encode(), statement.parameters)
                    self._connection.commit()
                    rows = cursor.fetchall()
                if rows:
                    yield rows
                return
            yield from _pieces(cursor, statement)


def _pieces(cursor: psycopg.Cursor[tuple[object, ...]], statement: Statement) -> Iterator[list[tuple[object, ...]]]:
    """Run a statement and yield its rows, as many at a time as it says."""
    cursor.execute(f"DECLARE answer NO SCROLL CURSOR FOR {statement.sql}".encode(), statement.parameters, prepare=False)
    fetch = f"FETCH FORWARD {statement.batch} FROM answer".encode()
    while rows := cursor.execute(fetch).fetchall():
        yield rows
        if len(rows) < statement.batch:
            return


def read_all(connection: psycopg.Connection, statement: Statement, seconds: float, first: int = 0) -> list[tuple[Any, ...]]:
    """Return the rows of a statement within a transaction, in the form a session gives; outputs begin at `first`.

    Raises:
        Invalid: a value cannot be computed. Exhausted: it takes longer than `seconds`, or the rows are too large together.
    """
    timestamps = {index + first for index, output in enumerate(statement.outputs) if output.type is AttributeType.TIMESTAMP}
    timeout = f"SET LOCAL statement_timeout = {max(1, int(seconds * 1000))}"
    connection.execute(
        f"SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO, YMD'; SET LOCAL cursor_tuple_fraction = 1; {timeout}".encode()
    )
    try:
        with connection.cursor() as cursor:
            for name in _TEXT_TYPES:
                cursor.adapters.register_loader(name, TextLoader)
            rows = _held(cursor, statement)
    except psycopg.errors.QueryCanceled:
        raise Exhausted("QUERY_TIMEOUT", f"Not done in {seconds:g} s: make the condition more selective.") from None
    except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure):
        raise
    except psycopg.Error as error:
        raise translated(error) from None
    if not timestamps:
        return rows
    return [tuple(_iso(str(v)) if i in timestamps and v is not None else v for i, v in enumerate(row)) for row in rows]


def _held(cursor: psycopg.Cursor[tuple[Any, ...]], statement: Statement) -> list[tuple[Any, ...]]:
    if statement.limit is not None and statement.limit <= statement.batch:
        return cursor.execute(statement.sql.encode(), statement.parameters).fetchall()
    rows: list[tuple[Any, ...]] = []
    size = 0
    for piece in _pieces(cursor, statement):
        rows += piece
        size += sum(len(value) for row in piece for value in row if isinstance(value, str))
        if size > MAX_HELD:
            raise Exhausted(
                "CHANGE_TOO_LARGE", f"The change makes or returns more than {MAX_HELD} characters: use a smaller LIMIT, and repeat."
            )
    cursor.execute(_CLOSE)
    return rows


def translated(error: psycopg.Error) -> Exception:
    """Return what a caller is told about a statement that failed; the error itself when it was not foreseen."""
    state = error.sqlstate or ""
    if state.startswith("22") or state == "23514":
        problem = _VALUE_ERRORS.get(state, "a value that does not exist")
        return Invalid("QUERY_VALUE", f"The query needs {problem}; exclude such rows in WHERE.")
    if state.startswith(("53", "54")):
        return Exhausted("QUERY_TOO_EXPENSIVE", "The query needs more memory or disk than there is: make it more selective.")
    return error


def _iso(text: str) -> str:
    """Return PostgreSQL's `2024-01-31 12:00:00.5+00` in ISO 8601."""
    return text.replace(" ", "T", 1).replace("+00", "Z", 1)
