"""The images and studies to query: some are loaded through the service, which is measured, the rest by SQL."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import psycopg
from environment import ATTRIBUTES, Environment, Report, slots, values_of
from mdm_client.metadata.client import Entry
from mdm_client.metadata.collections import Collection

BATCH = 1_000
_COPY = "COPY entry (collection_id, key, acl_id, attributes) FROM STDIN"
#: Further images, whose guid, study and comment are their own; their other values repeat those of images loaded before.
_REST = """
INSERT INTO entry (collection_id, key, acl_id, attributes)
SELECT e.collection_id, 'e' || lpad(n::text, 8, '0'), e.acl_id, e.attributes || jsonb_build_object(
    '{guid}', 'g' || lpad(n::text, 8, '0'), '{study}', 's' || lpad((n / 100)::text, 6, '0'), '{comment}', 'image number ' || n)
FROM generate_series(%(first)s::integer, %(last)s) AS n
JOIN entry AS e ON e.collection_id = %(images)s AND e.key = 'e' || lpad((n %% %(loaded)s::integer)::text, 8, '0')
"""


def load(environment: Environment, report: Report, entries: int, loaded: int) -> None:
    """Make `/images` and `/studies`, and report how fast entries are loaded."""
    made = environment.collections.create([Collection("/images", ATTRIBUTES), Collection("/studies", ATTRIBUTES[1:2] + ATTRIBUTES[7:8])])
    assert made == [None, None], made
    loaded = min(loaded, entries)
    entries_made = [Entry(f"e{n:08}", values_of(n)) for n in range(loaded)]
    started = time.perf_counter()

    def upsert(start: int) -> None:
        assert not any(environment.entries.upsert("/images", entries_made[start : start + BATCH]))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(upsert, range(0, loaded, BATCH)))
    ours = loaded / (time.perf_counter() - started)
    connection = environment.connection()
    report.rates(
        f"bulk load of {loaded:,} entries of {len(ATTRIBUTES)} attributes", "entries/s", ours, _copied(environment, connection, loaded)
    )
    images, slot = slots(connection)
    for first in range(loaded, entries, 100_000):
        last = min(first + 100_000, entries) - 1
        parameters = {"first": first, "last": last, "images": images, "loaded": loaded}
        connection.execute(_REST.format(**slot).encode(), parameters)
    studies = [Entry(f"s{n:06}", {"study": f"s{n:06}", "comment": f"study {n}"}) for n in range(entries // 100 + 1)]
    assert not any(environment.entries.upsert("/studies", studies))
    connection.execute("VACUUM ANALYZE entry")


def _copied(environment: Environment, connection: psycopg.Connection, count: int) -> float:
    """Return entries a second that two COPYs bring into the same table, with the same indexes, in one transaction a batch.

    Their lines are made before, as the service's entries are.
    """
    assert environment.collections.create([Collection("/copied", ATTRIBUTES)]) == [None]
    number, slot = slots(connection, "/copied")
    row = connection.execute("SELECT default_acl_id FROM collection WHERE id = %s", (number,)).fetchone()
    assert row is not None
    lines = [_line(number, f"c{n:08}", row[0], slot, values_of(n) | {"day": n % 10_000}) for n in range(count)]
    batches = ["".join(lines[start : start + BATCH]) for start in range(0, count, BATCH)]
    connections = [environment.connection() for _ in range(2)]

    def copy(position: int) -> None:
        for batch in batches[position::2]:
            with connections[position].cursor().copy(_COPY) as open_copy:
                open_copy.write(batch)

    started = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(copy, range(2)))
    rate = count / (time.perf_counter() - started)
    assert environment.collections.drop(["/copied"]) == [None]
    return rate


def _line(number: int, key: str, acl: UUID, slot: dict[str, str], values: dict[str, Any]) -> str:
    """Return a line of COPY's text format; JSON's own escapes are escaped once more."""
    written = json.dumps({slot[name]: value for name, value in values.items()}).replace("\\", "\\\\")
    return f"{number}\t{key}\t{acl}\t{written}\n"
