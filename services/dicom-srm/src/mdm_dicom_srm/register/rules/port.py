"""What registration needs of others: a queue, the grid's keystores, metadata and catalog, and staged copies."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from mdm_deid import Patient
from mdm_service.access.acl import Acl
from mdm_wire.errors import MdmError

from mdm_dicom_srm.judgement import Judgement
from mdm_dicom_srm.pacs.port import InstanceLocator
from mdm_dicom_srm.register.rules.model import Batch, Candidate, Conflict, Job, Page, Queued, State
from mdm_dicom_srm.register.rules.statement import Key, SharedEntry, Statement, Value

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
    """A metadata collection to be there."""

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
    """A catalog directory to be there."""

    lfn: str
    acl_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class File:
    """A catalog file to be there; `acl_id` guards it where it does not inherit it, `size` is in bytes."""

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
        """Return those of which no keystore has a key. Raises MdmError when one of them does not answer."""
        ...

    def move(self, guids: Sequence[UUID], acl_id: UUID) -> Outcomes:
        """Have keys that this service made guarded by another ACL, on every keystore."""
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
        """Remove entries; those that are not there are no error."""
        ...


class Catalog(AclHolder, Protocol):
    """The file catalog. Every method raises MdmError when the call as a whole fails."""

    def ensure_directories(self, directories: Sequence[Directory]) -> None:
        """Make the directories that are missing, in order."""
        ...

    def register(self, files: Sequence[File]) -> list[MdmError | None]:
        """Register files with their replica; one outcome for each, in order. Those that are there under this name stay as they are."""
        ...

    def replace(self, files: Sequence[File]) -> list[MdmError | None]:
        """Register files, and give those that are there the name, the size and, in another study, the ACL they should have."""
        ...

    def lfns(self, guids: Sequence[UUID]) -> dict[UUID, str]:
        """Return the names of files; those that are not there are left out."""
        ...

    def remove(self, guids: Sequence[UUID]) -> None:
        """Remove files; those that are not there are no error."""
        ...

    def prune(self, directories: Sequence[str]) -> None:
        """Remove directories that are empty, the deepest first; those that are not, or are not there, are no error."""
        ...

    def set_sizes(self, sizes: Mapping[UUID, int]) -> None:
        """Set the sizes of files; those that are not there are no error."""
        ...


class StagedCopies(Protocol):
    """What staging has of files."""

    def forget(self, guids: Sequence[UUID]) -> None:
        """Remove staged copies at once, those that are being made included, pinned or not."""
        ...


class Judge(Protocol):
    """Decides about whole instances; `rules` names the rules by which, so that a judgement made under others is known to be void."""

    rules: str

    def judge(self, part10: bytes, patient: Patient | None) -> Judgement:
        """Return what becomes of a complete Part 10 file of a study of `patient`, None where the file does not say of which study it is.

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
    """The durable queue; `register.store.RegistrationStore` has each method's contract."""

    def due(self, candidates: Sequence[Candidate], *, restore: bool = False) -> set[UUID]: ...
    def enqueue(self, candidates: Sequence[Candidate], *, restore: bool = False) -> Queued: ...
    def claim(self, limit: int, lease_seconds: int) -> Batch | None: ...
    def renew(self, lease_ids: Sequence[UUID], lease_seconds: int) -> None: ...
    def advance(self, lease_id: UUID, guids: Sequence[UUID], state: State) -> set[UUID]: ...
    def note_lfns(self, lfns: Mapping[UUID, str]) -> None: ...
    def settle(self, lease_id: UUID, reasons: Mapping[UUID, str], state: State) -> None: ...
    def keep(self, lease_id: UUID, job: Job) -> None: ...
    def end_generation(self, lease_id: UUID, job: Job, state: State, reason: str = "") -> None: ...
    def postpone(self, lease_id: UUID, reasons: Mapping[UUID, str], max_attempts: int) -> None: ...
    def release(self, lease_id: UUID) -> None: ...
    def summary(self, study_tokens: Sequence[bytes]) -> Mapping[State, int]: ...
    def page(self, state: State | None, after: UUID | None, limit: int) -> Page: ...
    def retry(self, guids: Sequence[UUID]) -> Mapping[UUID, MdmError | None]: ...
    def published(self, guids: Sequence[UUID]) -> Mapping[UUID, InstanceLocator]: ...


class Statements(Protocol):
    """What instances state together; `register.store.shared.SharedStore` has each method's contract."""

    def patient_at_arrival(self, study_uid: str, instance: UUID, said: Patient) -> Patient: ...
    def decide_patient(self, study_uid: str, said: Mapping[UUID, Patient]) -> Patient: ...
    def state(self, lease_id: UUID, statements: Mapping[UUID, Sequence[Statement]]) -> set[Key]: ...
    def withdraw(self, guids: Sequence[UUID]) -> set[Key]: ...
    def forget_written(self, keys: Iterable[Key]) -> None: ...
    def left(self) -> list[Key]: ...
    def turn(self, level: str, key: str) -> AbstractContextManager[SharedEntry | None]: ...
    def conflicts(self, after: Key | None, limit: int) -> list[Conflict]: ...
