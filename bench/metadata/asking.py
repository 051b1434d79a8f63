"""Queries through the service, and the same in SQL by psycopg on the same rows."""

import random
import time
from collections.abc import Callable
from typing import Any

import psycopg
from mdm.metadata.v1 import metadata_pb2, metadata_pb2_grpc
from mdm_client.metadata.client import MetadataClient
from stand import POLICY, Report, Stand, median, rate, slots

Query = tuple[str, Callable[[], int], Callable[[], int]]
COLUMNS = "guid, modality, rows, thickness, entry"


def ask(stand: Stand, report: Report, entries: int, seconds: float) -> None:
    """Measure all kinds of queries, a stream, and many clients."""
    connection = stand.connection()
    for name, ours, raw in _queries(stand, connection, entries):
        (mine, rows), (theirs, expected) = median(ours, seconds), median(raw, seconds)
        assert rows == expected, (name, rows, expected)
        report.times(f"{name} ({rows:,} rows)", mine, theirs)
    report.rates(f"streaming {min(entries, 100_000):,} rows of 5 attributes", "rows/s", *_stream(stand, connection))
    _many_clients(stand, connection, report, entries, seconds)


def _queries(stand: Stand, connection: psycopg.Connection, entries: int) -> list[Query]:
    """Return what is measured: name, through the service, by psycopg."""
    images, slot = slots(connection)
    studies, _ = slots(connection, "/studies")
    choose = random.Random(7)

    def ask(sql: Callable[[], str], parameters: Callable[[], dict[str, Any]] = dict) -> Callable[[], int]:
        return lambda: sum(len(batch) for batch in stand.metadata.query(sql(), parameters=parameters()).batches())

    def raw(sql: str, parameters: Callable[[], tuple[Any, ...]] = lambda: ()) -> Callable[[], int]:
        return lambda: len(connection.execute(sql.encode(), parameters()).fetchall())

    def text(name: str, alias: str = "entry") -> str:
        return f"({alias}.attributes->>'{slot[name]}') COLLATE \"C\""

    def guid() -> str:
        return f"g{choose.randrange(entries):08}"

    def study() -> str:
        return f"s{choose.randrange(entries) // 100:06}"

    here = f"FROM entry WHERE collection_id = {images}"
    five = _five(slot)
    joined = f"""SELECT {text("guid", "i")}, s.key FROM entry AS i
        JOIN entry AS s ON s.collection_id = {studies} AND s.key = {text("study", "i")}
        WHERE i.collection_id = {images} AND {text("study", "i")} = %s"""
    our_join = 'SELECT i.guid, s.entry FROM "/images" i JOIN "/studies" s ON s.entry = i.study WHERE i.study = '
    return [
        (
            "one row by an indexed attribute",
            ask(lambda: f'SELECT {COLUMNS} FROM "/images" WHERE guid = :guid LIMIT 1', lambda: {"guid": guid()}),
            raw(f"SELECT {five} {here} AND {text('guid')} = %s LIMIT 1", lambda: (guid(),)),
        ),
        (
            "the same, in a text that was never asked before",
            ask(lambda: f"""SELECT {COLUMNS} FROM "/images" WHERE guid = '{guid()}' LIMIT 1"""),
            raw(f"SELECT {five} {here} AND {text('guid')} = %s LIMIT 1", lambda: (guid(),)),
        ),
        (
            "100 rows by an indexed attribute",
            ask(lambda: f'SELECT {COLUMNS} FROM "/images" WHERE study = :study LIMIT 100', lambda: {"study": study()}),
            raw(f"SELECT {five} {here} AND {text('study')} = %s LIMIT 100", lambda: (study(),)),
        ),
        (
            "scan of all without an index",
            ask(lambda: """SELECT COUNT(*) FROM "/images" WHERE comment LIKE '%99'"""),
            raw(f"SELECT count(*) {here} AND {text('comment')} LIKE '%%99'"),
        ),
        ("join of images and their study", ask(lambda: f"{our_join}:study", lambda: {"study": study()}), raw(joined, lambda: (study(),))),
        (
            "count and mean by modality",
            ask(lambda: 'SELECT modality, COUNT(*), AVG(rows) FROM "/images" GROUP BY modality'),
            raw(f"SELECT {text('modality')}, count(*), avg((attributes->>'{slot['rows']}')::bigint) {here} GROUP BY 1"),
        ),
    ]


def _five(slot: dict[str, str]) -> str:
    texts = ", ".join(f"attributes->>'{slot[name]}'" for name in ("guid", "modality"))
    return f"{texts}, (attributes->>'{slot['rows']}')::bigint, (attributes->>'{slot['thickness']}')::float8, key"


def _stream(stand: Stand, connection: psycopg.Connection) -> tuple[float, float]:
    """Return rows a second of 100,000 rows: service, server-side cursor."""
    images, slot = slots(connection)
    started, rows = time.perf_counter(), 0
    for batch in stand.metadata.query(f'SELECT {COLUMNS} FROM "/images" LIMIT 100000').batches():
        rows += len(batch)
    ours = rows / (time.perf_counter() - started)
    started, rows = time.perf_counter(), 0
    with connection.transaction(), connection.cursor(name="stream") as cursor:
        cursor.itersize = 1_000
        cursor.execute(f"SELECT {_five(slot)} FROM entry WHERE collection_id = {images} LIMIT 100000".encode())
        for _ in cursor:
            rows += 1
    return ours, rows / (time.perf_counter() - started)


def _many_clients(stand: Stand, connection: psycopg.Connection, report: Report, entries: int, seconds: float) -> None:
    """Measure queries a second, of one process and of two; and calls that ask for nothing, the most there can be."""
    images, slot = slots(connection)
    sql = 'SELECT modality, rows FROM "/images" WHERE entry = :entry LIMIT 1'
    raw = f"SELECT attributes->>'{slot['modality']}', attributes->>'{slot['rows']}' FROM entry WHERE collection_id = {images} AND key = %s"
    choose = random.Random(11)
    workers = stand.by_workers(2)

    def key() -> str:
        return f"e{choose.randrange(entries):08}"

    def asking(port: int) -> Callable[[], Callable[[], object]]:
        def make() -> Callable[[], object]:
            client = MetadataClient(stand.channel(port), POLICY)
            return lambda: list(client.query(sql, parameters={"entry": key()}))

        return make

    def asking_raw() -> Callable[[], object]:
        own = stand.connection()
        return lambda: own.execute(raw.encode(), (key(),)).fetchall()

    def asking_nothing(port: int) -> Callable[[], Callable[[], object]]:
        def make() -> Callable[[], object]:
            stub = metadata_pb2_grpc.MetadataServiceStub(stand.channel(port))
            return lambda: stub.CreateViews(metadata_pb2.CreateViewsRequest())

        return make

    asking(workers)()()  # it serves
    for clients in (1, 8, 32):
        told = f"{clients} client{'s' if clients > 1 else ''}"
        theirs = rate(asking_raw, clients, seconds)
        for processes, port in (("one process", stand.port), ("two workers", workers)):
            most = rate(asking_nothing(port), clients, seconds)
            ours = rate(asking(port), clients, seconds)
            report.rates(f"one row of two attributes by key, {told}, {processes}", "queries/s", ours, theirs)
            report.row(f"calls that ask for nothing, {told}, {processes}", f"{most:,.0f} calls/s")
