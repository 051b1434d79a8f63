"""Changes: jobs taken from a work queue, and how far a replica is behind while entries are written."""

import statistics
import threading
import time
from collections.abc import Callable

from environment import ATTRIBUTES, POLICY, Environment, Report, rate, slots, values_of
from mdm_client.metadata.client import Entry, MetadataClient
from mdm_client.metadata.collections import Collection
from mdm_wire.errors import MdmError

TAKERS = 4


def take(environment: Environment, report: Report, seconds: float) -> None:
    """Measure jobs a second: atomically through the service; by one statement that skips locked rows, in psycopg."""
    images, slot = slots(environment.connection())
    sql = """UPDATE "/images" SET state = 'taken' WHERE state = 'new' LIMIT 1 RETURNING entry"""
    state = f"(attributes->>'{slot['state']}') COLLATE \"C\""
    done = [0]
    statement = f"""UPDATE entry SET attributes = attributes || '{{"{slot["state"]}": "raw"}}' WHERE collection_id = {images} AND key =
        (SELECT key FROM entry WHERE collection_id = {images} AND {state} = 'new' LIMIT 1 FOR UPDATE SKIP LOCKED)"""

    def taking() -> Callable[[], object]:
        client = MetadataClient(environment.channel(), POLICY).entries
        return lambda: client.change(sql)

    def taking_raw() -> Callable[[], object]:
        own = environment.connection()

        def action() -> None:
            done[0] += own.execute(statement.encode()).rowcount

        return action

    ours = rate(taking, TAKERS, seconds)
    environment.connection().execute("VACUUM ANALYZE entry")  # of what was taken, which the other way would step over
    started = time.perf_counter()
    rate(taking_raw, TAKERS, seconds)
    raw = done[0] / (time.perf_counter() - started)
    report.rates(f"jobs taken by {TAKERS} clients", "jobs/s", ours, raw)


def replicate(environment: Environment, copy: Environment, report: Report, seconds: float) -> None:
    """Measure how long it takes until an entry is at the copy, while two clients write."""
    assert environment.collections.create([Collection("/published"), Collection("/published/images", ATTRIBUTES)]) == [None, None]
    stop = threading.Event()
    written = [0, 0]

    def write(index: int) -> None:
        client = MetadataClient(environment.channel(), POLICY).entries
        while not stop.is_set():
            batch = [Entry(f"w{index}-{n:06}", values_of(n)) for n in range(written[index], written[index] + 100)]
            assert not any(client.upsert("/published/images", batch))
            written[index] += 100

    def is_there(key: str) -> bool:
        try:
            return bool(list(copy.metadata.query(f"""SELECT entry FROM "/published/images" WHERE entry = '{key}'""")))
        except MdmError:
            return False

    assert not any(environment.entries.upsert("/published/images", [Entry("first", {"rows": 1})]))
    while not is_there("first"):  # the copy has found its origin and what to follow
        time.sleep(0.1)
    writers = [threading.Thread(target=write, args=(index,)) for index in range(2)]
    started = time.perf_counter()
    for writer in writers:
        writer.start()
    lags: list[float] = []
    while time.perf_counter() < started + max(seconds, 5):
        key = f"probe{len(lags)}"
        assert not any(environment.entries.upsert("/published/images", [Entry(key, {"rows": 1})]))
        stored = time.perf_counter()
        while not is_there(key):
            time.sleep(0.02)
        lags.append(time.perf_counter() - stored)
    stop.set()
    for writer in writers:
        writer.join()
    cells = f"{statistics.median(lags):.2f} s, at most {max(lags):.2f} s"
    report.row(f"a copy behind its origin, while two clients write {sum(written) / (time.perf_counter() - started):,.0f} entries/s", cells)
