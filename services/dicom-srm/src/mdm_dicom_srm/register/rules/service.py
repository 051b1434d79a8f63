"""What triggers and operators ask of registration."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from uuid import UUID

from mdm_wire.errors import Invalid, MdmError, NotFound

from mdm_dicom_srm.pacs.part10 import Header
from mdm_dicom_srm.pacs.port import Pacs
from mdm_dicom_srm.register.rules.model import Page, Queued, State
from mdm_dicom_srm.register.rules.names import Names
from mdm_dicom_srm.register.rules.port import Queue

_log = logging.getLogger(__name__)
_UID = re.compile(r"[0-9.]{1,64}")  # PS3.5 section 9.1
_CHUNK = 50
MAX_STUDIES = 100
MAX_PAGE = 1000


class RegistrationService:
    """Queues instances and tells what became of them. `wake` is called when something was queued."""

    def __init__(self, queue: Queue, names: Names, pacs: Pacs, wake: Callable[[], None]) -> None:
        self._queue = queue
        self._names = names
        self._pacs = pacs
        self._wake = wake

    def enqueue(self, headers: Sequence[Header]) -> Queued:
        """Queue instances durably by their headers; instances already known are left.

        Raises:
            Invalid: NO_SOP_INSTANCE_UID, one of them has no name; none is queued.
        """
        if not all(header.sop_uid for header in headers):
            raise Invalid("NO_SOP_INSTANCE_UID", "The instance has no SOP Instance UID.")
        result = self._queue.enqueue([self._names.candidate(header) for header in headers])
        if result.queued:
            self._wake()
        return result

    def register_study(self, study_uid: str) -> Queued:
        """Queue every instance of a study that the PACS holds.

        Raises:
            Invalid: not a UID, or the PACS sent instances that are not DICOM; the others are queued.
            NotFound: the PACS does not have the study.
            Unavailable: the PACS is away; what arrived before is queued, asking again is harmless.
        """
        if not _UID.fullmatch(study_uid):
            raise Invalid("STUDY_UID_MALFORMED", "Not a Study Instance UID: digits and dots, at most 64.")
        result = Queued()
        headers = iter(self._pacs.headers(study_uid))
        while chunk := list(islice(headers, _CHUNK)):
            result += self.enqueue(chunk)
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

    def retry(self, guids: Sequence[UUID]) -> Mapping[UUID, MdmError | None]:
        """Queue failed or quarantined registrations again.

        Raises:
            Invalid: too many are asked for.
        """
        if len(guids) > MAX_PAGE:
            raise Invalid("BATCH_SIZE", f"Retry at most {MAX_PAGE} registrations at once.")
        outcomes = self._queue.retry(guids)
        self._wake()
        return outcomes
