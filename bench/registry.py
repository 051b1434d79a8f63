"""What the registry costs: registration, scans, changes and removal, on a whole stack; and a scan of many headers in one process.

On a stack of its own (needs Orthanc and dcmtk): --sent CT images of 0.5 MB, 100 to a study, in whose headers 150 of 260 elements vary,
are sent to dicom-srm by storescu, over one association and over four; the rate is that of acknowledgements, and beside it that until the
last one is published. --images CT images of 0.04 MB, 100 to a study, are stored in the PACS, which forwards them; as many
are stored while the forwarder is stopped, and found by a scan; all are scanned while nothing has changed, scanned as if every header had
changed, and unregistered. Each line has images/s from the first image stored (or the
command's start) to the last one published (or removed), the most memory that dicom-srm had, its judging processes included, and which
processes used the processor. In one process: --listed instances are put into the registry of a real PostgreSQL, 100 to a study, and
scanned against a PACS that lists them as they are; nothing is retrieved.

Run: python bench/registry.py [--sent 1000] [--images 400] [--listed 20000]
"""

import argparse
import os
import random
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psutil
import psycopg
import pydicom
from mdm_dicom_srm.pacs.header import header_of
from mdm_dicom_srm.pacs.port import InstanceLocator, ListedInstance, Scope
from mdm_dicom_srm.register.rules.facts import read
from mdm_dicom_srm.register.rules.inspector import Inspector
from mdm_dicom_srm.register.rules.names import Names
from mdm_dicom_srm.register.rules.policy import SitePolicy
from mdm_dicom_srm.register.rules.scan import Action, Order, ScanStores
from mdm_dicom_srm.register.rules.scanner import Scanner, Schedule
from mdm_dicom_srm.register.store.content import ContentStore
from mdm_dicom_srm.register.store.inspection import InspectionStore
from mdm_dicom_srm.register.store.queue import QueueStore
from mdm_dicom_srm.register.store.scan import ScanStore
from mdm_dicom_srm.site_secret import RecordSealer
from mdm_local.postgres import PostgresServer
from mdm_service.database import migrate
from mdm_testing.local_stack import LocalStack
from mdm_testing.stack import Mdm
from psycopg_pool import ConnectionPool
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

PER_STUDY = 100
UNDER_WAY = "SELECT count(*) FROM registration WHERE state IN ('RECEIVED', 'KEYED', 'DESCRIBED', 'REMOVING')"


