"""Scale: very many collections, and answers of very many rows."""

import math
import time
from collections.abc import Callable
from itertools import islice

from environment import ATTRIBUTES, Environment, Report, median, memory_of
from mdm_client.metadata.client import Entry
from mdm_client.metadata.collections import Attribute, Collection

BATCH = 1_000
_SIZES = """
SELECT count(*) FILTER (WHERE n.nspname = 'public' AND c.relkind = 'r'),
    (SELECT pg_size_pretty(sum(pg_total_relation_size(oid))) FROM pg_class WHERE relname IN ('collection', 'attribute')),
    (SELECT pg_size_pretty(sum(pg_total_relation_size(oid))) FROM pg_class WHERE relname IN ('pg_class', 'pg_attribute', 'pg_index'))
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
"""


def many_collections(environment: Environment, report: Report, count: int, seconds: float) -> None:
    """Make collections; compare actions among few and among many, and report what grows."""
    client = environment.collections
    assert client.create([Collection("/many"), Collection("/one", ATTRIBUTES)]) == [None] * 2
    assert not any(client.create(_few(0, BATCH)))
    assert environment.entries.upsert("/one", [Entry("e", {"modality": "CT", "rows": 1})]) == [None]
    lookup = """SELECT modality, rows FROM "/one" WHERE entry = 'e' LIMIT 1"""
    actions: dict[str, Callable[[], int]] = {
        "one row": lambda: len(list(environment.metadata.query(lookup))),
        "describe one": lambda: len([client.describe("/one")]),
        "list a page of 1,000": lambda: len(list(islice(client.walk("/many"), BATCH))),
        "make one": lambda: len(client.create([Collection(f"/many/m{time.perf_counter_ns()}", ATTRIBUTES[:5])])),
    }
    before = {name: median(action, seconds)[0] for name, action in actions.items()}
    connection = environment.connection()
    catalog, memory = connection.execute(_SIZES).fetchone(), environment.memory()
    times = []
    for start in range(BATCH, count, BATCH):
        batch = _few(start, min(start + BATCH, count))
        started = time.perf_counter()
        assert not any(client.create(batch))
        times.append((time.perf_counter() - started) / len(batch))
    tenth = max(1, len(times) // 10)
    first, last = tenth / sum(times[:tenth]), tenth / sum(times[-tenth:])
    report.row(f"making {count:,} collections of 5 attributes", f"{first:,.0f}/s at first, {last:,.0f}/s at last")
    for name, action in actions.items():
        after = median(action, seconds)[0]
        cells = f"{before[name] * 1_000:.2f} ms, {after * 1_000:.2f} ms"
        report.row(f"{name}, among 1,000 and among {count:,}", cells, "", f"{after / before[name]:.2f} × the time before")
    started = time.perf_counter()
    listed = sum(1 for _ in client.walk("/many"))
    report.row(f"list of {listed:,}", f"{listed / (time.perf_counter() - started):,.0f} collections/s")
    for name, (tables, ours, system), used in (
        ("before", catalog, memory),
        ("after", connection.execute(_SIZES).fetchone(), environment.memory()),
    ):
        cells = f"{tables} tables, collections and attributes {ours}, PostgreSQL's own catalog {system}, the service {used:.0f} MB"
        report.row(f"what there is {name}", cells)


def _few(start: int, end: int) -> list[Collection]:
    return [Collection(f"/many/c{n:06}", ATTRIBUTES[:5]) for n in range(start, end)]


def many_rows(environment: Environment, report: Report, count: int) -> None:
    """Stream rows, and look at the memory of both ends on the way."""
    side = math.isqrt(count - 1) + 1
    assert environment.collections.create([Collection("/side", (Attribute("n", "int"), Attribute("t", "text")))]) == [None]
    assert not any(environment.entries.upsert("/side", [Entry(f"{n:08}", {"n": n, "t": f"text {n}"}) for n in range(side)]))
    sql = f'SELECT a.entry, a.n, b.t FROM "/side" a CROSS JOIN "/side" b LIMIT {count}'
    rows, next_look, memory = 0, count // 10, []
    started = time.perf_counter()
    for batch in environment.metadata.query(sql).batches():
        rows += len(batch)
        if rows >= next_look:
            memory.append((environment.memory(), memory_of("self")))
            next_look += count // 10
    taken = time.perf_counter() - started
    assert rows == count, rows
    report.row(f"streaming {count:,} rows of 3 columns (a cross join)", f"{rows / taken:,.0f} rows/s")
    cells = ", ".join(
        f"{name} {first:.0f} to {last:.0f} MB" for name, first, last in zip(("service", "client"), memory[0], memory[-1], strict=True)
    )
    report.row("memory from the first to the last tenth", cells)
