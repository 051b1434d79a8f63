"""What triggers and operators ask of registration."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from uuid import UUID

from mdm_deid.encoding.header import Header
from mdm_deid.rules.patient import patient_of
from mdm_wire.errors import Invalid, MdmError, NotFound

from mdm_dicom_srm.pacs.port import InstanceLocator, Pacs
from mdm_dicom_srm.register.rules.arrival import Arrivals
from mdm_dicom_srm.register.rules.model import Candidate, Conflict, Page, Queued, State
from mdm_dicom_srm.register.rules.names import Names
from mdm_dicom_srm.register.rules.policy import SitePolicy
from mdm_dicom_srm.register.rules.port import Judge, Registry

_log = logging.getLogger(__name__)
_UID = re.compile(r"[0-9.]{1,64}")  # PS3.5 section 9.1
MAX_STUDIES = 100
MAX_PAGE = 1000


class RegistrationService:
    """Queues instances, has them judged, and reports what became of them. `wake` is called when something was queued."""

    def __init__(
        self,
        registry: Registry,
        names: Names,
        pacs: Pacs,
        judge: Judge,
        arrivals: Arrivals,
        wake: Callable[[], None],
        policy: SitePolicy | None = None,
    ) -> None:
        self._queue, self._registrations, self._shared = registry.queue, registry.registrations, registry.shared
        self._names = names
        self._pacs = pacs
        self._judge = judge
        self._arrivals = arrivals
        self._wake = wake
        self.policy = policy or SitePolicy()

    def enqueue(self, headers: Sequence[Header], *, pacs: str = "", calling_ae: str = "", restore: bool = False) -> Queued:
        """Queue instances of the PACS of the name `pacs` durably and have them judged. `calling_ae` sent them, "" if they were retrieved.

        What the site policy leaves out is noted without being judged. Nothing happens to known ones unless they changed or `restore`
        is asked for; an equal one of another PACS is known. While too many bytes wait to be judged this waits, too.

        Raises:
            Invalid: NO_SOP_INSTANCE_UID, one of them has no name; none is queued.
            Unavailable: one of them cannot be judged now; none is queued.
        """
        arriving = [(self._candidate(header, pacs, calling_ae), header.whole) for header in headers]
        expected: list[tuple[Candidate, bytes | memoryview]] = []
        try:
            for candidate, whole in arriving:
                if not candidate.rule and candidate.judgement is None and self._arrivals.expect(candidate, len(whole)):
                    expected.append((candidate, whole))
            candidates = [replace(candidate, arriving=candidate.judgement is None) for candidate, _ in arriving]
            queued = self._queue.enqueue(candidates, restore=restore)
        except BaseException:
            for candidate, _ in expected:
                self._arrivals.discard(candidate.version)
            raise
        for candidate, whole in expected:
            if candidate.instance in queued:
                self._arrivals.begin(candidate.version, partial(self._judge.begin, whole, candidate.judged_as))
            else:
                self._arrivals.discard(candidate.version)
        if queued:
            self._wake()
        return Queued(len(queued), len(headers) - len(queued))

    def _candidate(self, header: Header, pacs: str, calling_ae: str) -> Candidate:
        """Return an instance with what the site policy says of it, and of whom it is; judged where it cannot be retrieved for that."""
        if not header.sop_uid:
            raise Invalid("NO_SOP_INSTANCE_UID", "The instance has no SOP Instance UID.")
        candidate = self._names.candidate(header, pacs)
        rule = self.policy.leaves_out(candidate.facts, calling_ae)
        candidate = replace(candidate, calling_ae=calling_ae, policy=self.policy.fingerprint, rule=rule)
        if rule:
            return candidate
        if not (header.study_uid and header.series_uid):
            return replace(candidate, judgement=self._judge.judge(header.whole, None))
        said = patient_of(header.part10)
        if said is None:
            return candidate
        patient, agrees = self._shared.patient_at_arrival(header.study_uid, candidate.instance, said[1])
        return replace(candidate, judged_as=patient, agrees=agrees)

    def register_study(self, study_uid: str) -> Queued:
        """Queue every instance of a study that the PACS holds, published ones too, so that what the grid has lost is restored.

        Raises:
            Invalid: not a UID, or the PACS sent instances that are not DICOM; the others are queued.
            NotFound: the PACS does not have the study.
            Unavailable: the PACS is away; what arrived before is queued, asking again is harmless.
        """
        if not _UID.fullmatch(study_uid):
            raise Invalid("STUDY_UID_MALFORMED", "Not a Study Instance UID: digits and dots, at most 64.")
        result = Queued()
        for header, pacs in self._pacs.headers(study_uid):
            result += self.enqueue([header], pacs=pacs, restore=True)
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
        return self._registrations.summary([self._names.study_token(uid) for uid in study_uids])

    def rules(self) -> Mapping[str, int]:
        """Count what the site policy leaves out, by rule."""
        return self._registrations.rules()

    def page(self, state: State | None, after: UUID | None, size: int, study_uids: Sequence[str] = (), reason: str = "") -> Page:
        """Return a page of registrations in order of GUID, those of some studies and for one reason if given; size 0 means the largest.

        Raises:
            Invalid: the size is out of range, or too many studies are asked for.
        """
        if len(study_uids) > MAX_STUDIES:
            raise Invalid("BATCH_SIZE", f"Ask for at most {MAX_STUDIES} studies.")
        if not 0 <= size <= MAX_PAGE:
            raise Invalid("PAGE_SIZE", f"A page has 1 to {MAX_PAGE} registrations.")
        tokens = [self._names.study_token(uid) for uid in study_uids]
        return self._registrations.page(state, after, size or MAX_PAGE, tokens, reason)

    def retry(self, guids: Sequence[UUID], subject: str, *, published: bool = False) -> Mapping[UUID, MdmError | None]:
        """Queue failed or quarantined registrations again, as `subject` decided; with `published` those that are published, too.

        The latter restores what was lost of them.

        Raises:
            Invalid: too many are asked for.
        """
        if len(guids) > MAX_PAGE:
            raise Invalid("BATCH_SIZE", f"Retry at most {MAX_PAGE} registrations at once.")
        locators = self._registrations.published(guids) if published else {}
        outcomes = dict(self._queue.retry([guid for guid in guids if guid not in locators], subject))
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
        return self._shared.conflicts(after, size or MAX_PAGE)

    def _restore(self, locators: Mapping[UUID, InstanceLocator]) -> dict[UUID, MdmError | None]:
        """Queue published instances again, with the headers that the PACS has."""
        outcomes: dict[UUID, MdmError | None] = {}
        for study_uid in sorted({locator.study_uid for locator in locators.values()}):
            wanted = {locator.sop_uid: guid for guid, locator in locators.items() if locator.study_uid == study_uid}
            absent = NotFound("NOT_IN_PACS", "The PACS does not have this instance any more.")
            outcomes |= dict.fromkeys(wanted.values(), absent)
            try:
                for header, pacs in self._pacs.headers(study_uid):
                    if header.sop_uid in wanted:
                        self.enqueue([header], pacs=pacs, restore=True)
                        outcomes[wanted[header.sop_uid]] = None
            except MdmError as error:
                outcomes |= {guid: error for guid in wanted.values() if outcomes[guid] is absent}
        return outcomes
