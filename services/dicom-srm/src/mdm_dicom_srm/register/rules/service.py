"""What triggers and operators ask of registration."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from uuid import UUID

from mdm_deid import Patient
from mdm_deid.rules.patient import patient_of
from mdm_wire.errors import Invalid, MdmError, NotFound

from mdm_dicom_srm.pacs.part10 import Header
from mdm_dicom_srm.pacs.port import InstanceLocator, Pacs
from mdm_dicom_srm.register.rules.model import Candidate, Conflict, Page, Queued, State
from mdm_dicom_srm.register.rules.names import Names
from mdm_dicom_srm.register.rules.port import Judge, Queue, Statements

_log = logging.getLogger(__name__)
_UID = re.compile(r"[0-9.]{1,64}")  # PS3.5 section 9.1
_CHUNK = 50
MAX_STUDIES = 100
MAX_PAGE = 1000


class RegistrationService:
    """Judges and queues instances and tells what became of them. `wake` is called when something was queued."""

    def __init__(self, queue: Queue, statements: Statements, names: Names, pacs: Pacs, judge: Judge, wake: Callable[[], None]) -> None:
        self._queue = queue
        self._statements = statements
        self._names = names
        self._pacs = pacs
        self._judge = judge
        self._wake = wake

    def enqueue(self, headers: Sequence[Header], *, restore: bool = False) -> Queued:
        """Judge instances and queue them durably; known ones are left unless they changed, or what the grid has is to be restored.

        Raises:
            Invalid: NO_SOP_INSTANCE_UID, one of them has no name; none is queued.
            Unavailable: one of them cannot be judged now; none is queued.
        """
        return self._enqueue([self._candidate(header, restore) for header in headers], restore)

    def _enqueue(self, candidates: Sequence[Candidate | None], restore: bool) -> Queued:
        result = self._queue.enqueue([candidate for candidate in candidates if candidate is not None], restore=restore)
        if result.queued:
            self._wake()
        return Queued(result.queued, len(candidates) - result.queued)

    def _candidate(self, header: Header, restore: bool) -> Candidate | None:
        """Return the registration of an instance with its judgement, or None: what is known already is not even judged."""
        if not header.sop_uid:
            raise Invalid("NO_SOP_INSTANCE_UID", "The instance has no SOP Instance UID.")
        candidate = self._names.candidate(header)
        if not self._queue.due([candidate], restore=restore):
            return None
        return replace(candidate, judgement=self._judge.judge(header.whole, self._patient(header, candidate.instance)))

    def _patient(self, header: Header, instance: UUID) -> Patient | None:
        """Return of whom the study of an instance is, which the first instance of a study decides."""
        said = patient_of(header.part10)
        if said is None or not header.study_uid:
            return None
        return self._statements.patient_at_arrival(header.study_uid, instance, said[1])

    def register_study(self, study_uid: str) -> Queued:
        """Queue every instance of a study that the PACS holds, published ones too: what the grid has lost of them is restored.

        Raises:
            Invalid: not a UID, or the PACS sent instances that are not DICOM; the others are queued.
            NotFound: the PACS does not have the study.
            Unavailable: the PACS is away; what arrived before is queued, asking again is harmless.
        """
        if not _UID.fullmatch(study_uid):
            raise Invalid("STUDY_UID_MALFORMED", "Not a Study Instance UID: digits and dots, at most 64.")
        result = Queued()
        # Each is judged as it comes, so that no more than one is in memory with its pixels.
        candidates = (self._candidate(header, restore=True) for header in self._pacs.headers(study_uid))
        while chunk := list(islice(candidates, _CHUNK)):
            result += self._enqueue(chunk, restore=True)
        if result == Queued():
            raise NotFound("STUDY_NOT_FOUND", "The PACS does not have this study.")
        return result

    def register_studies(self, study_uids: Sequence[str]) -> list[Queued | MdmError]:
        """Queue studies one after the other; a failed one does not stop the others.

        Raises:
            Invalid: none or too many are asked for.
        """
        if not 1 <= len(study_uids) <= MAX_STUDIES:
            raise Invalid("BATCH_SIZE", f"Ask for 1 to {MAX_STUDIES} studies.")
        results: list[Queued | MdmError] = []
        for study_uid in study_uids:
            try:
                results.append(self.register_study(study_uid))
            except MdmError as error:
                _log.warning("a study was not queued", extra={"reason": error.reason})
                results.append(error)
        return results

    def summary(self, study_uids: Sequence[str] = ()) -> Mapping[State, int]:
        """Count registrations by state: those of some studies or, without any, all of the site.

        Raises:
            Invalid: too many are asked for.
        """
        if len(study_uids) > MAX_STUDIES:
            raise Invalid("BATCH_SIZE", f"Ask for at most {MAX_STUDIES} studies.")
        return self._queue.summary([self._names.study_token(uid) for uid in study_uids])

    def page(self, state: State | None, after: UUID | None, size: int) -> Page:
        """Return a page of registrations in order of GUID; size 0 means the largest.

        Raises:
            Invalid: the size is out of range.
        """
        if not 0 <= size <= MAX_PAGE:
            raise Invalid("PAGE_SIZE", f"A page has 1 to {MAX_PAGE} registrations.")
        return self._queue.page(state, after, size or MAX_PAGE)

    def retry(self, guids: Sequence[UUID], *, published: bool = False) -> Mapping[UUID, MdmError | None]:
        """Queue failed or quarantined registrations again; with `published` those that are published, too, to restore what was lost.

        Raises:
            Invalid: too many are asked for.
        """
        if len(guids) > MAX_PAGE:
            raise Invalid("BATCH_SIZE", f"Retry at most {MAX_PAGE} registrations at once.")
        locators = self._queue.published(guids) if published else {}
        outcomes = dict(self._queue.retry([guid for guid in guids if guid not in locators]))
        outcomes |= self._restore(locators)
        self._wake()
        return outcomes

    def conflicts(self, after: tuple[str, str] | None, size: int) -> list[Conflict]:
        """Return a page of entries of which instances state different values, in order of collection and key; 0 means the largest.

        Raises:
            Invalid: the size is out of range.
        """
        if not 0 <= size <= MAX_PAGE:
            raise Invalid("PAGE_SIZE", f"A page has 1 to {MAX_PAGE} entries.")
        return self._statements.conflicts(after, size or MAX_PAGE)

    def _restore(self, locators: Mapping[UUID, InstanceLocator]) -> dict[UUID, MdmError | None]:
        """Queue published instances again, with the headers that the PACS has of them."""
        outcomes: dict[UUID, MdmError | None] = {}
        for study_uid in sorted({locator.study_uid for locator in locators.values()}):
            wanted = {locator.sop_uid: guid for guid, locator in locators.items() if locator.study_uid == study_uid}
            gone = NotFound("NOT_IN_PACS", "The PACS does not have this instance any more.")
            outcomes |= dict.fromkeys(wanted.values(), gone)
            try:
                for header in self._pacs.headers(study_uid):
                    if header.sop_uid in wanted:
                        self.enqueue([header], restore=True)
                        outcomes[wanted[header.sop_uid]] = None
            except MdmError as error:
                outcomes |= {guid: error for guid in wanted.values() if outcomes[guid] is gone}
        return outcomes
