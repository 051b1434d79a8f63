"""What results need from outside: records, the space for their bytes, the grid, and staged copies."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from uuid import UUID

from mdm_service.access.acl import Acl
from mdm_wire.errors import MdmError
from mdm_wire.permission import Permission

from mdm_dicom_srm.result.rules.model import Record
from mdm_dicom_srm.stage.rules.port import AccessChecker, Catalog

#: Removes staged copies of files.
Forget = Callable[[Sequence[UUID]], None]


class Records(Protocol):
    """Results in the site's database; see `PostgresResults` for each method."""

    def add(self, records: Sequence[Record], quotas: Mapping[str, int]) -> list[MdmError | None]: ...
    def of_request(self, digest: bytes) -> list[Record]: ...
    def get(self, guids: Sequence[UUID]) -> dict[UUID, Record]: ...
    def note_place(self, guid: UUID, place: str) -> None: ...
    def note_progress(self, guid: UUID, expires: float) -> None: ...
    def change(self, record: Record, before: Sequence[str]) -> bool: ...
    def remove(self, guid: UUID) -> None: ...
    def among(self, guids: Sequence[UUID]) -> set[UUID]: ...
    def pending(self, now: float, limit: int) -> list[Record]: ...
    def published(self, after: UUID | None, limit: int) -> list[Record]: ...
    def missing(self, guids: Sequence[UUID], now: float) -> dict[UUID, float]: ...
    def note_named(self, guids: Sequence[UUID]) -> None: ...


class Space(Protocol):
    """Keeps ciphertext durably, on a disk or in S3. All methods are thread-safe; `place` is what `begin` returned."""

    def begin(self, guid: UUID) -> str:
        """Make room for an upload; return what it is called here."""
        ...

    def received(self, guid: UUID, place: str) -> int:
        """Return how many bytes of an upload are here and stay."""
        ...

    def write(self, guid: UUID, place: str, offset: int, size: int, parts: Iterator[bytes]) -> int:
        """Append to an upload from `offset` on, which is how much is here, up to `size`; return how many bytes are here then.

        Raises:
            Invalid: BAD_OFFSET, or more than `size`. Aborted: another stream writes it. Exhausted: RESULT_SPACE_FULL.
        """
        ...

    def finish(self, guid: UUID, place: str, size: int, sha256: bytes) -> None:
        """Make an upload permanent if it has this size and checksum; may be repeated.

        Raises:
            Corrupt: CHECKSUM_DIFFERS; the upload is gone. FailedPrecondition: UPLOAD_INCOMPLETE.
        """
        ...

    def copy_to(self, guid: UUID, path: Path) -> int:
        """Write a kept file to `path`, which does not exist, or link it there; return its size in bytes.

        Raises:
            NotFound: RESULT_LOST.
        """
        ...

    def remove(self, guid: UUID, place: str) -> None:
        """Remove an upload or a kept file; one that is not here is no error."""
        ...

    def free(self) -> int | None:
        """Return how many bytes there is room for, None if that has no bound."""
        ...


class Users(AccessChecker, Catalog, Protocol):
    """The catalog as users see it."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file that results are made from: its name and the id of its access list, as this service sees them."""

    lfn: str
    acl_id: UUID | None


class Grid(Protocol):
    """Catalog, metadata and keystores as this service may change them; every method raises MdmError when a service is away."""

    service: str

    def sources(self, guids: Sequence[UUID]) -> dict[UUID, Source]:
        """Return what this service sees of files."""
        ...

    def acls(self, ids: Sequence[UUID]) -> dict[UUID, Acl]:
        """Return the access lists that this service may see."""
        ...

    def permissions(self, lfns: Sequence[str]) -> dict[str, Permission]:
        """Return what this service may do with entries of the catalog; those that it cannot see are left out."""
        ...

    def publish(self, record: Record) -> None:
        """Make access list, description and name, in this order; may be repeated.

        Raises:
            MdmError: Unavailable where it may be tried again, another one where it is final.
        """
        ...

    def withdraw(self, guids: Sequence[UUID]) -> None:
        """Remove names, descriptions and keys, in this order; what is not there is no error."""
        ...

    def named(self, guids: Sequence[UUID]) -> set[UUID]:
        """Return the files that the catalog has, as far as this service sees them."""
        ...
