"""What staging needs from outside: registrations, the PACS, keys, access checks, a request store, a spool, a sealer."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from uuid import UUID

from mdm_deid import Patient
from mdm_deid.outcome import Outcome
from mdm_wire.permission import Permission

from mdm_dicom_srm.judgement import Deidentifier, Drawn, Judgement
from mdm_dicom_srm.pacs.port import Located, Pacs
from mdm_dicom_srm.shared_memory import Piece
from mdm_dicom_srm.stage.rules.model import Request, RequestSummary, StagedFile, State


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
    """How full a spool is, in bytes: `stored` of `quota` in `files` files, `pinned` of that pinned, `reserved` for files being written."""

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
    def holds(self, guids: Iterable[UUID]) -> set[UUID]: ...
    def open(self, guid: UUID) -> BinaryIO | None: ...
    def open_beside(self, instance: str, guid: UUID) -> BinaryIO | None: ...
    def forget(self, guids: Iterable[UUID]) -> None: ...
    def usage(self) -> Usage: ...


class PathKind(StrEnum):
    """What a name in the catalog is of."""

    FILE = "FILE"
    DIRECTORY = "DIRECTORY"
    LINK = "LINK"


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """What a user sees of an entry of the catalog; `permissions` are the user's. Times are in seconds since the epoch."""

    lfn: str
    kind: PathKind
    guid: UUID | None
    size: int | None
    permissions: Permission
    owner: str
    created: float
    modified: float
    sha256: bytes


class AccessChecker(Protocol):
    """Knows what users may read."""

    def readable(self, subject: str, guids: Sequence[UUID]) -> set[UUID]:
        """Return which files `subject` may read; unknown ones are left out like forbidden ones.

        Raises:
            Unavailable: it cannot be checked now.
        """
        ...


class Catalog(Protocol):
    """Knows names, as users see them."""

    def stat(self, subject: str, targets: Sequence[UUID | str]) -> list[CatalogEntry | None]:
        """Return what files and paths name, in the order asked; None for what `subject` may not see.

        Raises:
            Unavailable: it cannot be looked up now.
        """
        ...

    def below(self, subject: str, lfn: str, levels: int, limit: int = 0) -> Iterator[CatalogEntry]:
        """Yield what is in a directory as `subject` sees it, down to `levels` (0: all), in order of path; at most `limit` (0: any).

        Raises:
            NotFound, Forbidden: `subject` may not list it. Unavailable: it cannot be looked up now.
        """
        ...


@dataclass(frozen=True, slots=True)
class FileChange:
    """A new state of one file of a stored request."""

    digest: bytes
    position: int
    file: StagedFile


@dataclass(frozen=True, slots=True)
class RequestChange:
    """What is new of a stored request as a whole."""

    digest: bytes
    aborted: bool
    suspended: bool


class RequestStore(Protocol):
    """Keeps requests across restarts. SURLs that are not ours are not kept: they may hold anything."""

    def add(self, request: Request, token: str, description: str) -> None: ...
    def save(self, files: Sequence[FileChange], requests: Sequence[RequestChange]) -> None: ...
    def remove(self, digests: Sequence[bytes]) -> None: ...
    def load(self) -> list[Request]: ...

    def summaries(self, owner: str, digests: Sequence[bytes] | None, description: str, limit: int) -> list[RequestSummary]:
        """Return requests of an owner, newest first: those of `digests`, None: any, with a description, empty: any."""
        ...


#: Which instance holds a file, by position in a request.
Handover = tuple[bytes, int, str]


class SiteStore(Protocol):
    """What the instances of a site tell each other, in their database. `find` and `files_of_others` read requests of any of them."""

    instance: str

    def find(self, digest: bytes) -> Request | None: ...

    def files_of_others(self, digest: bytes) -> dict[int, StagedFile]:
        """Return the files of a request that other instances hold, by position."""
        ...

    def end(self, digest: bytes, positions: Sequence[int], state: State) -> None:
        """End files that other instances hold, and let these know."""
        ...

    def extend(self, digest: bytes, positions: Sequence[int], pin_until: float) -> None:
        """Give pins that other instances hold another end, and let these know."""
        ...

    def release(self, owner: str, guids: Sequence[UUID]) -> set[UUID]:
        """Release the pins that requests of an owner have at other instances; return the files that had one."""
        ...

    def notify(self, digest: bytes, instances: Iterable[str]) -> None:
        """Have instances look at a request again."""
        ...

    def notices(self) -> list[bytes]:
        """Take the requests that this instance is to look at again."""
        ...

    def claim(self, guids: Sequence[UUID]) -> dict[UUID, str]:
        """Claim files; return the instances that are serving and have claimed files before, by file."""
        ...

    def hand_over(self, files: Sequence[Handover]) -> None:
        """Have other instances hold files, and let these know."""
        ...

    def update_claims(self, held: Sequence[UUID], given_up: Sequence[UUID]) -> None:
        """Claim files that nobody has claimed; give claims up."""
        ...

    def pins(self, owner: str, guids: Sequence[UUID]) -> dict[UUID, float]:
        """Return until when requests of an owner keep files pinned, wherever; 0 for a file that only others have pinned."""
        ...


