"""Queries through the service, and the same in SQL by psycopg on the same rows."""

import random
import time
from collections.abc import Callable

import psycopg
from environment import POLICY, Environment, Report, median, rate, slots
from mdm.metadata.v1 import metadata_pb2, metadata_pb2_grpc
from mdm_client.metadata.client import MetadataClient

Query = tuple[str, Callable[[], int], Callable[[], int]]
COLUMNS = "guid, modality, rows, thickness, entry"


def ask(environment: Environment, report: Report, entries: int, seconds: float) -> None:
    """Measure all kinds of queries, a stream, and many clients."""
    connection = environment.connection()
    for name, ours, raw in _Queries(environment, connection, entries).all():
        (mine, rows), (theirs, expected) = median(ours, seconds), median(raw, seconds)
        assert rows == expected, (name, rows, expected)
        report.times(f"{name} ({rows:,} rows)", mine, theirs)
    report.rates(f"streaming {min(entries, 100_000):,} rows of 5 attributes", "rows/s", *_stream(environment, connection))
    _many_clients(environment, connection, report, entries, seconds)


class _Queries:
    """The queries that are measured: name, through the service, by psycopg."""

    def __init__(self, environment: Environment, connection: psycopg.Connection, entries: int) -> None:
        self._metadata = environment.metadata
        self._connection = connection
        self._entries = entries
        self._images, self._slot = slots(connection)
        self._studies, _ = slots(connection, "/studies")
        self._random = random.Random(7)

    def all(self) -> list[Query]:
        """Return all of them."""
        text, guid, study = self._text, self._guid, self._study
        here, five = f"FROM entry WHERE collection_id = {self._images}", _five(self._slot)
        by_guid = self._raw(f"SELECT {five} {here} AND {text('guid')} = %s LIMIT 1", guid)
        by_study = self._raw(f"SELECT {five} {here} AND {text('study')} = %s LIMIT 100", study)
        means = f"SELECT {text('modality')}, count(*), avg((attributes->>'{self._slot['rows']}')::bigint) {here} GROUP BY 1"
        joined = f"""SELECT {text("guid", "i")}, s.key FROM entry AS i
            JOIN entry AS s ON s.collection_id = {self._studies} AND s.key = {text("study", "i")}
            WHERE i.collection_id = {self._images} AND {text("study", "i")} = %s"""
        our_join = 'SELECT i.guid, s.entry FROM "/images" i JOIN "/studies" s ON s.entry = i.study WHERE i.study = :v'
        first = f'SELECT {COLUMNS} FROM "/images" WHERE'
        ask, raw = self._ask, self._raw
        return [
            ("one row by an indexed attribute", ask(lambda: f"{first} guid = :v LIMIT 1", guid), by_guid),
            ("the same, in a text that was never asked before", ask(lambda: f"{first} guid = '{guid()}' LIMIT 1"), by_guid),
            ("100 rows by an indexed attribute", ask(lambda: f"{first} study = :v LIMIT 100", study), by_study),
            (
                "scan of all without an index",
                ask(lambda: """SELECT COUNT(*) FROM "/images" WHERE comment LIKE '%99'"""),
                raw(f"SELECT count(*) {here} AND {text('comment')} LIKE '%%99'"),
            ),
            ("join of images and their study", ask(lambda: our_join, study), raw(joined, study)),
            (
                "count and mean by modality",
                ask(lambda: 'SELECT modality, COUNT(*), AVG(rows) FROM "/images" GROUP BY modality'),
                raw(means),
            ),
        ]

    def _ask(self, sql: Callable[[], str], value: Callable[[], str] | None = None) -> Callable[[], int]:
        def ask() -> int:
            return sum(len(batch) for batch in self._metadata.query(sql(), parameters={"v": value()} if value else {}).batches())

        return ask

    def _raw(self, sql: str, value: Callable[[], str] | None = None) -> Callable[[], int]:
        return lambda: len(self._connection.execute(sql.encode(), (value(),) if value else ()).fetchall())

    def _text(self, name: str, alias: str = "entry") -> str:
        return f"({alias}.attributes->>'{self._slot[name]}') COLLATE \"C\""

    def _guid(self) -> str:
        return f"g{self._random.randrange(self._entries):08}"

    def _study(self) -> str:
        return f"s{self._random.randrange(self._entries) // 100:06}"