def make_images(folder: Path, count: int) -> list[Path]:
    """Write CT images, 100 to a study and series; return their paths."""
    dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
    paths = []
    for number in range(count):
        if number % PER_STUDY == 0:
            dataset.PatientID, dataset.PatientName = f"BENCH{number}", f"BENCH^{number}"
            dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.InstanceNumber = number % PER_STUDY + 1
        paths.append(folder / f"{number}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def make_realistic(folder: Path, count: int) -> list[Path]:
    """Write CT images of 512 by 512 pixels, 100 to a study and series; 150 elements differ from one to the next. Return their paths."""
    dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
    dataset.Rows = dataset.Columns = 512
    varying = [
        element for element in dataset if element.VR in ("DS", "IS", "LO", "SH", "LT", "ST", "UL", "SL", "US", "SS") and varies(element)
    ]
    assert len(varying) >= 150, len(varying)
    generator, paths = random.Random(7), []
    for number in range(count):
        if number % PER_STUDY == 0:
            dataset.PatientID, dataset.PatientName = f"SENT{number}", f"SENT^{number}"
            dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
        for place, element in enumerate(varying[:150]):
            text = element.VR in ("LO", "SH", "LT", "ST")
            element.value = f"v{number % 1000} {place}" if text else (number * 7 + place) % 30_000
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.InstanceNumber = number % PER_STUDY + 1
        dataset.PixelData = generator.randbytes(512 * 512 * 2)
        paths.append(folder / f"sent-{number}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def varies(element: pydicom.DataElement) -> bool:
    """Return whether an element may have any value: neither what names, identifies or decides, nor what says how pixels are stored."""
    return element.tag.group not in (0x0010, 0x0028, 0x7FE0) and not element.tag.is_private_creator and element.VM <= 1


def processes(data_dir: Path) -> dict[str, list[psutil.Process]]:
    """Return the stack's processes by what they are."""
    found: dict[str, list[psutil.Process]] = {}
    for process in psutil.process_iter(["cmdline", "name"]):
        command = " ".join(process.info["cmdline"] or ())
        if str(data_dir) in command:
            words = ("dicom-srm", "keystore", "catalog", "metadata", "Orthanc", "forwarder", "postgres")
            name = next((word for word in words if word in command), "other")
            found.setdefault(name, []).append(process)
            for child in process.children(recursive=True):
                found[name].append(child)
    return found


class Meter:
    """Seconds, processor seconds by process, and the memory of dicom-srm during an action."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    def measure(self, name: str, count: int, action: Callable[[], None], done: Callable[[], bool]) -> None:
        """Do an action, wait until it is done, and print a line."""
        before, started, most = self._processor(), time.perf_counter(), 0
        action()
        while not done():
            most = max(most, self._memory())
            time.sleep(0.2)
        seconds = time.perf_counter() - started
        most = max(most, self._memory())
        used = {kind: spent - before.get(kind, 0.0) for kind, spent in self._processor().items()}
        shares = ", ".join(f"{kind} {spent / seconds:.0%}" for kind, spent in sorted(used.items(), key=lambda item: -item[1])[:4])
        each = ", ".join(f"{kind} {1000 * spent / count:.1f}" for kind, spent in sorted(used.items(), key=lambda item: -item[1])[:5])
        print(f"{name:34} {count / seconds:8.0f}/s {seconds:7.1f} s {most / 1e6:7.0f} MB   {shares}; ms an image: {each}", flush=True)

    def _processor(self) -> dict[str, float]:
        return {
            kind: sum(sum(process.cpu_times()[:2]) for process in set(found) if process.is_running())
            for kind, found in processes(self._data_dir).items()
        }

    def _memory(self) -> int:
        total = 0
        for process in set(processes(self._data_dir).get("dicom-srm", ())):
            try:
                total += int(process.memory_full_info().pss)
            except psutil.Error:
                continue
        return total


def on_a_stack(sent: int, count: int, folder: Path) -> None:
    """Measure registration, scan, change and removal through the services."""
    stack = LocalStack(folder / "stack")
    stack.up()
    try:
        if stack.pacs["kind"] != "orthanc":
            raise SystemExit("bench/registry.py: needs Orthanc (Debian: orthanc, orthanc-dicomweb)")
        mdm, meter = Mdm(stack, folder), Meter(folder / "stack")

        def waiting(published: int) -> bool:
            with psycopg.connect(stack.database("dicom-srm")) as connection:
                [(under_way,)] = connection.execute(UNDER_WAY).fetchall()
                sql = "SELECT count(*) FROM registration WHERE state = 'PUBLISHED'"
                return bool(under_way == 0 and connection.execute(sql).fetchall() == [(published,)])

        def published() -> int:
            with psycopg.connect(stack.database("dicom-srm")) as connection:
                [(found,)] = connection.execute("SELECT count(*) FROM registration WHERE state = 'PUBLISHED'").fetchall()
            return int(found)

        def run(*words: str) -> None:
            result = mdm("operator", *words, timeout=3600)
            assert result.code == 0, result.err

        def store() -> None:
            paths = make_images(folder, count)
            for first in range(0, count, PER_STUDY):
                stack.store(*paths[first : first + PER_STUDY])

        for senders in (1, 4) if sent else ():
            before = published()
            send(stack, make_realistic(folder, sent), senders, meter, lambda before=before: waiting(before + sent))
        for path in folder.glob("sent-*.dcm"):
            path.unlink()
        base = published()
        if not count:
            return
        meter.measure("register, forwarded by the PACS", count, store, lambda: waiting(base + count))
        stack.stop("pacs-forwarder")
        store()
        meter.measure("scan, half new", count, lambda: run("register", "--all"), lambda: waiting(base + 2 * count))
        run("register", "--all")  # what Orthanc lists otherwise than headers say is retrieved once
        meter.measure("scan, all equal", 2 * count, lambda: run("register", "--all"), lambda: True)
        with psycopg.connect(stack.database("dicom-srm"), autocommit=True) as connection:
            connection.execute("UPDATE registration SET digest = NULL, listing = NULL")  # as if every header had changed
        meter.measure("scan, all changed", 2 * count, lambda: run("register", "--all"), lambda: waiting(base + 2 * count))
        gone = base + 2 * count
        meter.measure("unregister", gone, lambda: run("unregister", "/biomed/hospital-a", "--yes"), lambda: waiting(0))
    finally:
        stack.down()


def send(stack: LocalStack, paths: list[Path], senders: int, meter: Meter, done: Callable[[], bool]) -> None:
    """Send images by so many storescu at a time, as the PACS, and print how fast they were acknowledged and published."""
    scp, acknowledged = stack.scp, [0.0]
    command = ["storescu", "-aet", stack.pacs["aet"], "-aec", scp["aet"], scp["host"], str(scp["port"])]
    shares = [paths[number::senders] for number in range(senders)]

    def store() -> None:
        began = time.perf_counter()
        running = [subprocess.Popen([*command, *map(str, share)]) for share in shares]
        assert [process.wait() for process in running] == [0] * senders
        acknowledged[0] = time.perf_counter() - began

    meter.measure(f"sent by {senders} storescu, published", len(paths), store, done)
    print(f"{'  acknowledged':34} {len(paths) / acknowledged[0]:8.0f}/s {acknowledged[0]:7.1f} s", flush=True)


class ListingPacs:
    """A PACS that lists studies of 100 images; nothing can be retrieved."""

    def __init__(self, template: ListedInstance, studies: int) -> None:
        self._template, self._studies = template, studies

    def studies(self, scope: Scope) -> Iterator[str]:
        """Yield every study."""
        return (f"1.2.3.{number}" for number in range(self._studies))

    def listing(self, study_uid: str) -> Iterator[ListedInstance]:
        """Yield 100 instances."""
        for number in range(PER_STUDY):
            yield replace(self._template, locator=InstanceLocator(study_uid, f"{study_uid}.1", f"{study_uid}.1.{number}", "pacs"))


def in_one_process(count: int) -> None:
    """Measure a scan of so many instances that are as they were."""
    part10 = Path(get_testdata_file("CT_small.dcm", download=False)).read_bytes()
    header = header_of(part10)
    pacs = ListingPacs(ListedInstance(InstanceLocator("", "", ""), "", read(part10)[1]), count // PER_STUDY)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        server = PostgresServer(Path(folder) / "postgres")
        server.start()
        stack.callback(server.stop)
        conninfo = server.create_database("registry")
        migrate(conninfo, ["mdm_dicom_srm.migrations"])
        with ConnectionPool(conninfo, min_size=1, max_size=4, open=True) as pool:
            names, sealer = Names("biomed", "hospital-a", "hospital-a", bytes(32)), RecordSealer(bytes(32))
            queue = QueueStore(pool, sealer, names)
            policy = SitePolicy()
            candidate = names.candidate(header, "pacs")
            for study_uid in pacs.studies(Scope()):
                queue.enqueue(
                    [
                        replace(
                            candidate,
                            instance=names.instance(item.locator.sop_uid),
                            study_token=names.study_token(study_uid),
                            series_token=names.series_token(study_uid, item.locator.series_uid),
                            locator=item.locator,
                            listing=names.listing_digest(item.locator, item.attributes),
                            policy=policy.fingerprint,
                        )
                        for item in pacs.listing(study_uid)
                    ]
                )
            with pool.connection() as connection:
                connection.execute("UPDATE registration SET state = 'PUBLISHED', header = NULL")
            scan(pacs, pool, names, sealer, policy, count)


def scan(pacs: ListingPacs, pool: ConnectionPool, names: Names, sealer: RecordSealer, policy: SitePolicy, count: int) -> None:
    """Scan everything with one thread and print a line."""
    stores = ScanStores(ScanStore(pool, sealer, names), InspectionStore(pool, sealer, names), ContentStore(pool, sealer, names))
    service = type("Service", (), {"policy": policy})()
    inspector, scanner = Inspector(pacs, names, stores, service, 600), Scanner(pacs, stores, Schedule())
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    scan_id = stores.scans.start(Order(Action.REGISTER, Scope(), by="CN=bench"))
    while listing := stores.scans.claim(600):
        scanner.gather(listing)
    gathered = time.perf_counter() - started
    while inspection := stores.inspections.claim(600):
        stores.inspections.finish(inspection, inspector.inspect(inspection))
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    found = stores.scans.get(scan_id)
    assert found is not None and found.counts.equal == count, found
    own = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        f"{'scan of listings, one thread':34} {count / seconds:8.0f}/s {seconds:7.1f} s {after.ru_maxrss / 1e3:7.0f} MB   "
        f"this process {own / seconds:.0%}; gathering the studies took {gathered:.1f} s; memory before {before.ru_maxrss / 1e3:.0f} MB"
    )


def main() -> None:
    """Measure and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sent", type=int, default=1000, help="by storescu through a whole stack; 0 leaves this out")
    parser.add_argument("--images", type=int, default=400, help="through a whole stack; 0 leaves this out")
    parser.add_argument("--listed", type=int, default=20_000, help="in one process; 0 leaves this out")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} processors; load {os.getloadavg()[0]:.0f}", flush=True)
    if arguments.listed:
        in_one_process(arguments.listed)
    if arguments.images or arguments.sent:
        with tempfile.TemporaryDirectory() as folder:
            on_a_stack(arguments.sent, arguments.images, Path(folder))


if __name__ == "__main__":
    main()
