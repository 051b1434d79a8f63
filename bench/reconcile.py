"""What a reconciliation costs: all of a site's images compared in registry, catalog, metadata and three keystores.

On a stack of its own (needs Orthanc): one image is registered, and its rows are copied under other GUIDs into the databases of all
services, as registration would have left them, up to each of the --images; `mdm-dicom-srm reconcile` then compares everything and has to
find nothing. At the end --lost names are taken out of the catalog, and have to be found. Each line has the seconds, images/s, the
processor time of the command and of the services, and the most memory of the command and of the largest service: what grows with the
number of images is not bounded.

Run: python bench/reconcile.py [--images 10000,100000] [--lost 50]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
import psycopg
from mdm_dicom_srm.config import Settings
from mdm_dicom_srm.register.store.registration import RowSealer
from mdm_dicom_srm.site_secret import RecordSealer, read_site_secret
from mdm_service import settings
from mdm_testing.image import make_image
from mdm_testing.local_stack import LocalStack
from mdm_testing.stack import Mdm

SERVICES = ("catalog", "metadata", "keystore-a", "keystore-b", "keystore-c")
#: Of each table that is copied: the columns that differ between two images. The others are those of the one that was registered.
REGISTRATION = {"guid": "n.guid", "instance": "n.guid", "locator": "n.locator", "lfn": "regexp_replace(t.lfn, '[^/]*$', n.guid || '.dcm')"}
ENTRY = {"guid": "n.guid", "name": "n.guid || '.dcm'"}
REPLICA = {"entry_id": "(SELECT id FROM entry WHERE guid = n.guid)", "surl": "regexp_replace(t.surl, '[^/]*$', n.guid::text)"}


@dataclass(frozen=True)
class Site:
    """The stack, and the image whose rows are copied."""

    stack: LocalStack
    first: UUID
    sealer: RowSealer
    config: Path

    def add(self, count: int) -> None:
        """Add so many images to registry, catalog, metadata and keystores."""
        guids = [uuid4() for _ in range(count)]
        with self._new("dicom-srm", guids) as connection:
            copy(connection, "registration", f"t.guid = '{self.first}'", REGISTRATION)
        with self._new("catalog", guids) as connection:
            copy(connection, "entry", f"t.guid = '{self.first}'", ENTRY)
            copy(connection, "replica", f"t.surl LIKE '%/{self.first}'", REPLICA)
        with self._new("metadata", guids) as connection:
            copy(connection, "entry", f"t.key = '{self.first}'", {"key": "n.guid::text"})
        for name in SERVICES[2:]:
            with self._new(name, guids) as connection:
                copy(connection, "key_share", f"t.guid = '{self.first}'", {"guid": "n.guid"})

    def lose(self, count: int) -> None:
        """Take names out of the catalog."""
        with psycopg.connect(self.stack.database("catalog")) as connection:
            connection.execute("DELETE FROM entry WHERE guid IN (SELECT guid FROM entry WHERE guid <> %s LIMIT %s)", (self.first, count))

    @contextmanager
    def _new(self, service: str, guids: list[UUID]) -> Iterator[psycopg.Connection[Any]]:
        """Yield a connection with a table of the new GUIDs and, for the registry, their sealed locators; analyse what was added."""
        with psycopg.connect(self.stack.database(service)) as connection:
            connection.execute("CREATE TEMP TABLE n (guid uuid, locator bytea)")
            sealed = None
            if service == "dicom-srm":
                row = connection.execute("SELECT locator FROM registration WHERE guid = %s", (self.first,)).fetchone()
                assert row is not None
                sealed = self.sealer.open_locator(self.first, row[0])
            with connection.cursor() as cursor, cursor.copy("COPY n FROM STDIN (FORMAT BINARY)") as rows:
                rows.set_types(["uuid", "bytea"])
                for guid in guids:
                    rows.write_row((guid, self.sealer.seal_locator(guid, sealed) if sealed else None))
            yield connection
        with psycopg.connect(self.stack.database(service), autocommit=True) as connection:
            connection.execute("ANALYZE")


def copy(connection: psycopg.Connection[Any], table: str, which: str, differing: dict[str, str]) -> None:
    """Copy the row of a table that `which` names for every new GUID."""
    sql = (
        "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' AND table_name = %s"
        " AND is_identity = 'NO' AND is_generated = 'NEVER'"
    )
    columns = [name for (name,) in connection.execute(sql, (table,)).fetchall()]
    values = ", ".join(differing.get(name, f"t.{name}") for name in columns)
    connection.execute(f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM {table} AS t, n WHERE {which}".encode())


def measure(site: Site, images: int) -> dict[str, int]:
    """Reconcile once, print a line, and return how many differences there are of each kind."""
    services = {name: psutil.Process(site.stack._pid(name)) for name in SERVICES}
    before = {name: sum(process.cpu_times()[:2]) for name, process in services.items()}
    begin = time.monotonic()
    command = [sys.executable, "-m", "mdm_dicom_srm", "reconcile", "--config", str(site.config), "--min-age", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - begin
    assert process.returncode in (0, 1), process.returncode
    spent = {name: sum(process.cpu_times()[:2]) - before[name] for name, process in services.items()}
    memory = {name: process.memory_info().rss for name, process in services.items()}
    largest = max(memory, key=lambda name: memory[name])
    print(
        f"{images:>7} images: {seconds:6.1f} s, {images / seconds:6.0f} images/s; "
        f"processor: command {usage.ru_utime + usage.ru_stime:.1f} s, "
        + ", ".join(f"{name} {value:.1f} s" for name, value in spent.items())
        + f"; memory: command {usage.ru_maxrss / 1024:.0f} MB, {largest} {memory[largest] / 2**20:.0f} MB",
        flush=True,
    )
    return {found["kind"]: found["found"] for found in map(json.loads, output.splitlines())}


def main() -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=lambda text: sorted(map(int, text.split(","))), default=[10_000, 100_000])
    parser.add_argument("--lost", type=int, default=50)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as exits:
        stack = LocalStack(Path(folder) / "stack")
        exits.callback(stack.down)
        stack.up()
        image, mdm = make_image(Path(folder) / "image.dcm", "CT_small.dcm"), Mdm(stack, Path(folder))
        stack.store(image.path)
        [row] = mdm.registered(image.patient_id)
        config = stack.service_config("dicom-srm")
        loaded = settings.load(Settings, "dicom-srm", config)
        site = Site(stack, UUID(row["guid"]), RowSealer(RecordSealer(read_site_secret(loaded.site_secret_file))), config)
        print(f"load average at the start: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        present = 1
        for images in arguments.images:
            site.add(images - present)
            present = images
            found = measure(site, images)
            assert found == {}, found
        site.lose(arguments.lost)
        found = measure(site, present)
        assert found == {"name-missing": arguments.lost}, found
        print(f"{arguments.lost} lost names: all found")


if __name__ == "__main__":
    main()
