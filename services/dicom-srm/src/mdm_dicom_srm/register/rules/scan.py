"""Scans and inspections: what is asked for, what is found, and what they need of the registry."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import date, datetime
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from mdm_wire.errors import Invalid

from mdm_dicom_srm.pacs.port import InstanceLocator, Scope
from mdm_dicom_srm.register.rules.facts import Facts
from mdm_dicom_srm.register.rules.model import State

_UID = re.compile(r"[0-9.]{1,64}")  # PS3.5 section 9.1
_MAX_VALUES, _MAX_VALUE = 100, 64
MAX_NOTE = 500


class Action(StrEnum):
    """What a scan is for."""

    REGISTER = "REGISTER"
    UNREGISTER = "UNREGISTER"


class ScanState(StrEnum):
    """LISTING → INSPECTING → DONE; INSPECTING means that all studies are known, their inspection begins before."""

    LISTING = "LISTING"
    INSPECTING = "INSPECTING"
    DONE = "DONE"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"


ENDED = (ScanState.DONE, ScanState.CANCELLED, ScanState.FAILED)


@dataclass(frozen=True, slots=True)
class Counts:
    """What inspections found, in instances: `listed` by the PACS, of these `new`, `changed` and `equal`.

    `left_out` by the site policy or an operator, `missing` once and not yet removed, `gone` and removed, `unregistered`, `failed`:
    the PACS lists them but they cannot be read.
    """

    listed: int = 0
    new: int = 0
    changed: int = 0
    equal: int = 0
    left_out: int = 0
    missing: int = 0
    gone: int = 0
    unregistered: int = 0
    failed: int = 0

    def to_dict(self) -> dict[str, int]:
        """Return the counts that are not zero."""
        return {name: count for name, count in asdict(self).items() if count}

    @classmethod
    def from_dict(cls, counts: Mapping[str, int]) -> "Counts":
        """Return the counts of which `to_dict` made the mapping; names of other versions are left out."""
        return cls(**{item.name: int(counts.get(item.name, 0)) for item in fields(cls)})


@dataclass(frozen=True, slots=True)
class Order:
    """What a scan is to do. `by` is the DN of the operator who asked for it, "" for the schedule; `note` is why."""

    action: Action
    scope: Scope = field(repr=False)
    dry_run: bool = False
    by: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Scan:
    """A scan as operators see it; its scope may identify and is not shown."""

    id: UUID
    action: Action
    dry_run: bool
    by: str
    note: str
    state: ScanState
    reason: str
    created_at: datetime
    modified_at: datetime
    studies: int
    inspected: int
    failed_studies: int
    counts: Counts


@dataclass(frozen=True, slots=True)
class Listing:
    """A scan whose studies are being gathered, held under a lease."""

    scan_id: UUID
    lease_id: UUID
    order: Order


@dataclass(frozen=True, slots=True)
class Inspection:
    """A study to be looked at, held under a lease; without `order` something else than a scan asked for it."""

    id: UUID
    lease_id: UUID
    version: int
    study_uid: str = field(repr=False)
    order: Order | None = None

    @property
    def by_operator(self) -> bool:
        """Whether an operator asked for this study: what was unregistered or failed is then taken up again."""
        return self.order is not None and bool(self.order.by)


@dataclass(frozen=True, slots=True)
class Known:
    """The newest registration of an instance, as an inspection compares it with a listing."""

    guid: UUID
    instance: UUID
    state: State
    study_token: bytes
    locator: InstanceLocator
    listing: bytes | None
    facts: Facts | None
    calling_ae: str
    policy: bytes | None
    rule: str
    unregistered: bool

    @property
    def live(self) -> bool:
        """Whether it has not been, and is not being removed."""
        return self.state not in (State.REMOVING, State.REMOVED)


@dataclass(frozen=True, slots=True)
class Listed:
    """What a PACS lists of an instance: where it is, and the digest of what is said of it; `facts` are those of its header, if read."""

    locator: InstanceLocator
    digest: bytes
    facts: Facts | None = None


class Inspections(Protocol):
    """The durable list of studies to be looked at; `InspectionStore` has each method's contract."""

    def queue(self, study_uid: str, after_seconds: float = 0) -> None: ...
    def claim(self, lease_seconds: int) -> Inspection | None: ...
    def waiting(self) -> tuple[int, float]: ...
    def renew(self, lease_ids: Sequence[UUID], lease_seconds: int) -> None: ...
    def finish(self, inspection: Inspection, counts: Counts, reason: str = "") -> None: ...
    def postpone(self, inspection: Inspection, reason: str, max_attempts: int) -> None: ...


