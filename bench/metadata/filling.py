"""The images and studies that are asked for: some through the service, which is measured, the rest by SQL."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
from mdm_client.metadata.collections import Collection
from mdm_client.metadata.entries import Entry
from stand import ATTRIBUTES, Report, Stand, slots, values_of

BATCH = 1_000
_COPY = "COPY entry (collection_id, key, acl_id, attributes) FROM STDIN"
#: What tells images apart, in the stored form of `values_of`; the rest repeats what went through the service.
_REST = """
INSERT INTO entry (collection_id, key, acl_id, attributes)
SELECT e.collection_id, 'e' || lpad(n::text, 8, '0'), e.acl_id, e.attributes || jsonb_build_object(
    '{guid}', 'g' || lpad(n::text, 8, '0'), '{study}', 's' || lpad((n / 100)::text, 6, '0'), '{comment}', 'image number ' || n)
FROM generate_series(%(first)s::integer, %(last)s) AS n
JOIN entry AS e ON e.collection_id = %(images)s AND e.key = 'e' || lpad((n %% %(loaded)s::integer)::text, 8, '0')
"""


def fill(stand: Stand, report: Report, entries: int, loaded: int) -> None:
    """Make `/images` and `/studies`, and tell how fast entries are loaded."""
    made = stand.collections.create([Collection("/images", ATTRIBUTES), Collection("/studies", ATTRIBUTES[1:2] + ATTRIBUTES[7:8])])
    assert made == [None, None], made
    loaded = min(loaded, entries)
    started = time.perf_counter()

    def load(start: int) -> None:
        batch = [Entry(f"e{n:08}", values_of(n)) for n in range(start, min(start + BATCH, loaded))]
        assert not any(stand.entries.upsert("/images", batch))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(load, range(0, loaded, BATCH)))
    ours = loaded / (time.perf_counter() - started)
    connection = stand.connection()
    report.rates(f"bulk load of {loaded:,} entries of {len(ATTRIBUTES)} attributes", "entries/s", ours, _copied(stand, connection, loaded))
    images, slot = slots(connection)
    for first in range(loaded, entries, 100_000):
        last = min(first + 100_000, entries) - 1
        parameters = {"first": first, "last": last, "images": images, "loaded": loaded}
        connection.execute(_REST.format(**slot).encode(), parameters)
    studies = [Entry(f"s{n:06}", {"study": f"s{n:06}", "comment": f"study {n}"}) for n in range(entries // 100 + 1)]
    assert not any(stand.entries.upsert("/studies", studies))
    connection.execute("VACUUM ANALYZE entry")


def _copied(stand: Stand, connection: psycopg.Connection, count: int) -> float:
    """Return entries a second that COPY brings into the same table, with the same indexes, in one transaction a batch."""
    assert stand.collections.create([Collection("/copied", ATTRIBUTES)]) == [None]
    number, slot = slots(connection, "/copied")
    row = connection.execute("SELECT default_acl_id FROM collection WHERE id = %s", (number,)).fetchone()
    assert row is not None
    started = time.perf_counter()
    for start in range(0, count, BATCH):
        with connection.cursor().copy(_COPY) as copy:
            for n in range(start, min(start + BATCH, count)):
                values = values_of(n) | {"day": n % 10_000}
                copy.write_row((number, f"c{n:08}", row[0], json.dumps({slot[name]: value for name, value in values.items()})))
    rate = count / (time.perf_counter() - started)
    assert stand.collections.drop(["/copied"]) == [None]
    return rate
