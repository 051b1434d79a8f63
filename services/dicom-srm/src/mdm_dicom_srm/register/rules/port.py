"""What registration needs from outside: a judge, the registry in PostgreSQL, and the grid's keystores, metadata and catalog."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from mdm_deid import Patient
from mdm_service.access.acl import Acl
from mdm_wire.errors import MdmError

from mdm_dicom_srm.judgement import Judgement
from mdm_dicom_srm.pacs.port import InstanceLocator
from mdm_dicom_srm.register.rules.model import Batch, Candidate, Conflict, Job, Key, Page, SharedEntry, State, Statement, Value

#: By item: None where it succeeded, else why not.
Outcomes = Mapping[UUID, MdmError | None]


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute of a collection; `type` is int, float, text, date or uuid."""

    name: str
    type: str
    length: int = 0
    unit: str = ""
    description: str = ""
    indexed: bool = False


@dataclass(frozen=True, slots=True)
class Collection:
    """A metadata collection that has to exist."""

    path: str
    attributes: tuple[Attribute, ...]
    acl_id: UUID
    default_acl_id: UUID
    sensitive: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """A metadata entry."""

    key: str
    acl_id: UUID
    values: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Directory:
    """A catalog directory that has to exist."""

    lfn: str
    acl_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class File:
    """A catalog file that has to exist; `acl_id` guards it where it does not inherit its ACL, `size` is in bytes."""

    guid: UUID
    lfn: str
    surl: str
    acl_id: UUID
    size: int | None


class AclHolder(Protocol):
    """A service, or several, that keep ACLs. All methods of these ports may be repeated without harm."""

    def ensure_acls(self, acls: Sequence[Acl]) -> None:
        """Create the ACLs that are missing, owned by this service; those that exist are left as they are.

        Raises:
            MdmError: not all of them exist now.
        """
        ...


class Keys(AclHolder, Protocol):
    """The keystores together."""

    def create_keys(self, guids: Sequence[UUID], acl_id: UUID) -> Outcomes:
        """Create a key for each GUID that has none; None where every keystore holds it confirmed."""
        ...

    def missing(self, guids: Sequence[UUID]) -> set[UUID]:
        """Return the files whose key no keystore has.

        Raises:
            MdmError: a keystore does not answer, and no other has the key.
        """
        ...

    def move(self, guids: Sequence[UUID], acl_id: UUID) -> Outcomes:
        """Put keys that this service made under another ACL, on every keystore."""
        ...

    def destroy(self, guids: Sequence[UUID]) -> Outcomes:
        """Destroy keys on every keystore; None where no keystore has it any more."""
        ...


class Metadata(AclHolder, Protocol):
    """The metadata service. Every method raises MdmError when the call as a whole fails."""

    def ensure_collections(self, collections: Sequence[Collection]) -> None:
        """Create the collections that are missing, in order."""
        ...

    def upsert(self, collection: str, entries: Sequence[Entry]) -> list[MdmError | None]:
        """Insert or update entries; one outcome for each, in order."""
        ...

    def remove(self, collection: str, keys: Sequence[str]) -> None:
        """Remove entries; those that do not exist are no error."""
        ...


class Catalog(AclHolder, Protocol):
    """The file catalog. Every method raises MdmError when the call as a whole fails."""

    def ensure_directories(self, directories: Sequence[Directory]) -> None:
        """Make the directories that are missing, in order."""
        ...

    def register(self, files: Sequence[File]) -> list[MdmError | None]:
        """Register files with their replica; one outcome for each, in order. Those that exist under this name stay as they are."""
        ...

    def replace(self, files: Sequence[File]) -> list[MdmError | None]:
        """Register files; bring those that exist to the name, the size and, in another study, the ACL that they should have."""
        ...

    def lfns(self, guids: Sequence[UUID]) -> dict[UUID, str]:
        """Return the names of files; those that do not exist are left out."""
        ...

    def remove(self, guids: Sequence[UUID]) -> None:
        """Remove files; those that do not exist are no error."""
        ...

    def prune(self, directories: Sequence[str]) -> None:
        """Remove directories that are empty, the deepest first; those that are not empty or do not exist are no error."""
        ...

    def set_sizes(self, sizes: Mapping[UUID, int]) -> None:
        """Set the sizes of files; those that do not exist are no error."""
        ...


