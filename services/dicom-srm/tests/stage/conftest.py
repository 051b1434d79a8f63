"""Fakes of staging's ports and a world built of them."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest
from mdm_deid import Patient
from mdm_deid.outcome import Outcome, Result
from mdm_dicom_srm.pacs.port import NOT_IN_PACS, InstanceLocator, Located, MissingInstance, RetrievedInstance
from mdm_dicom_srm.stage.rules.active import RequestLimits
from mdm_dicom_srm.stage.rules.control import RequestControl
from mdm_dicom_srm.stage.rules.journal import RequestJournal
from mdm_dicom_srm.stage.rules.kept_copy import KeptCopies
from mdm_dicom_srm.stage.rules.listing import Listing
from mdm_dicom_srm.stage.rules.model import Request, RequestSummary, StagedFile
from mdm_dicom_srm.stage.rules.port import CatalogEntry, FileChange, PathKind, Registrations, RequestChange, Sources
from mdm_dicom_srm.stage.rules.recheck import Rechecker
from mdm_dicom_srm.stage.rules.request import Requests
from mdm_dicom_srm.stage.rules.retrieval import FilesInWork, RetrievalLimits, Retriever
from mdm_dicom_srm.stage.rules.retrieval_queue import RetrievalQueue
from mdm_dicom_srm.stage.rules.service import Lifetimes, StagingService, Wish
from mdm_dicom_srm.stage.rules.target import SurlParser, TargetResolver
from mdm_dicom_srm.stage.sealing.threads import ThreadSealer
from mdm_dicom_srm.stage.store.spool import LocalSpool
from mdm_testing.process import eventually
from mdm_wire.errors import Forbidden, NotFound, Unavailable
from mdm_wire.permission import Permission

AUTHORITY = "hospital-a"
ROOT = "/biomed/hospital-a"
RECHECK_SECONDS = 60.0
PROLOGUE = bytes(128) + b"DICM"


class FakeDeidentifier:
    """Releases everything but what says otherwise in its first bytes."""

    def deidentify(self, part10: bytes, patient: Patient | None = None, released: frozenset[str] = frozenset()) -> Result:
        if part10.startswith(b"QUARANTINE") and "burned_in" not in released:
            return Result(Outcome.QUARANTINED, "BURNED_IN")
        if part10.startswith(b"CRASH"):
            raise RuntimeError("Doe^John")
        if part10.startswith(b"GARBLE"):
            return Result(Outcome.RELEASED, data=[b"not a DICOM file"])
        return Result(Outcome.RELEASED, data=[PROLOGUE, b"anonymous:", memoryview(part10)[10:]])


@dataclass
class FakePacs:
    """Holds series of instances; can be slow, break off, wait for `gate`, or forget."""

    content: dict[str, bytes] = field(default_factory=dict)
    retrievals: list[list[str]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    away: bool = False
    breaks_after: int | None = None
    missing: str = NOT_IN_PACS
    closed: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    def retrieve(self, instances: Sequence[InstanceLocator]) -> Iterator[RetrievedInstance | MissingInstance]:
        self.retrievals.append([locator.sop_uid for locator in instances])
        try:
            if self.away:
                raise Unavailable("PACS_UNAVAILABLE", "away")
            for number, locator in enumerate(instances):
                self.gate.wait(30)
                if number == self.breaks_after:
                    raise Unavailable("PACS_BROKE_OFF", "broke off")
                if locator.sop_uid in self.content:
                    yield RetrievedInstance(locator.sop_uid, self.content[locator.sop_uid])
                else:
                    yield MissingInstance(locator.sop_uid, self.missing)
        finally:
            self.closed += 1


class FakeKept:
    """Keeps ciphertext of results by GUID; None for one that is lost."""

    def __init__(self) -> None:
        self.content: dict[UUID, bytes | None] = {}

    def sizes(self, guids: Sequence[UUID]) -> dict[UUID, int]:
        return {guid: len(self.content[guid] or b"") for guid in guids if guid in self.content}

    def copy_to(self, guid: UUID, path: Path) -> int:
        content = self.content[guid]
        if content is None:
            raise NotFound("RESULT_LOST", "gone")
        return path.write_bytes(content)


class FakeKeys:
    """A key per file made of its GUID; `missing` holds what is answered instead."""

    def __init__(self) -> None:
        self.missing: dict[UUID, Exception] = {}
        self.calls = 0

    def get_keys(self, guids: Sequence[UUID]) -> dict[UUID, bytes | Exception]:
        self.calls += 1
        return {guid: self.missing.get(guid, guid.bytes * 2) for guid in guids}


@dataclass
class FakeCatalog:
    """Lets everybody see and read everything but what is `forbidden`; has the `names` that it is given, by path."""

    forbidden: set[UUID] = field(default_factory=set)
    away: bool = False
    asked: list[set[UUID]] = field(default_factory=list)
    names: dict[str, CatalogEntry] = field(default_factory=dict)

    def readable(self, subject: str, guids: Sequence[UUID]) -> set[UUID]:
        self.asked.append(set(guids))
        if self.away:
            raise Unavailable("CATALOG_UNAVAILABLE", "away")
        return set(guids) - self.forbidden

    def put(self, lfn: str, guid: UUID | None = None, permissions: Permission = Permission.READ | Permission.LIST) -> None:
        """Have a file, or a directory, with the directories above."""
        parent = lfn.rpartition("/")[0]
        if parent and parent not in self.names:
            self.put(parent)
        kind = PathKind.FILE if guid else PathKind.DIRECTORY
        self.names[lfn] = CatalogEntry(lfn, kind, guid, 10 if guid else None, permissions, "CN=owner", 1.0, 2.0, b"")

    def stat(self, subject: str, targets: Sequence[UUID | str]) -> list[CatalogEntry | None]:
        if self.away:
            raise Unavailable("CATALOG_UNAVAILABLE", "away")
        by_guid = {entry.guid: entry for entry in self.names.values() if entry.guid}
        return [by_guid.get(target) if isinstance(target, UUID) else self.names.get(target) for target in targets]

    def below(self, subject: str, lfn: str, levels: int, limit: int = 0) -> Iterator[CatalogEntry]:
        if not self.names[lfn].permissions & Permission.LIST:
            raise Forbidden("PERMISSION_MISSING", "no l")
        for name, entry in sorted(self.names.items()):
            deep = name.count("/") - lfn.count("/")
            if name.startswith(f"{lfn}/") and (not levels or deep <= levels):
                yield entry


class MemoryStore:
    """Requests in memory; can fail."""

    def __init__(self) -> None:
        self.requests: dict[bytes, Request] = {}
        self.broken = False

    def add(self, request: Request, token: str, description: str) -> None:
        files = [replace(file) for file in request.files]
        self.requests[request.digest] = replace(request, files=files)

    def save(self, files: Sequence[FileChange], requests: Sequence[RequestChange]) -> None:
        if self.broken:
            raise OSError("database away")
        for change in files:
            self.requests[change.digest].files[change.position] = change.file
        for request in requests:
            self.requests[request.digest].aborted = request.aborted
            self.requests[request.digest].suspended = request.suspended

    def summaries(self, owner: str, digests: Sequence[bytes] | None, description: str, limit: int) -> list[RequestSummary]:
        raise NotImplementedError  # tested on the real one

    def remove(self, digests: Sequence[bytes]) -> None:
        for digest in digests:
            self.requests.pop(digest, None)

    def load(self) -> list[Request]:
        return [replace(request, files=[replace(file) for file in request.files]) for request in self.requests.values()]


class OneInstance:
    """What a site of one instance tells itself: nothing."""

    instance = "srm-1"

    def __init__(self, requests: Callable[[], Iterable[Request]]) -> None:
        self.requests = requests
        self.claims: set[UUID] = set()

    def find(self, digest: bytes) -> Request | None:
        return None

    def files_of_others(self, digest: bytes) -> dict[int, StagedFile]:
        return {}

    def claim(self, guids: Sequence[UUID]) -> dict[UUID, str]:
        self.claims.update(guids)
        return {}

    def update_claims(self, held: Sequence[UUID], given_up: Sequence[UUID]) -> None:
        self.claims.update(held)
        self.claims.difference_update(given_up)

    def release(self, owner: str, guids: Sequence[UUID]) -> set[UUID]:
        return set()

    def pins(self, owner: str, guids: Sequence[UUID]) -> dict[UUID, float]:
        found: dict[UUID, float] = {}
        for request in self.requests():
            for file in request.files:
                if file.guid in guids and file.state == "FILE_PINNED":
                    found[file.guid] = max(found.get(file.guid, 0.0), file.pin_until if request.owner == owner else 0.0)
        return found


class World:
    """A PACS, a catalog, keystores, a database and a staging service on them; `restart` makes a new service on the same."""

    def __init__(self, directory: Path, **options: object) -> None:
        self.directory = directory
        self.options = options
        self.pacs, self.keys, self.catalog, self.store = FakePacs(), FakeKeys(), FakeCatalog(), MemoryStore()
        self.locators: dict[UUID, InstanceLocator] = {}
        self.held_back: dict[UUID, tuple[Outcome, str]] = {}
        self.changing: set[UUID] = set()
        self.kept = FakeKept()
        self.sizes: dict[UUID, int] = {}
        self.missed: list[UUID] = []
        #: Returns the rules that curators drew for a file.
        self.drawn: Callable[[object], tuple[()]] = lambda _part10: ()
        self.now = 1_000_000.0
        self.build()

    def build(self) -> None:
        get = SimpleNamespace(**{"quota": 10_000_000, "stall_seconds": 30.0, "retrievals": 2, "limits": RequestLimits()} | self.options)
        self.spool = LocalSpool(self.directory, get.quota)
        self.site = OneInstance(lambda: list(self.store.requests.values()))
        self.journal = RequestJournal(self.store, self.site, interval=0.01)
        self.requests = Requests(self.spool, self.journal, self.site, lambda: self.now, get.limits)
        registrations = Registrations(
            self.locators_of, lambda *verdict: self.hold_back(*verdict), self.sizes.__setitem__, self.missed.extend
        )
        self.sources = Sources(self.pacs, self.keys, registrations, lambda _name: not self.pacs.away, self.kept)
        limits = RetrievalLimits(get.retrievals, get.stall_seconds)
        self.work = FilesInWork(self.requests)
        sealer = ThreadSealer(FakeDeidentifier, drawn=lambda part10: self.drawn(part10))
        retriever = Retriever(self.sources, sealer, self.spool, self.work, limits)
        self.queue = RetrievalQueue(registrations, retriever, self.work, limits, KeptCopies(self.kept, self.spool, self.work, 1))
        rechecker = Rechecker(self.catalog, RECHECK_SECONDS, lambda: self.now)
        surls, lifetimes = SurlParser(AUTHORITY, ROOT), Lifetimes(3600, 7200, 2, max_request_seconds=7200)
        resolver = TargetResolver(surls, self.catalog)
        self.service = StagingService(resolver, rechecker, self.requests, self.queue, lifetimes, lambda: self.now)
        self.control = RequestControl(surls, self.catalog, self.requests, self.journal, self.service, lifetimes)
        self.listing = Listing(surls, self.catalog, self.spool, self.requests, self.sources)
        self.journal.start()
        self.queue.start()

    def locators_of(self, guids: Sequence[UUID]) -> dict[UUID, Located | None]:
        known = {guid: Located(self.locators[guid], None) for guid in guids if guid in self.locators}
        return {guid: None if guid in self.changing else located for guid, located in known.items()}

    def forget(self, guids: Sequence[UUID]) -> None:
        self.work.forget(guids)
        self.spool.forget(guids)

    def hold_back(self, guid: UUID, outcome: Outcome, reason: str) -> None:
        self.held_back[guid] = outcome, reason

    def stop(self) -> None:
        self.pacs.gate.set()
        self.service.stop()
        self.queue.stop()
        self.journal.stop()
        self.spool.close()

    def restart(self) -> None:
        self.stop()
        self.build()
        self.service.resume()

    def image(self, series: str = "1.2.3", content: bytes = b"PATIENTDOE pixels" * 40) -> UUID:
        """Put an image into the PACS and register it."""
        guid = uuid4()
        sop_uid = f"{series}.{len(self.locators)}"
        self.locators[guid] = InstanceLocator("1.2", series, sop_uid)
        self.pacs.content[sop_uid] = content
        return guid

    def images(self, count: int, series: str = "1.2.3") -> list[UUID]:
        return [self.image(series) for _ in range(count)]

    def settled(self, owner: str, token: str) -> list[str]:
        """Wait until nothing is pending; return the states of the files."""
        eventually(lambda: not self.service.status(owner, token).pending)
        return [str(file.state) for file in self.service.status(owner, token).files]

    def get(self, guids: Sequence[UUID], owner: str = "CN=alice", **wish: object) -> str:
        return self.service.prepare(owner, Wish([surl(guid) for guid in guids], **wish))[0]

    def tick(self) -> None:
        self.service.submit(self.requests.tick())


def surl(guid: UUID) -> str:
    return f"srm://{AUTHORITY}/{guid}"


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[Callable[..., World]]:
    worlds: list[World] = []

    def make(**options: object) -> World:
        worlds.append(World(tmp_path / "spool", **options))
        return worlds[-1]

    yield make
    for world in worlds:
        with suppress(OSError):
            world.stop()


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()
