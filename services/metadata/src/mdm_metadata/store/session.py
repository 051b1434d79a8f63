"""One query on PostgreSQL: one snapshot, rows as they are read, time and row limits, cancellation."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from mdm_service.database import open_reading_pool
from mdm_service.identity.caller import Caller
from mdm_service.settings import DatabaseSettings
from mdm_wire.errors import Cancelled, Exhausted, Invalid
from psycopg.types.string import TextLoader
from psycopg_pool import ConnectionPool

from mdm_metadata.rules.model import AttributeType, StoredCollection
from mdm_metadata.rules.query.cache import CompiledQuery
from mdm_metadata.rules.query.sql.statement import Statement
from mdm_metadata.store.schema import SchemaCache, select_collections, with_schemas

Rows = list[tuple[Any, ...]]
Columns = Sequence[tuple[object, ...]]

_DECLARE = b"DECLARE answer NO SCROLL CURSOR FOR "
_CLOSE = b"CLOSE answer"
#: Characters that a change may make and return: they are held in memory.
MAX_HELD = 33_554_432
_SETTINGS = (
    "SELECT set_config('TimeZone', 'UTC', true), set_config('DateStyle', 'ISO, YMD', true), set_config('cursor_tuple_fraction', '1', true),"
    " set_config('statement_timeout', %s, true)"
)
CANCEL_SECONDS = 5.0
#: Types that travel as text: what PostgreSQL prints is kept.
_TEXT_TYPES = {
    AttributeType.UUID: "uuid",
    AttributeType.DATE: "date",
    AttributeType.TIMESTAMP: "timestamptz",
    AttributeType.NUMERIC: "numeric",
}
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
    """Limits of one query: seconds for each batch of rows, and rows in all."""

    statement_seconds: float = 30.0
    rows: int = 10_000_000


def open_pool(settings: DatabaseSettings, limits: QueryLimits) -> ConnectionPool:
    """Return the pool whose connections sessions use: they only read, and every statement has `statement_seconds`."""
    timeout = _milliseconds(limits.statement_seconds)
    return open_reading_pool(
        settings, {"TimeZone": "UTC", "DateStyle": "ISO, YMD", "cursor_tuple_fraction": "1", "statement_timeout": timeout}
    )


def _milliseconds(seconds: float) -> str:
    return str(max(1, int(seconds * 1000)))


class PostgresQuerySession:
    """A connection of the reading pool; its port describes each method."""

    def __init__(self, connection: psycopg.Connection, cache: SchemaCache, limits: QueryLimits) -> None:
        self._connection = connection
        self._cache = cache
        self._limits = limits
        self._lock = threading.Lock()
        self._running = True
        self._cancelled = False

    def end(self) -> None:
        """Return the connection as it was; close it if `cancel` was called, so that the cancel does not reach its next user."""
        with self._lock:
            self._running = False
        if self._cancelled or self._connection.closed:
            self._connection.close()
        else:
            self._connection.rollback()

    def cancel(self) -> None:
        with self._lock:
            if self._running and not self._cancelled:
                self._cancelled = True
                self._connection.cancel_safe(timeout=CANCEL_SECONDS)

    def collections(self, paths: Iterable[str], caller: Caller) -> dict[str, StoredCollection]:
        return with_schemas(self._connection, self._cache, select_collections(self._connection, paths, caller))

    def rows(self, query: CompiledQuery) -> Iterator[Columns] | None:
        with self._translated():
            rows = self._at_once(query) if _fits_in_memory(query.statement) else self._by_cursor(query)
        return None if rows is None else self._batches(query.statement, rows)

    def explain(self, statement: Statement) -> list[str]:
        rows = self._connection.execute(f"EXPLAIN {statement.sql}".encode(), statement.parameters)
        return [str(line) for (line,) in rows]

    def _at_once(self, query: CompiledQuery) -> Iterator[Rows] | None:
        """Return all rows, asked for in one round trip."""
        rows = _cursor(self._connection, query.statement).execute(query.whole, query.parameters).fetchall()
        holds, found, *_ = rows[0]
        if not holds:
            return None
        return iter([[row[2:] for row in rows]] if found else [])

    def _by_cursor(self, query: CompiledQuery) -> Iterator[Rows] | None:
        """Return rows as a cursor gives them."""
        cursor = _cursor(self._connection, query.statement)
        with self._connection.pipeline():  # one round trip
            self._connection.execute("BEGIN")
            holds = self._connection.execute(f"SELECT {query.condition}".encode(), query.parameters)
            cursor.execute(_DECLARE + query.statement.sql.encode(), query.parameters, prepare=False)
            row = holds.fetchone()
        if row is None or not row[0]:
            self._connection.rollback()
            return None
        return _pieces(cursor, query.statement.batch)

    def _batches(self, statement: Statement, batches: Iterator[Rows]) -> Iterator[Columns]:
        timestamps = [index for index, output in enumerate(statement.outputs) if output.type is AttributeType.TIMESTAMP]
        sent = 0
        with self._translated():
            for rows in batches:
                sent += len(rows)
                if sent > self._limits.rows:
                    raise Exhausted("QUERY_TOO_MANY_ROWS", f"More than {self._limits.rows} rows: add conditions or LIMIT.")
                columns: list[tuple[object, ...]] = list(zip(*rows, strict=True))
                for index in timestamps:
                    columns[index] = tuple(None if text is None else _iso(str(text)) for text in columns[index])
                yield columns

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except psycopg.errors.QueryCanceled:
            if self._cancelled:  # the caller has disconnected
                raise Cancelled from None
            seconds = self._limits.statement_seconds
            raise Exhausted("QUERY_TIMEOUT", f"Not done in {seconds:g} s: make the query more selective.") from None
        except psycopg.Error as error:
            raise translated(error) from None


def _cursor(connection: psycopg.Connection, statement: Statement) -> psycopg.Cursor[Any]:
    """Return a cursor that returns values in the form in which they are sent."""
    cursor = connection.cursor()
    for kind in {output.type for output in statement.outputs} & _TEXT_TYPES.keys():
        cursor.adapters.register_loader(_TEXT_TYPES[kind], TextLoader)
    return cursor


def _fits_in_memory(statement: Statement) -> bool:
    """Return whether all rows may be in memory at the same time."""
    return statement.limit is not None and statement.limit <= statement.batch


def _pieces(cursor: psycopg.Cursor[Any], size: int) -> Iterator[Rows]:
    """Yield the rows of the statement that was declared, `size` at a time."""
    fetch = f"FETCH FORWARD {size} FROM answer".encode()
    while rows := cursor.execute(fetch).fetchall():
        yield rows
        if len(rows) < size:
            return


def read_all(connection: psycopg.Connection, statement: Statement, seconds: float, first: int = 0) -> list[tuple[Any, ...]]:
    """Return the rows of a statement within a transaction, in the form a session gives; outputs begin at `first`.

    Raises:
        Invalid: a value cannot be computed. Exhausted: it does not finish within `seconds`, or the rows are too large together.
    """
    timestamps = {index + first for index, output in enumerate(statement.outputs) if output.type is AttributeType.TIMESTAMP}
    try:
        rows = _fetched(connection, statement, seconds)
    except psycopg.errors.QueryCanceled:
        raise Exhausted("QUERY_TIMEOUT", f"Not done in {seconds:g} s: make the condition more selective.") from None
    except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure):
        raise
    except psycopg.Error as error:
        raise translated(error) from None
    if not timestamps:
        return rows
    return [tuple(_iso(str(v)) if i in timestamps and v is not None else v for i, v in enumerate(row)) for row in rows]


def _fetched(connection: psycopg.Connection, statement: Statement, seconds: float) -> Rows:
    cursor, few = _cursor(connection, statement), _fits_in_memory(statement)
    rows: Rows = []
    with connection.pipeline():  # one round trip
        connection.execute(_SETTINGS, (_milliseconds(seconds),))
        cursor.execute((b"" if few else _DECLARE) + statement.sql.encode(), statement.parameters, prepare=None if few else False)
        if few:
            rows = cursor.fetchall()
    if few:
        return rows
    size = 0
    for piece in _pieces(cursor, statement.batch):
        rows += piece
        size += sum(len(value) for row in piece for value in row if isinstance(value, str))
        if size > MAX_HELD:
            raise Exhausted(
                "CHANGE_TOO_LARGE", f"The change makes or returns more than {MAX_HELD} characters: use a smaller LIMIT, and repeat."
            )
    cursor.execute(_CLOSE)
    return rows


def translated(error: psycopg.Error) -> Exception:
    """Return the error that a caller gets for a statement that failed; the error itself when it was not foreseen."""
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
