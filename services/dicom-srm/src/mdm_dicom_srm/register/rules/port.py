"""What registration needs of others: a queue, and the grid's keystores, metadata and catalog."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from mdm_service.access.acl import Acl
from mdm_wire.errors import MdmError

from mdm_dicom_srm.register.rules.model import Batch, Candidate, Page, Queued, State

#: By item: None where it succeeded, else why not.
Outcomes = Mapping[UUID, MdmError | None]
Value = str | int | float | bool | None


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
    """A catalog file to be there."""

    guid: UUID
    lfn: str
    surl: str


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


class Metadata(AclHolder, Protocol):
    """The metadata service. Every method raises MdmError when the call as a whole fails."""

    def ensure_collections(self, collections: Sequence[Collection]) -> None:
        """Create the collections that are missing, in order."""
        ...

    def upsert(self, collection: str, entries: Sequence[Entry]) -> list[MdmError | None]:
        """Insert or update entries; one outcome for each, in order."""
        ...


class Catalog(AclHolder, Protocol):
    """The file catalog. Every method raises MdmError when the call as a whole fails."""

    def ensure_directories(self, directories: Sequence[Directory]) -> None:
        """Make the directories that are missing, in order."""
        ...

    def register(self, files: Sequence[File]) -> list[MdmError | None]:
        """Register files with their replica; one outcome for each, in order."""
        ...


class Queue(Protocol):
    """The durable queue; `register.store.RegistrationStore` has each method's contract."""

    def enqueue(self, candidates: Sequence[Candidate]) -> Queued: ...
    def claim(self, limit: int, lease_seconds: int) -> Batch | None: ...
    def renew(self, lease_ids: Sequence[UUID], lease_seconds: int) -> None: ...
    def advance(self, lease_id: UUID, guids: Sequence[UUID], state: State) -> set[UUID]: ...
    def settle(self, lease_id: UUID, reasons: Mapping[UUID, str], state: State) -> None: ...
    def postpone(self, lease_id: UUID, reasons: Mapping[UUID, str], max_attempts: int) -> None: ...
    def release(self, lease_id: UUID) -> None: ...
    def count_described(self, series_token: bytes) -> int: ...
    def summary(self, study_tokens: Sequence[bytes]) -> Mapping[State, int]: ...
    def page(self, state: State | None, after: UUID | None, limit: int) -> Page: ...
    def retry(self, guids: Sequence[UUID]) -> Mapping[UUID, MdmError | None]: ...
