"""Work queues and copies: jobs taken, and how far a replica is behind while entries are written."""

import statistics
import threading
import time
from collections.abc import Callable

from mdm_client.metadata.client import MetadataClient
from mdm_client.metadata.collections import Collection
from mdm_client.metadata.entries import Entry
from mdm_wire.errors import MdmError
from stand import ATTRIBUTES, POLICY, Report, Stand, rate, slots, values_of

TAKERS = 4


def take(stand: Stand, report: Report, seconds: float) -> None:
    """Measure jobs a second: atomically through the service; by select, then update if still free, in psycopg."""
    images, slot = slots(stand.connection())
    sql = """UPDATE "/images" SET state = 'taken' WHERE state = 'new' LIMIT 1 RETURNING entry"""
    state = f"(attributes->>'{slot['state']}') COLLATE \"C\""
    done = [0]

    def taking() -> Callable[[], object]:
        client = MetadataClient(stand.channel(), POLICY).entries
        return lambda: client.change(sql)

    def taking_raw() -> Callable[[], object]:
        own = stand.connection()

        def act() -> None:
            found = own.execute(f"SELECT key FROM entry WHERE collection_id = {images} AND {state} = 'new' LIMIT 1".encode()).fetchone()
            changed = own.execute(
                f'UPDATE entry SET attributes = attributes || \'{{"{slot["state"]}": "raw"}}\''
                f" WHERE collection_id = {images} AND key = %s AND {state} = 'new'".encode(),
                found,
            )
            done[0] += changed.rowcount

        return act

    ours = rate(taking, TAKERS, seconds)
    started = time.perf_counter()
    rate(taking_raw, TAKERS, seconds)
    raw = done[0] / (time.perf_counter() - started)
    report.rates(f"takes of {TAKERS} clients; select, then update", "jobs/s", ours, raw)


def replicate(stand: Stand, copy: Stand, report: Report, seconds: float) -> None:
    """Measure how long it takes until an entry is at the copy, while two clients write."""
    assert stand.collections.create([Collection("/published"), Collection("/published/images", ATTRIBUTES)]) == [None, None]
    stop = threading.Event()
    written = [0, 0]

    def write(index: int) -> None:
        client = MetadataClient(stand.channel(), POLICY).entries
        while not stop.is_set():
            batch = [Entry(f"w{index}-{n:06}", values_of(n)) for n in range(written[index], written[index] + 100)]
            assert not any(client.upsert("/published/images", batch))
            written[index] += 100

    def is_there(key: str) -> bool:
        try:
            return bool(list(copy.metadata.query(f"""SELECT entry FROM "/published/images" WHERE entry = '{key}'""")))
        except MdmError:
            return False

    assert not any(stand.entries.upsert("/published/images", [Entry("first", {"rows": 1})]))
    while not is_there("first"):  # the copy has found its origin and what to follow
        time.sleep(0.1)
    writers = [threading.Thread(target=write, args=(index,)) for index in range(2)]
    started = time.perf_counter()
    for writer in writers:
        writer.start()
    lags: list[float] = []
    while time.perf_counter() < started + max(seconds, 5):
        key = f"probe{len(lags)}"
        assert not any(stand.entries.upsert("/published/images", [Entry(key, {"rows": 1})]))
        stored = time.perf_counter()
        while not is_there(key):
            time.sleep(0.02)
        lags.append(time.perf_counter() - stored)
    stop.set()
    for writer in writers:
        writer.join()
    told = f"{statistics.median(lags):.2f} s, at most {max(lags):.2f} s"
    report.row(f"a copy behind its origin, while two clients write {sum(written) / (time.perf_counter() - started):,.0f} entries/s", told)
