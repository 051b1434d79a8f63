"""What is compared, the kinds of differences, and the report."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from mdm_wire.errors import MdmError

from mdm_dicom_srm.register.rules.model import Key, State


class Kind(StrEnum):
    """A difference: what a published image lacks, or what is there without a registration."""

    NAME_MISSING = "name-missing"
    NAME_DIFFERS = "name-differs"
    SIZE_DIFFERS = "size-differs"
    ACL_DIFFERS = "acl-differs"
    ENTRY_MISSING = "entry-missing"
    KEY_MISSING = "key-missing"
    KEY_SHORT = "key-short-of-shares"
    NAME_UNREGISTERED = "name-unregistered"
    ENTRY_UNREGISTERED = "entry-unregistered"
    KEY_UNREGISTERED = "key-unregistered"
    KEY_OF_REMOVED = "key-of-removed"
    COPY_UNREGISTERED = "copy-unregistered"
    SHARED_MISSING = "shared-entry-missing"
    SHARED_UNSUPPORTED = "shared-entry-unsupported"


@dataclass(frozen=True, slots=True)
class Row:
    """A registration: what it says that the grid has. `settled`: it is not being worked on, and did not change of late."""

    guid: UUID
    state: State
    version: int
    lfn: str
    size: int | None
    acl_id: UUID
    settled: bool


@dataclass(frozen=True, slots=True)
class Name:
    """A file as the catalog has it."""

    lfn: str
    size: int | None
    acl_id: UUID | None


@dataclass(frozen=True, slots=True)
class HeldKey:
    """A key as the keystores hold it: on all of them, or on some; made by this site's dicom-srm or by somebody else; since when."""

    guid: UUID
    whole: bool
    ours: bool
    created: datetime


class Registry(Protocol):
    """The registry; `RegistryStore` has each method's contract."""

    def page(self, after: UUID | None, limit: int) -> list[Row]: ...
    def rows(self, guids: Sequence[UUID]) -> Mapping[UUID, Row]: ...
    def count(self) -> int: ...
    def restore(self, guids: Sequence[UUID]) -> set[UUID]: ...
    def shared_keys(self, level: str) -> AbstractContextManager[Iterator[str]]: ...
    def supported(self, level: str, keys: Sequence[str]) -> set[str]: ...
    def write_again(self, keys: Iterable[Key]) -> None: ...
    def has_earlier(self) -> bool: ...


class Grid(Protocol):
    """The other services. Listings are in order of GUID, or of the bytes of keys; methods raise MdmError when a call fails."""

    def listed_names(self) -> Iterator[UUID]: ...
    def names(self, guids: Sequence[UUID]) -> Mapping[UUID, Name]: ...
    def entry_keys(self, collection: str) -> Iterator[str]: ...
    def keys(self) -> Iterator[HeldKey]: ...
    def set_sizes(self, sizes: Mapping[UUID, int]) -> None: ...
    def remove_names(self, names: Mapping[UUID, str]) -> None: ...
    def remove_entries(self, collection: str, keys: Sequence[str]) -> None: ...
    def destroy_keys(self, guids: Sequence[UUID]) -> Mapping[UUID, MdmError | None]: ...


class Spool(Protocol):
    """Staged copies of this instance; they can be removed where this process has the spool (`is_ours`)."""

    @property
    def is_ours(self) -> bool: ...
    def listed(self) -> Iterator[UUID]: ...
    def forget(self, guids: Sequence[UUID]) -> None: ...


@dataclass(slots=True)
class Difference:
    """Differences of one kind: how many, some of them (GUIDs, or pseudonymous keys), and how many were repaired.

    `why` says in a stable word why the rest was not repaired.
    """

    kind: Kind
    found: int = 0
    examples: list[str] = field(default_factory=list)
    repaired: int = 0
    why: str = ""


#: Receives the differences of a kind, as they are found.
Note = Callable[[Kind, Sequence[str]], None]
