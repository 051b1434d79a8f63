"""Fakes of staging's ports and a world built of them."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest
from mdm_deid import Patient
from mdm_deid.outcome import Outcome, Result
from mdm_dicom_srm.pacs.port import InstanceLocator, Located, RetrievedInstance
from mdm_dicom_srm.stage.rules.book import Limits, RequestBook
from mdm_dicom_srm.stage.rules.engine import EngineLimits, StagingEngine
from mdm_dicom_srm.stage.rules.journal import Journal
from mdm_dicom_srm.stage.rules.model import Request
from mdm_dicom_srm.stage.rules.port import FileChange
from mdm_dicom_srm.stage.rules.rights import Rechecker
from mdm_dicom_srm.stage.rules.service import Policy, StagingService
from mdm_dicom_srm.stage.sealing.sealer import ThreadSealer
from mdm_dicom_srm.stage.store.spool import LocalSpool
from mdm_testing.wait import eventually
from mdm_wire.errors import Unavailable

AUTHORITY = "hospital-a"
RECHECK_SECONDS = 60.0
PROLOGUE = bytes(128) + b"DICM"


class FakeDeidentifier:
    """Releases everything but what says otherwise in its first bytes."""

    def deidentify(self, part10: bytes, patient: Patient | None = None) -> Result:
        if part10.startswith(b"QUARANTINE"):
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
    closed: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    def retrieve(self, instances: Sequence[InstanceLocator]) -> Iterator[RetrievedInstance]:
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
        finally:
            self.closed += 1


class FakeKeys:
    """A key per file made of its GUID; `missing` holds what is answered instead."""

    def __init__(self) -> None:
        self.missing: dict[UUID, Exception] = {}
        self.calls = 0

    def get_keys(self, guids: Sequence[UUID]) -> dict[UUID, bytes | Exception]:
        self.calls += 1
        return {guid: self.missing.get(guid, guid.bytes * 2) for guid in guids}


@dataclass
class FakeAccess:
    """Lets everybody read everything but what is `forbidden`."""

    forbidden: set[UUID] = field(default_factory=set)
    away: bool = False
    asked: list[set[UUID]] = field(default_factory=list)

    def readable(self, subject: str, guids: Sequence[UUID]) -> set[UUID]:
        self.asked.append(set(guids))
        if self.away:
            raise Unavailable("CATALOG_UNAVAILABLE", "away")
        return set(guids) - self.forbidden


class MemoryStore:
    """Requests in memory; can fail."""

    def __init__(self) -> None:
        self.requests: dict[bytes, Request] = {}
        self.broken = False

    def add(self, request: Request) -> None:
        files = [replace(file) for file in request.files]
        self.requests[request.digest] = replace(request, files=files)

    def save(self, changes: Sequence[FileChange], aborted: Sequence[bytes]) -> None:
        if self.broken:
            raise OSError("database away")
        for change in changes:
            self.requests[change.digest].files[change.position] = change.file
        for digest in aborted:
            self.requests[digest].aborted = True

    def remove(self, digests: Sequence[bytes]) -> None:
        for digest in digests:
            self.requests.pop(digest, None)

    def load(self) -> list[Request]:
        return [replace(request, files=[replace(file) for file in request.files]) for request in self.requests.values()]


class World:
    """A PACS, a catalog, keystores, a database and a staging service on them; `restart` makes a new service on the same."""

    def __init__(self, directory: Path, **options: object) -> None:
        self.directory = directory
        self.options = options
        self.pacs, self.keys, self.access, self.store = FakePacs(), FakeKeys(), FakeAccess(), MemoryStore()
        self.locators: dict[UUID, InstanceLocator] = {}
        self.held_back: dict[UUID, tuple[Outcome, str]] = {}
        self.changing: set[UUID] = set()
        self.sizes: dict[UUID, int] = {}
        self.now = 1_000_000.0
        self.build()

    def build(self) -> None:
        get = SimpleNamespace(**{"quota": 10_000_000, "stall_seconds": 30.0, "retrievals": 2, "limits": Limits()} | self.options)
        self.spool = LocalSpool(self.directory, get.quota)
        self.journal = Journal(self.store, interval=0.01)
        self.book = RequestBook(self.spool, self.journal, lambda: self.now, get.limits)
        sealer = ThreadSealer(FakeDeidentifier)
        limits = EngineLimits(get.retrievals, get.stall_seconds)
        self.engine = StagingEngine(
            self.pacs, self.locators_of, self.keys, sealer, self.spool, self.book, limits, self.hold_back, self.sizes.__setitem__
        )
        self.service = StagingService(
            AUTHORITY,
            Rechecker(self.access, RECHECK_SECONDS, lambda: self.now),
            self.store,
            self.spool,
            self.book,
            self.journal,
            self.engine.submit,
            Policy(3600, 7200, 2),
            lambda: self.now,
        )
        self.journal.start()
        self.engine.start()

    def locators_of(self, guids: Sequence[UUID]) -> dict[UUID, Located | None]:
        known = {guid: Located(self.locators[guid], None) for guid in guids if guid in self.locators}
        return {guid: None if guid in self.changing else located for guid, located in known.items()}

    def forget(self, guids: Sequence[UUID]) -> None:
        self.engine.forget(guids)
        self.spool.forget(guids)

    def hold_back(self, guid: UUID, outcome: Outcome, reason: str) -> None:
        self.held_back[guid] = outcome, reason

    def stop(self) -> None:
        self.pacs.gate.set()
        self.service.stop()
        self.engine.stop()
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

    def get(self, guids: Sequence[UUID], owner: str = "CN=alice", pin_seconds: int = 0) -> str:
        return self.service.prepare(owner, [surl(guid) for guid in guids], pin_seconds)[0]


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
