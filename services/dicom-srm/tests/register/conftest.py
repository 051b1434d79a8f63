"""Headers of real images, and registration on a real database and a fake grid."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

import pydicom
import pytest
from mdm_deid import PatientIdRule, Profile, Pseudonymiser
from mdm_deid.encoding.header import Header
from mdm_dicom_srm.pacs.dimse import silence_dicom
from mdm_dicom_srm.pacs.header import header_of
from mdm_dicom_srm.pacs.port import Scope
from mdm_dicom_srm.register.rules import attribute
from mdm_dicom_srm.register.rules.arrival import Arrivals
from mdm_dicom_srm.register.rules.assessor import Assessor
from mdm_dicom_srm.register.rules.description import Describer
from mdm_dicom_srm.register.rules.grid_writer import GridWriter, Prerequisites
from mdm_dicom_srm.register.rules.inspector import Inspector
from mdm_dicom_srm.register.rules.model import Batch
from mdm_dicom_srm.register.rules.names import Names
from mdm_dicom_srm.register.rules.pipeline import Pipeline
from mdm_dicom_srm.register.rules.policy import SitePolicy
from mdm_dicom_srm.register.rules.port import Grid, Queue, Registry
from mdm_dicom_srm.register.rules.scan import Action, Counts, Order, ScanState, ScanStores
from mdm_dicom_srm.register.rules.scanner import Scanner, ScanService, Schedule, look_for
from mdm_dicom_srm.register.rules.service import RegistrationService
from mdm_dicom_srm.register.store.commitment import CommitmentStore
from mdm_dicom_srm.register.store.content import ContentStore
from mdm_dicom_srm.register.store.inspection import InspectionStore
from mdm_dicom_srm.register.store.queue import QueueStore
from mdm_dicom_srm.register.store.registration import RegistrationStore
from mdm_dicom_srm.register.store.scan import ScanStore
from mdm_dicom_srm.register.store.shared_entry import SharedEntryStore
from mdm_dicom_srm.site_secret import RecordSealer
from mdm_service.access.acl import AclEntry
from mdm_service.database import migrate
from mdm_wire.permission import Permission
from psycopg_pool import ConnectionPool
from pydicom.data import get_testdata_file

from .fakes import SECRET, FakeCatalog, FakeCopies, FakeKeys, FakeMetadata, FakePacs, InlineJudge

STUDY = "1.2.826.0.1.77.1"
SERIES = "1.2.826.0.1.77.1.1"
ROOT = "/biomed/hospital-a"
IMAGES, SERIES_PATH, STUDIES, PATIENTS = (f"{ROOT}/{name}" for name in ("images", "series", "studies", "patients"))
OTHER_PATIENT = {"PatientID": "RIGHT2", "PatientName": "Right^Person", "PatientSex": "F"}

silence_dicom()


def part10(name: str = "CT_small.dcm", number: int = 1, **changes: object) -> bytes:
    """A real image with UIDs of its own; a change to None deletes the attribute."""
    dataset = pydicom.dcmread(get_testdata_file(name, download=False))
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = STUDY, SERIES
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{SERIES}.{number}"
    dataset.InstanceNumber = number
    dataset.PatientID, dataset.PatientName, dataset.PatientBirthDate = "SECRET77", "Secret^Name", "19600102"
    for keyword, value in changes.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def header(name: str = "CT_small.dcm", number: int = 1, **changes: object) -> Header:
    return header_of(part10(name, number, **changes))


def guid_of(generation: int = 0, number: int = 1) -> UUID:
    """The GUID of a generation of an instance that `part10` makes."""
    return Pseudonymiser(SECRET).guid(f"{SERIES}.{number}", generation)


@dataclass
class Site:
    """Registration with a real queue and a fake grid."""

    pool: ConnectionPool
    names: Names
    queue: QueueStore
    registrations: RegistrationStore
    shared: SharedEntryStore
    keys: FakeKeys
    metadata: FakeMetadata
    catalog: FakeCatalog
    describer: Describer
    acl_entries: dict[str, tuple[AclEntry, ...]]
    judge: InlineJudge
    pacs: FakePacs = field(default_factory=FakePacs)
    copies: FakeCopies = field(default_factory=FakeCopies)
    max_attempts: int = 3
    policy: SitePolicy = field(default_factory=SitePolicy)
    gone_after: float = 0
    arrivals: Arrivals = field(default_factory=Arrivals)

    def registry(self, queue: Queue | None = None) -> Registry:
        return Registry(queue or self.queue, self.registrations, self.shared)

    def service(self, pacs: FakePacs | None = None, wake: Callable[[], None] = lambda: None) -> RegistrationService:
        """Registration as triggers and operators meet it."""
        return RegistrationService(self.registry(), self.names, pacs or self.pacs, self.judge, self.arrivals, wake, self.policy)

    def stores(self) -> ScanStores:
        sealer = RecordSealer(SECRET)
        return ScanStores(*(store(self.pool, sealer, self.names) for store in (ScanStore, InspectionStore, ContentStore)))

    def scans(self) -> ScanService:
        """Scans and removals as operators meet them."""
        return ScanService(self.stores(), self.names, lambda: None)

    def commitments(self) -> CommitmentStore:
        return CommitmentStore(self.pool, RecordSealer(SECRET))

    def look(self) -> None:
        """Do what is due of scans and inspections."""
        stores = self.stores()
        scanner = Scanner(self.pacs, stores, Schedule())
        inspector = Inspector(self.pacs, self.names, stores, self.service(), self.gone_after)
        while listing := stores.scans.claim(60):
            scanner.gather(listing)
        while inspection := stores.inspections.claim(60):
            stores.inspections.finish(inspection, inspector.inspect(inspection))

    def scan(self, scope: Scope | None = None, by: str = "CN=operator", *, dry_run: bool = False) -> Counts:
        """Scan a scope, and register and remove what follows from it; return what was found. Without `by` it is one by schedule."""
        stores = self.stores()
        scan_id = stores.scans.start(Order(Action.REGISTER, scope or Scope(), dry_run, by))
        self.look()
        self.run()
        scan = stores.scans.get(scan_id)
        assert scan is not None and scan.state is ScanState.DONE
        return scan.counts

    def pipeline(self, queue: Queue | None = None) -> Pipeline:
        """A new pipeline, as after a restart: it remembers nothing."""
        grid = Grid(self.keys, self.metadata, self.catalog, self.copies)
        registry = self.registry(queue)
        assessor = Assessor(
            self.judge, self.arrivals, self.pacs, self.describer, self.shared.decide_patient, partial(look_for, self.stores())
        )
        prerequisites = Prerequisites(self.names, grid, self.acl_entries, self.describer.collections())
        return Pipeline(registry.queue, assessor, GridWriter(registry, grid, self.names, prerequisites), self.max_attempts)

    def enqueue(self, *headers: Header) -> list[UUID]:
        """Have instances arrive that the PACS has from then on; return their GUIDs of generation 0."""
        for item in headers:
            self.pacs.take(item)
        self.service().enqueue(headers)
        return [self.names.candidate(item).instance for item in headers]

    def claim(self, limit: int, lease_seconds: int) -> Batch | None:
        """Take what is due for the process in which instances arrived."""
        return self.queue.claim(limit, lease_seconds, self.arrivals.series())

    def run(self) -> int:
        """Work on everything that is due, with a new pipeline; return how many batches there were."""
        count = 0
        pipeline = self.pipeline()
        while batch := self.claim(100, 60):
            pipeline.run(batch)
            count += 1
        return count

    def expire(self) -> None:
        """Let leases and pauses be over."""
        with self.pool.connection() as connection:
            connection.execute("UPDATE registration SET due_at = now() - interval '1 s'")
            connection.execute("UPDATE registration SET lease_until = now() - interval '1 s' WHERE lease_id IS NOT NULL")

    def states(self) -> dict[UUID, tuple[str, str]]:
        return {item.guid: (str(item.state), item.reason) for item in self.registrations.page(None, None, 1000).registrations}

    def patient_names(self) -> set[str]:
        return {entry.values["PatientName"] for entry in self.metadata.entries[PATIENTS].values()}  # type: ignore[misc]

    def visible(self) -> dict[str, object]:
        """Everything that users can see."""
        return {
            "files": dict(sorted(self.catalog.files.items())),
            "directories": sorted(self.catalog.directories),
            "keys": dict(sorted(self.keys.keys.items())),
            "entries": {path: dict(sorted(entries.items())) for path, entries in sorted(self.metadata.entries.items()) if entries},
        }

    def dump(self) -> str:
        """Everything that this service's database holds, as text."""
        with self.pool.connection() as connection:
            rows = connection.execute(
                "SELECT row_to_json(r)::text, encode(locator, 'escape'), encode(header, 'escape') FROM registration r"
            )
            return "\n".join(str(row) for row in rows)


@pytest.fixture
def pool(database) -> Iterator[ConnectionPool]:  # type: ignore[no-untyped-def]
    migrate(database.conninfo, ["mdm_dicom_srm.migrations"])
    with ConnectionPool(database.conninfo, min_size=1, max_size=8, open=True) as opened:
        yield opened


@pytest.fixture
def make_site(pool: ConnectionPool) -> Callable[..., Site]:
    """Make a site; sites on one database share what registration knows."""

    def make(rule: PatientIdRule | None = None, profile: str = "basic") -> Site:
        rule = rule or PatientIdRule()
        names = Names("biomed", "hospital-a", "hospital-a", SECRET)
        entries = {"study": (AclEntry("group:/biomed/neuro", Permission.READ),), "patients": (AclEntry("group:/p", Permission.READ),)}
        return Site(
            pool=pool,
            names=names,
            queue=QueueStore(pool, RecordSealer(SECRET), names),
            registrations=RegistrationStore(pool, RecordSealer(SECRET)),
            shared=SharedEntryStore(pool, RecordSealer(SECRET), names, rule),
            keys=FakeKeys(),
            metadata=FakeMetadata(),
            catalog=FakeCatalog(),
            describer=Describer(names, attribute.load(None)),
            judge=InlineJudge(Profile.shipped(profile), patient_ids=rule),
            acl_entries=entries,
        )

    return make


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()
