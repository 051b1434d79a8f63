"""Fakes of the grid's services, the judge and the PACS."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from uuid import UUID

from mdm_deid import Deidentifier, Patient, PatientIdRule, Profile, Pseudonymiser
from mdm_deid.check.self_check import CheckedDeidentifier
from mdm_deid.encoding.header import Header
from mdm_deid.pixels.rule import PixelRules
from mdm_dicom_srm.judgement import Judgement, judge
from mdm_dicom_srm.pacs.port import NOT_IN_PACS, InstanceLocator, ListedInstance, MissingInstance, RetrievedInstance, Scope
from mdm_dicom_srm.register.rules.facts import in_scope, read
from mdm_dicom_srm.register.rules.port import Collection, Directory, Entry, File
from mdm_service.access.acl import Acl
from mdm_wire.errors import Conflict, MdmError, Unavailable

SECRET = bytes(range(32))


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

    def begin(self, part10: bytes, patient: Patient | None) -> "Future[Judgement]":
        judged: Future[Judgement] = Future()
        judged.set_result(self.judge(part10, patient))
        return judged

    def is_settled(self, judgement: Judgement, part10: bytes) -> bool:
        return False

    def judge(self, part10: bytes, patient: Patient | None) -> Judgement:
        self.judged += 1
        return replace(judge(self._deidentifier, part10, patient), rules=self.rules, patient=patient)


@dataclass
class FakePacs:
    """A PACS that has some studies."""

    held: dict[str, list[Header]] = field(default_factory=dict)
    away: bool = False
    retrieved: int = 0
    listings: int = 0
    missing: str = NOT_IN_PACS
    lists_otherwise: dict[str, str] = field(default_factory=dict)
    listed_in: dict[str, str] = field(default_factory=dict)  # instances of a study that it lists in another one, too

    def take(self, header: Header) -> None:
        """Have an instance, instead of the one that had its name."""
        for study in self.held.values():
            study[:] = [known for known in study if known.sop_uid != header.sop_uid]
        self.held.setdefault(header.study_uid, []).append(header)

    def retrieve(self, instances: Sequence[InstanceLocator]) -> Iterator[RetrievedInstance | MissingInstance]:
        if self.away:
            raise Unavailable("PACS_UNAVAILABLE", "away")
        found = {header.sop_uid: header for study in self.held.values() for header in study}
        for sop_uid in [locator.sop_uid for locator in instances]:
            if sop_uid in found:
                self.retrieved += 1
                yield RetrievedInstance(sop_uid, found[sop_uid].whole)
            else:
                yield MissingInstance(sop_uid, self.missing)

    def headers(self, study_uid: str) -> Iterator[tuple[Header, str]]:
        if self.away:
            raise Unavailable("PACS_UNAVAILABLE", "away")
        yield from ((header, "pacs") for header in self.held.get(study_uid, []))

    def listing(self, study_uid: str) -> Iterator[ListedInstance]:
        if self.away:
            raise Unavailable("PACS_UNAVAILABLE", "away")
        self.listings += 1
        within = [study_uid, *(held for held, listed in self.listed_in.items() if listed == study_uid)]
        for header in (header for uid in within for header in self.held.get(uid, [])):
            facts, attributes = read(header.part10)
            locator = InstanceLocator(study_uid, header.series_uid, header.sop_uid, "pacs")
            yield ListedInstance(locator, facts.sop_class, {**attributes, **self.lists_otherwise})

    def studies(self, scope: Scope) -> Iterator[str]:
        if self.away:
            raise Unavailable("PACS_UNAVAILABLE", "away")
        for study_uid, headers in self.held.items():
            if any(in_scope(scope, InstanceLocator(h.study_uid, h.series_uid, h.sop_uid), read(h.part10)[0]) for h in headers):
                yield study_uid

    def ping(self) -> None:
        return None
