"""What curators ask and decide about instances that wait in quarantine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from mdm_deid.rules.rule import InstanceRule
from mdm_wire.batch import in_batches
from mdm_wire.errors import FailedPrecondition, Invalid, MdmError, NotFound
from pydicom import Dataset

from mdm_dicom_srm.judgement import RELEASABLE
from mdm_dicom_srm.oversight.rules import content, kind
from mdm_dicom_srm.oversight.rules.kind import KindNames
from mdm_dicom_srm.oversight.rules.model import Group, GroupKey, Held, Shown, Waiting
from mdm_dicom_srm.register.rules.model import Action, Decision

MAX_PAGE = 1000
_LONGEST_NOTE = 500
_HEADERS_AT_ONCE = 50


class Quarantine(Protocol):
    """What waits; `QuarantineStore` has each method's contract."""

    def groups(self, reason: str, after: GroupKey | None, limit: int) -> list[Group]: ...
    def waiting(self, series_token: bytes, reason: str, after: UUID | None, limit: int) -> list[Waiting]: ...
    def held(self, guids: Sequence[UUID]) -> Mapping[UUID, Held]: ...


class Decisions(Protocol):
    """What was decided; `DecisionStore` has each method's contract."""

    def decide(self, action: Action, digests: Mapping[UUID, bytes | None], subject: str, note: str) -> set[UUID]: ...
    def page(self, guid: UUID | None, before: int | None, limit: int) -> list[tuple[int, Decision]]: ...


@dataclass(frozen=True, slots=True)
class CurationService:
    """Answers curators. `rules` are those of the site's profile; `wake` is called when something is to be judged again."""

    quarantine: Quarantine
    decisions: Decisions
    rules: Sequence[InstanceRule]
    kind_names: KindNames
    wake: Callable[[], None]

    def groups(self, reason: str, after: GroupKey | None, size: int) -> list[Group]:
        """Return what waits in groups, of one reason if given, in order of series and reason; size 0 means the largest.

        Raises:
            Invalid: the size is out of range.
        """
        return self.quarantine.groups(reason, after, checked_size(size))

    def waiting(self, series_token: bytes, reason: str, after: UUID | None, size: int) -> list[Waiting]:
        """Return instances of a series that wait, for one reason if given, in order of GUID; size 0 means the largest.

        Raises:
            Invalid: the size is out of range.
        """
        return self.quarantine.waiting(series_token, reason, after, checked_size(size))

    def show(self, guid: UUID) -> Shown:
        """Return what an instance that waits is in the PACS; it identifies the patient.

        Raises:
            NotFound: it does not wait.
        """
        held = self.quarantine.held([guid]).get(guid)
        if held is None:
            raise not_waiting()
        seen = kind.read(held.header, self.rules)
        name = self.kind_names.name(seen.kind)
        if held.header is None:
            return Shown(held, (), (), name, seen.kind, seen.suspicions)
        dataset = content.read(held.header)
        suspicious = content.suspicious(dataset, held.waiting.reason, held.judgement, self.rules)
        return Shown(held, content.examination(dataset), suspicious, name, seen.kind, seen.suspicions)

    def decide(self, action: Action, guids: Sequence[UUID], subject: str, note: str) -> dict[UUID, MdmError | None]:
        """Carry out a curator's decision about instances and keep it with who made it; None where it was carried out.

        Raises:
            Invalid: too many are asked for, or the note is too long, holds control characters, or identifies a patient.
        """
        if not 1 <= len(guids) <= MAX_PAGE:
            raise Invalid("BATCH_SIZE", f"Name 1 to {MAX_PAGE} instances.")
        _check_form(note)
        outcomes: dict[UUID, MdmError | None] = {}
        digests: dict[UUID, bytes | None] = {}
        for batch in in_batches(dict.fromkeys(guids), _HEADERS_AT_ONCE):
            held = self.quarantine.held(batch)
            for guid in batch:
                found = held.get(guid)
                outcomes[guid] = not_waiting() if found is None else _refusal(action, found)
                if found is not None and outcomes[guid] is None:
                    check_note(note, found)
                    digests[guid] = found.digest
        done = self.decisions.decide(action, digests, subject, note)
        self.wake()
        return outcomes | {guid: _changed() for guid in digests.keys() - done}

    def made(self, guid: UUID | None, before: int | None, size: int) -> list[tuple[int, Decision]]:
        """Return decisions with their numbers, the newest first; size 0 means the largest page.

        Raises:
            Invalid: the size is out of range.
        """
        return self.decisions.page(guid, before, checked_size(size))


def _refusal(action: Action, held: Held) -> MdmError | None:
    """Return why a decision cannot be made about an instance that waits."""
    if action is not Action.RELEASED:
        return None
    if held.waiting.reason not in RELEASABLE:
        return FailedPrecondition("REASON_NOT_RELEASABLE", "Only what waits for a suspicion about its pixels can be released.")
    if held.header is None or held.digest is None:
        return FailedPrecondition("HEADER_NOT_KEPT", "Nothing is kept of what it is; retry it first, then look at it.")
    return None


def check_note(note: str, held: Held) -> None:
    """Raise Invalid for a note that is no line, is too long, or identifies the patient of an instance."""
    _check_form(note)
    dataset = content.read(held.header) if note and held.header is not None else Dataset()
    if content.identifies(note, dataset):
        raise Invalid("NOTE_IDENTIFIES", "The note repeats what identifies the patient.", fields={"note": "must not identify"})


def _check_form(note: str) -> None:
    if len(note) > _LONGEST_NOTE or not note.isprintable():
        raise Invalid("NOTE_MALFORMED", f"A note is one line of at most {_LONGEST_NOTE} characters.", fields={"note": "one line"})


def checked_size(size: int) -> int:
    """Return the size of a page, 0 meaning the largest.

    Raises:
        Invalid: it is out of range.
    """
    if not 0 <= size <= MAX_PAGE:
        raise Invalid("PAGE_SIZE", f"A page has 1 to {MAX_PAGE} rows.")
    return size or MAX_PAGE


def not_waiting() -> MdmError:
    """Return the error about an instance that does not wait."""
    return NotFound("NOT_QUARANTINED", "No such instance waits in quarantine.")


def _changed() -> MdmError:
    return FailedPrecondition("INSTANCE_CHANGED", "The instance changed meanwhile; look at it again.")
