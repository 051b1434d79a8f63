"""What an inspection does: a study as the PACS lists it is compared with the registry, which is brought to it."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from uuid import UUID

from mdm_deid.encoding.header import Header
from mdm_wire.errors import Invalid, Unavailable

from mdm_dicom_srm.pacs.header import header_of
from mdm_dicom_srm.pacs.port import MissingInstance, Pacs
from mdm_dicom_srm.register.rules.facts import in_scope, read
from mdm_dicom_srm.register.rules.model import State
from mdm_dicom_srm.register.rules.names import Names
from mdm_dicom_srm.register.rules.scan import Action, Counts, Inspection, Known, Listed, Order, ScanStores
from mdm_dicom_srm.register.rules.service import RegistrationService

_log = logging.getLogger(__name__)
_CHUNK = 500
_NOTED_AT_ONCE = 50


@dataclass(slots=True)
class _Findings:
    """How the instances of a study compare; `wanted` are to be retrieved."""

    listed: int = 0
    equal: int = 0
    new: int = 0
    changed: int = 0
    left_out: int = 0
    wanted: dict[UUID, tuple[Listed, Known | None]] = field(default_factory=dict)
    rules: dict[UUID, str] = field(default_factory=dict)  # of registrations that the site policy leaves out from now on
    let_in: list[UUID] = field(default_factory=list)  # those that it registers
    moved: dict[UUID, Listed] = field(default_factory=dict)  # by instance: equal, but in another PACS
    found: list[UUID] = field(default_factory=list)


class Inspector:
    """Brings the registry to what the PACS has of a study. Everything here may be repeated; memory is bounded by a study's listing."""

    def __init__(
        self,
        pacs: Pacs,
        names: Names,
        stores: ScanStores,
        service: RegistrationService,
        gone_after_seconds: float,
    ) -> None:
        self._pacs = pacs
        self._names = names
        self._contents = stores.contents
        self._inspections = stores.inspections
        self._service = service
        self._policy = service.policy
        self._gone_after = gone_after_seconds

    def inspect(self, inspection: Inspection) -> Counts:
        """Look at a study; return what was found.

        Raises:
            Unavailable: the PACS is away, or an instance could not be delivered or judged; what was found before is kept.
        """
        order = inspection.order
        if order is not None and order.action is Action.UNREGISTER:
            return Counts(unregistered=self._unregister(inspection.study_uid, order))
        listed = self._list(inspection.study_uid)
        findings = self._compare(inspection, listed)
        absent = self._absent(inspection.study_uid, listed)
        counts = Counts(findings.listed, findings.new, findings.changed, findings.equal, findings.left_out)
        if order is not None and order.dry_run:
            return replace(counts, gone=sum(1 for _ in absent))
        self._settle(findings)
        missing, gone = self._miss(inspection.study_uid, absent)
        return replace(counts, missing=missing, gone=gone, failed=self._retrieve(findings))

    def _unregister(self, study_uid: str, order: Order) -> int:
        """Have those of a study's registrations removed that are of the scope; return how many that are, or would be."""
        known = self._contents.of_study(self._names.study_token(study_uid))
        wanted = (item.guid for item in known if in_scope(order.scope, item.locator, item.facts))
        return sum(self._contents.unregister(guids, order.by, order.note, dry_run=order.dry_run) for guids in _chunks(wanted))

    def _list(self, study_uid: str) -> dict[UUID, dict[str, Listed]]:
        """Return what each PACS lists of a study's instances, by instance and name of the PACS."""
        listed: dict[UUID, dict[str, Listed]] = {}
        for item in self._pacs.listing(study_uid):
            found = Listed(item.locator, self._names.listing_digest(item.locator, item.attributes))
            listed.setdefault(self._names.instance(item.locator.sop_uid), {})[item.locator.pacs] = found
        return listed

    def _compare(self, inspection: Inspection, listed: Mapping[UUID, Mapping[str, Listed]]) -> _Findings:
        findings = _Findings(listed=len(listed))
        registered = _RegisteredStudies(self._pacs)
        for chunk in _chunks(listed):
            known = self._contents.of_instances(chunk)
            for instance in chunk:
                self._sort(inspection, listed[instance], known.get(instance), findings, registered)
        return findings

    def _sort(
        self,
        inspection: Inspection,
        by_pacs: Mapping[str, Listed],
        known: Known | None,
        findings: _Findings,
        registered: "_RegisteredStudies",
    ) -> None:
        item = next(iter(by_pacs.values()))
        instance = self._names.instance(item.locator.sop_uid)
        if known is None or not known.live:
            if known is not None and known.unregistered and not inspection.by_operator:
                findings.left_out += 1
                return
            findings.new += 1
            findings.wanted[instance] = (item, known)
            return
        item = by_pacs.get(known.locator.pacs, item)
        moved = known.locator.study_uid != item.locator.study_uid
        if moved and registered.has(known):
            findings.equal += 1  # it lies in two studies: the one that it is registered in stands
        elif moved or known.listing != item.digest or (known.state is State.FAILED and inspection.by_operator):
            findings.changed += 1
            findings.wanted[instance] = (item, known)
        else:
            self._keep(known, item, instance, findings)

    def _keep(self, known: Known, item: Listed, instance: UUID, findings: _Findings) -> None:
        """Sort an instance that has not changed: by the site policy, which may have."""
        findings.found.append(known.guid)
        if known.locator.pacs != item.locator.pacs:
            findings.moved[instance] = item
        rule = known.rule
        if known.policy != self._policy.fingerprint and known.facts is not None:
            rule = self._policy.leaves_out(known.facts, known.calling_ae)
            if rule:
                findings.rules[known.guid] = rule
            else:
                findings.let_in.append(known.guid)
        if rule:
            findings.left_out += 1
        elif known.rule:
            findings.new += 1
        else:
            findings.equal += 1

    def _settle(self, findings: _Findings) -> None:
        """Keep what needs no retrieval."""
        for guids in _chunks(findings.rules):
            self._contents.leave_out({guid: findings.rules[guid] for guid in guids}, self._policy.fingerprint)
        for guids in _chunks(findings.let_in):
            self._contents.let_in(guids, self._policy.fingerprint)
        for instances in _chunks(findings.moved):
            self._contents.note_listed({instance: findings.moved[instance] for instance in instances}, self._policy.fingerprint)
        for guids in _chunks(findings.found):
            self._contents.found(guids)

    def _absent(self, study_uid: str, listed: Mapping[UUID, object]) -> Iterator[UUID]:
        """Yield the registrations of a study whose instances no PACS lists in it."""
        for known in self._contents.of_study(self._names.study_token(study_uid)):
            if known.instance not in listed:
                yield known.guid

    def _miss(self, study_uid: str, absent: Iterable[UUID]) -> tuple[int, int]:
        """Note what is missing; return how many instances are missing for the first time, and how many are gone."""
        missing = gone = 0
        for guids in _chunks(absent):
            removed = self._contents.miss(guids, self._gone_after)
            gone += removed
            missing += len(guids) - removed
        if missing:
            self._inspections.queue(study_uid, self._gone_after)
        if gone:
            _log.info("instances are gone from the PACS", extra={"instances": gone})
        return missing, gone

    def _retrieve(self, findings: _Findings) -> int:
        """Queue what is new or changed; return how many instances cannot be read, or are listed though the PACS lacks them.

        Raises:
            Unavailable: the PACS did not deliver something that it lists; what it delivered is queued.
        """
        if not findings.wanted:
            return 0
        wanted = {item.locator.sop_uid: (instance, item, known) for instance, (item, known) in findings.wanted.items()}
        failed, late = 0, ""
        noted: dict[UUID, Listed] = {}
        for arrived in self._pacs.retrieve([item.locator for _, item, _ in wanted.values()]):
            instance, item, known = wanted[arrived.sop_uid]
            if isinstance(arrived, MissingInstance) and not arrived.gone:
                late = late or arrived.reason
                continue
            header = None if isinstance(arrived, MissingInstance) else _header(arrived.part10, item)
            if isinstance(arrived, MissingInstance) or header is None:
                failed += 1
                continue
            locator = replace(item.locator, pacs=arrived.pacs or item.locator.pacs)
            self._service.enqueue([header], pacs=locator.pacs, calling_ae=known.calling_ae if known else "")
            noted[instance] = Listed(locator, item.digest, read(header.part10)[0])
            if len(noted) >= _NOTED_AT_ONCE:
                self._contents.note_listed(noted, self._policy.fingerprint)
                noted = {}
        self._contents.note_listed(noted, self._policy.fingerprint)
        if late:
            raise Unavailable(late, "The PACS lists instances that it does not deliver.")
        return failed


class _RegisteredStudies:
    """Asks the PACS whether an instance is still in the study that it is registered in; each study is listed once."""

    def __init__(self, pacs: Pacs) -> None:
        self._pacs = pacs
        self._studies: dict[str, set[str]] = {}

    def has(self, known: Known) -> bool:
        study_uid = known.locator.study_uid
        if study_uid not in self._studies:
            self._studies[study_uid] = {item.locator.sop_uid for item in self._pacs.listing(study_uid)} if study_uid else set()
        return known.locator.sop_uid in self._studies[study_uid]


def _header(part10: bytes | memoryview, item: Listed) -> Header | None:
    """Return the header of an instance; None if it cannot be read, or says that it is another one than the PACS lists."""
    try:
        header = header_of(part10)
    except Invalid as error:
        _log.warning("an instance of the PACS cannot be read", extra={"reason": error.reason})
        return None
    locator = item.locator
    if (header.sop_uid, header.study_uid, header.series_uid) != (locator.sop_uid, locator.study_uid, locator.series_uid):
        _log.warning("an instance of the PACS cannot be read", extra={"reason": "LISTED_OTHERWISE"})
        return None
    return header


def _chunks(items: Iterable[UUID]) -> Iterator[list[UUID]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk
