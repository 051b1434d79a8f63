"""Fakes of the grid, headers of real images, and the queue in a real database."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

import pydicom
import pytest
from mdm_deid import Deidentifier, Patient, PatientIdRule, Profile, Pseudonymiser
from mdm_deid.check.self_check import CheckedDeidentifier
from mdm_deid.pixels.rule import PixelRules
from mdm_dicom_srm import dicom_log
from mdm_dicom_srm.judgement import Judgement, judge
from mdm_dicom_srm.pacs.part10 import Header, header_of
from mdm_dicom_srm.pacs.port import InstanceLocator, RetrievedInstance
from mdm_dicom_srm.record_seal import RecordSealer
from mdm_dicom_srm.register.rules import attribute
from mdm_dicom_srm.register.rules.description import Describer
from mdm_dicom_srm.register.rules.judge import Rejudge
from mdm_dicom_srm.register.rules.names import Names
from mdm_dicom_srm.register.rules.pipeline import Pipeline
from mdm_dicom_srm.register.rules.port import Collection, Directory, Entry, File, Grid, Queue
from mdm_dicom_srm.register.rules.service import RegistrationService
from mdm_dicom_srm.register.rules.site import SiteAcls
from mdm_dicom_srm.register.store.queue import RegistrationStore
from mdm_dicom_srm.register.store.shared import SharedStore
from mdm_service.access.acl import Acl, AclEntry
from mdm_service.database import migrate
from mdm_wire.errors import Conflict, MdmError, Unavailable
from mdm_wire.permission import Permission
from psycopg_pool import ConnectionPool
from pydicom.data import get_testdata_file

SECRET = bytes(range(32))
STUDY = "1.2.826.0.1.77.1"
SERIES = "1.2.826.0.1.77.1.1"

dicom_log.silence()


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


class FakeService:
    """A grid service that keeps what it receives, and fails or dies on request."""

    def __init__(self) -> None:
        self.acls: dict[UUID, Acl] = {}
        self.trouble: Exception | None = None
        self.after: Exception | None = None
        self.calls = 0

    def ensure_acls(self, acls: Sequence[Acl]) -> None:
        self.fail()
        for acl in acls:
            self.acls.setdefault(acl.id, acl)

    def fail(self) -> None:
        self.calls += 1
        if self.trouble is not None:
            raise self.trouble

    def done(self) -> None:
        """Die after the work was done but before anybody hears of it."""
        if self.after is not None:
            raise self.after


class FakeKeys(FakeService):
    def __init__(self) -> None:
        super().__init__()
        self.keys: dict[UUID, UUID] = {}
        self.dead: set[UUID] = set()
        self.refused: dict[UUID, MdmError] = {}

    def missing(self, guids: Sequence[UUID]) -> set[UUID]:
        self.fail()
        return set(guids) - self.keys.keys()

    def move(self, guids: Sequence[UUID], acl_id: UUID) -> dict[UUID, MdmError | None]:
        self.fail()
        assert acl_id in self.acls
        self.keys.update(dict.fromkeys(guids, acl_id))
        return dict.fromkeys(guids, None)

    def destroy(self, guids: Sequence[UUID]) -> dict[UUID, MdmError | None]:
        self.fail()
        for guid in guids:
            if self.keys.pop(guid, None) is not None:
                self.dead.add(guid)
        self.done()
        return dict.fromkeys(guids, None)

    def create_keys(self, guids: Sequence[UUID], acl_id: UUID) -> dict[UUID, MdmError | None]:
        self.fail()
        assert acl_id in self.acls
        assert self.dead.isdisjoint(guids), "a GUID whose key was destroyed stays dead"
        others = {guid: Conflict("KEY_GUARDED_OTHERWISE", "") for guid in guids if self.keys.get(guid, acl_id) != acl_id}
        self.keys.update({guid: acl_id for guid in guids if guid not in self.refused and guid not in others})
        self.done()
        return {guid: self.refused.get(guid) or others.get(guid) for guid in guids}


class FakeMetadata(FakeService):
    def __init__(self) -> None:
        super().__init__()
        self.collections: dict[str, Collection] = {}
        self.entries: dict[str, dict[str, Entry]] = {}

    def ensure_collections(self, collections: Sequence[Collection]) -> None:
        self.fail()
        for collection in collections:
            assert {collection.acl_id, collection.default_acl_id} <= self.acls.keys()
            self.collections.setdefault(collection.path, collection)

    def upsert(self, collection: str, entries: Sequence[Entry]) -> list[MdmError | None]:
        self.fail()
        known = {item.name for item in self.collections[collection].attributes}
        for entry in entries:
            assert entry.acl_id in self.acls
            assert entry.values.keys() <= known
            stored = self.entries.setdefault(collection, {})
            before = stored[entry.key].values if entry.key in stored else {}
            stored[entry.key] = Entry(entry.key, entry.acl_id, {**before, **entry.values})
        self.done()
        return [None] * len(entries)

    def remove(self, collection: str, keys: Sequence[str]) -> None:
        self.fail()
        for key in keys:
            self.entries.get(collection, {}).pop(key, None)
        self.done()


class FakeCatalog(FakeService):
    def __init__(self) -> None:
        super().__init__()
        self.directories: dict[str, Directory] = {}
        self.files: dict[UUID, File] = {}

    def ensure_directories(self, directories: Sequence[Directory]) -> None:
        self.fail()
        for directory in directories:
            parent = directory.lfn.rpartition("/")[0]
            assert not parent or parent in self.directories
            self.directories.setdefault(directory.lfn, directory)

    def register(self, files: Sequence[File]) -> list[MdmError | None]:
        self.fail()
        for file in files:
            assert file.lfn.rpartition("/")[0] in self.directories
            assert self.files.get(file.guid, file).lfn == file.lfn, "registered under another name"
            self.files.setdefault(file.guid, file)
        self.done()
        return [None] * len(files)

    def replace(self, files: Sequence[File]) -> list[MdmError | None]:
        self.fail()
        for file in files:
            assert file.lfn.rpartition("/")[0] in self.directories
            self.files[file.guid] = file
        self.done()
        return [None] * len(files)

    def lfns(self, guids: Sequence[UUID]) -> dict[UUID, str]:
        self.fail()
        return {guid: self.files[guid].lfn for guid in guids if guid in self.files}

    def remove(self, guids: Sequence[UUID]) -> None:
        self.fail()
        for guid in guids:
            self.files.pop(guid, None)
        self.done()

    def prune(self, directories: Sequence[str]) -> None:
        self.fail()
        for path in sorted(directories, key=len, reverse=True):
            names = [file.lfn for file in self.files.values()] + list(self.directories)
            if not any(name.startswith(f"{path}/") for name in names):
                self.directories.pop(path, None)
        self.done()

    def set_sizes(self, sizes: Mapping[UUID, int]) -> None:
        self.fail()
        for guid, size in sizes.items():
            if guid in self.files:
                self.files[guid] = replace(self.files[guid], size=size)


class FakeCopies:
    """Remembers which staged copies were to go."""

    def __init__(self) -> None:
        self.forgotten: list[UUID] = []

    def forget(self, guids: Sequence[UUID]) -> None:
        self.forgotten += guids


class InlineJudge:
    """Judges at once, by a profile and pixel rules; `rules` is theirs to change."""

    def __init__(
        self,
        profile: Profile | None = None,
        pixels: PixelRules | None = None,
        rules: str = "first",
        patient_ids: PatientIdRule | None = None,
    ) -> None:
        profile = profile or Profile.shipped("basic")
        self.rules = rules
        self.judged = 0
        self._deidentifier = CheckedDeidentifier(Deidentifier(profile, Pseudonymiser(SECRET), pixels, patient_ids), profile)

    def judge(self, part10: bytes, patient: Patient | None) -> Judgement:
        self.judged += 1
        return replace(judge(self._deidentifier, part10, patient), rules=self.rules, patient=patient)


@dataclass
class FakePacs:
    """A PACS that has some studies."""

    studies: dict[str, list[Header]] = field(default_factory=dict)
    away: bool = False
    retrieved: int = 0

    def take(self, header: Header) -> None:
        """Have an instance, instead of the one that had its name."""
        for study in self.studies.values():
            study[:] = [known for known in study if known.sop_uid != header.sop_uid]
        self.studies.setdefault(header.study_uid, []).append(header)

    def retrieve(self, instances: Sequence[InstanceLocator]) -> Iterator[RetrievedInstance]:
        if self.away:
            raise Unavailable("PACS_UNAVAILABLE", "away")
        wanted = {locator.sop_uid for locator in instances}
        for header in (header for study in self.studies.values() for header in study):
            if header.sop_uid in wanted:
                self.retrieved += 1
                yield RetrievedInstance(header.sop_uid, header.whole)

    def headers(self, study_uid: str) -> Iterator[Header]:
        if self.away:
            raise Unavailable("PACS_UNAVAILABLE", "away")
        yield from self.studies.get(study_uid, [])

    def ping(self) -> None:
        return None


@dataclass
class Site:
    """Registration with a real queue and a fake grid."""

    pool: ConnectionPool
    names: Names
    store: RegistrationStore
    shared: SharedStore
    keys: FakeKeys
    metadata: FakeMetadata
    catalog: FakeCatalog
    describer: Describer
    acls: SiteAcls
    judge: InlineJudge
    pacs: FakePacs = field(default_factory=FakePacs)
    copies: FakeCopies = field(default_factory=FakeCopies)
    max_attempts: int = 3

    def service(self, pacs: FakePacs | None = None, wake: Callable[[], None] = lambda: None) -> RegistrationService:
        """Registration as triggers and operators meet it."""
        return RegistrationService(self.store, self.shared, self.names, pacs or self.pacs, self.judge, wake)

    def pipeline(self, queue: Queue | None = None) -> Pipeline:
        """A new pipeline, as after a restart: it remembers nothing."""
        grid = Grid(self.keys, self.metadata, self.catalog, self.copies)
        rejudge = Rejudge(self.judge, self.pacs)
        return Pipeline(queue or self.store, self.shared, rejudge, self.describer, self.acls, self.names, grid, self.max_attempts)

    def enqueue(self, *headers: Header) -> list[UUID]:
        """Have instances arrive that the PACS has from then on; return their GUIDs of generation 0."""
        for item in headers:
            self.pacs.take(item)
        self.service().enqueue(headers)
        return [self.names.candidate(item).instance for item in headers]

    def run(self) -> int:
        """Work on everything that is due, with a new pipeline; return how many batches there were."""
        count = 0
        pipeline = self.pipeline()
        while batch := self.store.claim(100, 60):
            pipeline.run(batch)
            count += 1
        return count

    def expire(self) -> None:
        """Let leases and pauses be over."""
        with self.pool.connection() as connection:
            connection.execute("UPDATE registration SET due_at = now() - interval '1 s'")
            connection.execute("UPDATE registration SET lease_until = now() - interval '1 s' WHERE lease_id IS NOT NULL")

    def states(self) -> dict[UUID, tuple[str, str]]:
        return {item.guid: (str(item.state), item.reason) for item in self.store.page(None, None, 1000).registrations}

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
            store=RegistrationStore(pool, RecordSealer(SECRET), names),
            shared=SharedStore(pool, RecordSealer(SECRET), names, rule),
            keys=FakeKeys(),
            metadata=FakeMetadata(),
            catalog=FakeCatalog(),
            describer=Describer(names, attribute.load(None)),
            judge=InlineJudge(Profile.shipped(profile), patient_ids=rule),
            acls=SiteAcls(names, entries),
        )

    return make


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()