class Scans(Protocol):
    """The durable scans; `ScanStore` has each method's contract."""

    def start(self, order: Order) -> UUID: ...
    def start_due(self, kind: str, order: Order, every_seconds: float) -> UUID | None: ...
    def claim(self, lease_seconds: int) -> Listing | None: ...
    def renew(self, lease_ids: Sequence[UUID], lease_seconds: int) -> None: ...
    def add_studies(self, listing: Listing, study_uids: Sequence[str]) -> bool: ...
    def listed(self, listing: Listing) -> None: ...
    def postpone(self, listing: Listing, reason: str, max_attempts: int) -> None: ...
    def get(self, scan_id: UUID) -> Scan | None: ...
    def page(self, limit: int) -> list[Scan]: ...
    def cancel(self, scan_id: UUID) -> bool: ...
    def forget(self, days: int) -> None: ...


class Contents(Protocol):
    """What the registry holds, compared and brought to what the PACS has; `ContentStore` has each method's contract."""

    def of_instances(self, instances: Sequence[UUID]) -> Mapping[UUID, Known]: ...
    def of_study(self, study_token: bytes) -> Iterator[Known]: ...
    def locators(self, guids: Sequence[UUID]) -> list[InstanceLocator]: ...
    def series_in(self, scope: Scope) -> Iterator[InstanceLocator]: ...
    def note_listed(self, listed: Mapping[UUID, Listed], policy: bytes) -> None: ...
    def found(self, guids: Sequence[UUID]) -> None: ...
    def miss(self, guids: Sequence[UUID], gone_after_seconds: float) -> int: ...
    def leave_out(self, rules: Mapping[UUID, str], policy: bytes) -> None: ...
    def let_in(self, guids: Sequence[UUID], policy: bytes) -> None: ...
    def unregister(self, guids: Sequence[UUID], by: str, note: str, *, dry_run: bool) -> int: ...
    def unregister_study(self, study_token: bytes, by: str, note: str, *, dry_run: bool) -> int: ...
    def unregister_below(self, lfn: str, by: str, note: str, *, dry_run: bool) -> int: ...


@dataclass(frozen=True, slots=True)
class ScanStores:
    """What scans and inspections keep and compare, in PostgreSQL."""

    scans: Scans
    inspections: Inspections
    contents: Contents


def check_scope(scope: Scope) -> None:
    """Accept a scope that a PACS can be asked for.

    Raises:
        Invalid: SCOPE_MALFORMED, a value is empty, too long or no UID, there are too many, or the dates are in the wrong order.
    """
    for name in ("study_uids", "series_uids", "patient_ids", "accession_numbers", "modalities"):
        values = getattr(scope, name)
        if len(values) > _MAX_VALUES:
            raise _malformed(name, f"at most {_MAX_VALUES} values")
        for value in values:
            if not 1 <= len(value.strip()) <= _MAX_VALUE or any(ord(character) < 32 or character == "\\" for character in value):
                raise _malformed(name, f"1 to {_MAX_VALUE} characters, no backslash")
            if name.endswith("uids") and not _UID.fullmatch(value):
                raise _malformed(name, "a DICOM UID: digits and dots, at most 64")
            if name != "study_uids" and name != "series_uids" and any(character in "*?" for character in value):
                raise _malformed(name, "no wildcards")
    if scope.since and scope.until and scope.since > scope.until:
        raise _malformed("since", "not after until")


def check_note(note: str) -> None:
    """Accept why something is done.

    Raises:
        Invalid: NOTE_MALFORMED, it is too long or not one line.
    """
    if len(note) > MAX_NOTE or not note.isprintable():
        raise Invalid("NOTE_MALFORMED", f"A reason is one line of at most {MAX_NOTE} characters.")


def encode_scope(scope: Scope) -> dict[str, Any]:
    """Return a scope as JSON has it."""
    return {name: value.isoformat() if isinstance(value, date) else value for name, value in asdict(scope).items() if value}


def decode_scope(values: Mapping[str, Any]) -> Scope:
    """Return the scope of which `encode_scope` made the mapping."""
    read: dict[str, Any] = {name: date.fromisoformat(value) if isinstance(value, str) else tuple(value) for name, value in values.items()}
    return Scope(**read)


def _malformed(field_name: str, rule: str) -> Invalid:
    return Invalid("SCOPE_MALFORMED", f"The scope's {field_name.replace('_', ' ')}: {rule}.", fields={field_name: rule})