def _five(slot: dict[str, str]) -> str:
    texts = ", ".join(f"attributes->>'{slot[name]}'" for name in ("guid", "modality"))
    return f"{texts}, (attributes->>'{slot['rows']}')::bigint, (attributes->>'{slot['thickness']}')::float8, key"


def _stream(environment: Environment, connection: psycopg.Connection) -> tuple[float, float]:
    """Return rows a second of 100,000 rows: service, the best of three cursors."""
    images, slot = slots(connection)
    started, rows = time.perf_counter(), 0
    for batch in environment.metadata.query(f'SELECT {COLUMNS} FROM "/images" LIMIT 100000').batches():
        rows += len(batch)
    ours = rows / (time.perf_counter() - started)
    sql = f"SELECT {_five(slot)} FROM entry WHERE collection_id = {images} LIMIT 100000".encode()
    return ours, max(_streamed(connection, sql, size) for size in (1_000, 10_000, 0))


def _streamed(connection: psycopg.Connection, sql: bytes, size: int) -> float:
    """Return rows a second of a cursor in the server that is fetched from in parts; 0: of one that sends everything at once."""
    started, rows = time.perf_counter(), 0
    with connection.transaction(), connection.cursor(name="stream") if size else connection.cursor() as cursor:
        if isinstance(cursor, psycopg.ServerCursor):
            cursor.itersize = size
        for _ in cursor.execute(sql):
            rows += 1
    return rows / (time.perf_counter() - started)


def _many_clients(environment: Environment, connection: psycopg.Connection, report: Report, entries: int, seconds: float) -> None:
    """Measure queries a second, of one process and of two; and calls that ask for nothing, the most there can be."""
    images, slot = slots(connection)
    sql = 'SELECT modality, rows FROM "/images" WHERE entry = :entry LIMIT 1'
    raw = f"SELECT attributes->>'{slot['modality']}', attributes->>'{slot['rows']}' FROM entry WHERE collection_id = {images} AND key = %s"
    choose = random.Random(11)
    workers = environment.by_workers(2)

    def key() -> str:
        return f"e{choose.randrange(entries):08}"

    def asking(port: int) -> Callable[[], Callable[[], object]]:
        def make() -> Callable[[], object]:
            client = MetadataClient(environment.channel(port), POLICY)
            return lambda: list(client.query(sql, parameters={"entry": key()}))

        return make

    def asking_raw() -> Callable[[], object]:
        own = environment.connection()
        return lambda: own.execute(raw.encode(), (key(),)).fetchall()

    def asking_nothing(port: int) -> Callable[[], Callable[[], object]]:
        def make() -> Callable[[], object]:
            stub = metadata_pb2_grpc.MetadataServiceStub(environment.channel(port))
            return lambda: stub.CreateViews(metadata_pb2.CreateViewsRequest())

        return make

    asking(workers)()()  # it serves
    for clients in (1, 8, 32):
        cells = f"{clients} client{'s' if clients > 1 else ''}"
        theirs = rate(asking_raw, clients, seconds)
        for processes, port in (("one process", environment.port), ("two workers", workers)):
            most = rate(asking_nothing(port), clients, seconds)
            ours = rate(asking(port), clients, seconds)
            report.rates(f"one row of two attributes by key, {cells}, {processes}", "queries/s", ours, theirs)
            report.row(f"calls that ask for nothing, {cells}, {processes}", f"{most:,.0f} calls/s")