class Beat(Enum):
    """How an instance finds its row when its heart beats."""

    ALIVE = "alive"
    LOST = "lost"
    REPLACED = "replaced"


class Welcome(Enum):
    """Whether an instance may have its name: a new one, one that the others know, or none, as another machine has it."""

    NEW = "new"
    KNOWN = "known"
    REFUSED = "refused"


class Instances(Protocol):
    """The instances of the site; see `PostgresInstances` for each method's contract."""

    name: str

    def register(self, seconds: float) -> Welcome: ...
    def beat(self, usage: Usage) -> Beat: ...
    def lose(self, seconds: float) -> list[str]: ...
    def usages(self) -> dict[str, Usage]: ...
    def recall(self, guids: Sequence[UUID]) -> None: ...
    def outstanding(self, guids: Sequence[UUID]) -> bool: ...
    def recalled(self) -> list[UUID]: ...
    def obeyed(self, guids: Sequence[UUID]) -> None: ...


class KeySource(Protocol):
    """Gives file keys; `mdm_client.keystore.client.KeystoreClient` is one."""

    def get_keys(self, guids: Sequence[UUID]) -> Mapping[UUID, bytes | Exception]:
        """Return the 32-byte key of each file, or why it is not given."""
        ...


@dataclass(frozen=True, slots=True)
class Registrations:
    """What staging asks and tells registration.

    `locators_of` returns by GUID where instances are: None for one that is being described anew; what is not registered is left out.
    `hold_back` takes a file that de-identification does not release, with outcome and reason, out of what can be fetched.
    `note_size` takes in how many bytes users get of a staged file, `missing` which files the PACS does not have. `released` returns
    the reasons that a curator has settled for a Part 10 file; it is asked only for files of which the location says that there are some.
    """

    locators_of: Callable[[Sequence[UUID]], Mapping[UUID, Located | None]]
    hold_back: Callable[[UUID, Outcome, str], object]
    note_size: Callable[[UUID, int], object]
    missing: Callable[[Sequence[UUID]], object] = lambda _guids: None
    released: Callable[[bytes | memoryview], frozenset[str]] = lambda _part10: frozenset()


class Kept(Protocol):
    """Files that are kept as ciphertext and never come from a PACS: results of users."""

    def sizes(self, guids: Sequence[UUID]) -> Mapping[UUID, int]:
        """Return which of the files are kept, and the bytes of each."""
        ...

    def copy_to(self, guid: UUID, path: Path) -> int:
        """Write a kept file to `path`, or link it there; return its size in bytes.

        Raises:
            NotFound: it is lost. Unavailable: it cannot be had now.
        """
        ...


class NothingKept:
    """A site without results."""

    def sizes(self, guids: Sequence[UUID]) -> Mapping[UUID, int]:
        """Return nothing."""
        return {}

    def copy_to(self, guid: UUID, path: Path) -> int:
        """Never called."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Sources:
    """Where retrievals get files from, and their keys; `pacs_answers` returns whether the PACS of a name did when it was last asked."""

    pacs: Pacs
    keys: KeySource
    registrations: Registrations
    pacs_answers: Callable[[str], bool] = lambda _name: True
    kept: Kept = field(default_factory=NothingKept)


@dataclass(frozen=True, slots=True)
class Sealed:
    """What became of an instance: `state` None means that its ciphertext of `size` bytes was written; users get `plain_size` bytes.

    `verdict` are outcome and reason of de-identification where it did not release the instance.
    """

    size: int = 0
    plain_size: int = 0
    state: State | None = None
    reason: str = ""
    verdict: tuple[Outcome, str] | None = None


#: Whose turn it is when registration judges.
JUDGE = ""
#: What a worker does with an instance; sent to processes, so a module-level function or a functools.partial of one.
Work = Callable[[Deidentifier, bytes | memoryview], Any]
#: Returns the drawn rules that hold for a Part 10 file.
DrawnFor = Callable[[bytes | memoryview], Drawn]


class Sealer(Protocol):
    """De-identifies instances and encrypts or judges them, several at once."""

    def seal(
        self,
        part10: bytes | memoryview | Piece,
        patient: Patient | None,
        guid: UUID,
        key: bytes,
        path: Path,
        owner: str,
        released: frozenset[str] = frozenset(),
    ) -> "Future[Sealed]":
        """De-identify a DICOM file as one of `patient`, if known, encrypt it under `key` and write only the ciphertext to `path`.

        Files of several owners take turns. `released` are the reasons that a curator has settled for it. A piece of shared memory is
        released when the file is sealed.
        """
        ...

    def judge(self, part10: bytes | memoryview, patient: Patient | None, released: frozenset[str] = frozenset()) -> "Future[Judgement]":
        """Judge a DICOM file by de-identifying it as one of `patient`, if known; nothing is written."""
        ...

    def perform(self, work: Work, part10: bytes | memoryview) -> "Future[Any]":
        """Do other work on a DICOM file where it is de-identified, with the rules that hold for it; None if the worker is lost."""
        ...

    def close(self) -> None: ...


Clock = Callable[[], float]
