"""What staging needs of others: access checks, a request store, a spool, keys."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol
from uuid import UUID

from mdm_deid import Patient
from mdm_deid.outcome import Outcome

from mdm_dicom_srm.judgement import Judgement
from mdm_dicom_srm.stage.rules.model import Request, StagedFile, State


class NoSpace(Exception):
    """Pinned files fill the spool, or its disk is full."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A reservation in the spool: the ciphertext of `guid`, at most about `size` bytes, is to be written to `path`."""

    guid: UUID
    size: int
    path: Path


@dataclass(frozen=True, slots=True)
class Usage:
    """How full a spool is, in bytes: of `quota`, `stored` in `files` files (`pinned` of that pinned), `reserved` being written."""

    quota: int
    stored: int
    pinned: int
    reserved: int
    files: int


class Spool(Protocol):
    """A disposable buffer of ciphertext; see `LocalSpool` for each method's contract."""

    def reserve(self, guid: UUID, size: int) -> Slot: ...
    def commit(self, slot: Slot, size: int, holder: Hashable) -> None: ...
    def discard(self, slot: Slot) -> None: ...
    def pin(self, guid: UUID, holder: Hashable) -> int | None: ...
    def unpin(self, guid: UUID, holder: Hashable) -> None: ...
    def open(self, guid: UUID) -> BinaryIO | None: ...
    def forget(self, guids: Iterable[UUID]) -> None: ...
    def usage(self) -> Usage: ...


class AccessChecker(Protocol):
    """Knows what users may read."""

    def readable(self, subject: str, guids: Sequence[UUID]) -> set[UUID]:
        """Return which files `subject` may read; unknown ones are left out like forbidden ones.

        Raises:
            Unavailable: nobody can tell now.
        """
        ...


@dataclass(frozen=True, slots=True)
class FileChange:
    """A new state of one file of a stored request."""

    digest: bytes
    position: int
    file: StagedFile


class RequestStore(Protocol):
    """Keeps requests over a restart. SURLs that are not ours are not kept: they may hold anything."""

    def add(self, request: Request) -> None: ...
    def save(self, changes: Sequence[FileChange], aborted: Sequence[bytes]) -> None: ...
    def remove(self, digests: Sequence[bytes]) -> None: ...
    def load(self) -> list[Request]: ...


class KeySource(Protocol):
    """Gives file keys; `mdm_client.keystore.client.KeystoreClient` is one."""

    def get_keys(self, guids: Sequence[UUID]) -> Mapping[UUID, bytes | Exception]:
        """Return the 32-byte key of each file, or why it is not given."""
        ...


@dataclass(frozen=True, slots=True)
class Sealed:
    """What became of an instance: `state` None means its ciphertext, `size` bytes, was written; users get `plain_size` bytes of it.

    `verdict` are outcome and reason of de-identification where it did not release the instance.
    """

    size: int = 0
    plain_size: int = 0
    state: State | None = None
    reason: str = ""
    verdict: tuple[Outcome, str] | None = None


class Sealer(Protocol):
    """De-identifies instances and encrypts or judges them, several at once."""

    def seal(self, part10: bytes, patient: Patient | None, guid: UUID, key: bytes, path: Path) -> "Future[Sealed]":
        """De-identify a DICOM file as one of `patient`, if known, encrypt it under `key` and write only the ciphertext to `path`."""
        ...

    def judge(self, part10: bytes, patient: Patient | None) -> "Future[Judgement]":
        """Judge a DICOM file by de-identifying it as one of `patient`, if known; nothing is written."""
        ...

    def close(self) -> None: ...


class Listener(Protocol):
    """Is told by the staging engine what becomes of files."""

    def wanted(self, guid: UUID) -> bool:
        """Tell whether anybody still waits for the file."""
        ...

    def started(self, guids: Sequence[UUID]) -> None: ...
    def ready(self, guid: UUID) -> None: ...
    def failed(self, guids: Iterable[UUID], state: State, reason: str) -> None: ...


Clock = Callable[[], float]