class StagedCopies(Protocol):
    """The staged copies of files."""

    def forget(self, guids: Sequence[UUID]) -> None:
        """Remove staged copies at once, pinned or not, and those that are being made."""
        ...


class Judge(Protocol):
    """Decides about whole instances; `rules` names the rules by which, so that a judgement made under others is known to be void."""

    @property
    def rules(self) -> str: ...

    def begin(self, part10: bytes | memoryview, patient: Patient | None) -> "Future[Judgement]":
        """Begin to judge an instance, whatever a curator has settled.

        Raises:
            RuntimeError: the service is being stopped.
        """
        ...

    def is_settled(self, judgement: Judgement, part10: bytes | memoryview) -> bool:
        """Return whether a curator has settled the reason for which an instance with this header is held back."""
        ...

    def judge(self, part10: bytes | memoryview, patient: Patient | None) -> Judgement:
        """Return what becomes of a complete Part 10 file of a study of `patient`, None where the file does not say which study.

        Raises:
            MdmError: it cannot be judged now.
        """
        ...


@dataclass(frozen=True, slots=True)
class Grid:
    """Where registration writes to."""

    keys: Keys
    metadata: Metadata
    catalog: Catalog
    copies: StagedCopies


class Queue(Protocol):
    """The durable queue; `QueueStore` has each method's contract."""

    def enqueue(self, candidates: Sequence[Candidate], *, restore: bool = False) -> set[UUID]: ...
    def claim(self, limit: int, lease_seconds: int, own: Sequence[bytes] = ()) -> Batch | None: ...
    def renew(self, lease_ids: Sequence[UUID], lease_seconds: int) -> None: ...
    def advance(self, lease_id: UUID, guids: Sequence[UUID], state: State, files: Mapping[UUID, File] | None = None) -> set[UUID]: ...
    def note_lfns(self, lfns: Mapping[UUID, str]) -> None: ...
    def settle(self, lease_id: UUID, reasons: Mapping[UUID, str], state: State) -> None: ...
    def keep(self, lease_id: UUID, jobs: Sequence[Job]) -> None: ...
    def end_generation(self, lease_id: UUID, job: Job, state: State, reason: str = "") -> None: ...
    def postpone(self, lease_id: UUID, reasons: Mapping[UUID, str], max_attempts: int) -> None: ...
    def release(self, lease_id: UUID) -> None: ...
    def retry(self, guids: Sequence[UUID], subject: str) -> Mapping[UUID, MdmError | None]: ...


class Registrations(Protocol):
    """What is known of registrations beside their course; `RegistrationStore` has each method's contract."""

    def summary(self, study_tokens: Sequence[bytes]) -> Mapping[State, int]: ...
    def rules(self) -> Mapping[str, int]: ...
    def page(self, state: State | None, after: UUID | None, limit: int, study_tokens: Sequence[bytes] = (), reason: str = "") -> Page: ...
    def published(self, guids: Sequence[UUID]) -> Mapping[UUID, InstanceLocator]: ...
    def sizes_of(self, guids: Sequence[UUID]) -> Mapping[UUID, int | None]: ...
    def note_sizes(self, sizes: Mapping[UUID, int]) -> None: ...


class SharedEntryStore(Protocol):
    """The patients of studies, and what instances state of shared entries; the store has each method's contract."""

    def patient_at_arrival(self, study_uid: str, instance: UUID, said: Patient) -> tuple[Patient, bool]: ...
    def decide_patient(self, study_uid: str, said: Mapping[UUID, Patient]) -> Patient: ...
    def state(self, lease_id: UUID, statements: Mapping[UUID, Sequence[Statement]]) -> set[Key]: ...
    def withdraw(self, guids: Sequence[UUID]) -> set[Key]: ...
    def forget_written(self, keys: Iterable[Key]) -> None: ...
    def left(self) -> list[Key]: ...
    def turn(self, level: str, key: str) -> AbstractContextManager[SharedEntry | None]: ...
    def conflicts(self, after: Key | None, limit: int) -> list[Conflict]: ...


@dataclass(frozen=True, slots=True)
class Registry:
    """The site's registry: every instance that registration knows, in PostgreSQL."""

    queue: Queue
    registrations: Registrations
    shared: SharedEntryStore
