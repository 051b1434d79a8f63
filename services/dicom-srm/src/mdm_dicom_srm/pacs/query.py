"""What is asked of a PACS by QIDO-RS and C-FIND alike: the studies of a scope, and the listing of a study."""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import islice
from typing import Protocol

from mdm_wire.errors import Unavailable
from pydicom.datadict import dictionary_VR

from mdm_dicom_srm.pacs.port import LISTED, InstanceLocator, ListedInstance, Scope

_log = logging.getLogger(__name__)

STUDY, SERIES, IMAGE = "STUDY", "SERIES", "IMAGE"
#: By level, what of `LISTED` is asked for there (PS3.4 table C.6-1 and on).
_AT_SERIES = ("SeriesNumber", "Modality")
_AT_IMAGE = ("InstanceNumber", "Rows", "Columns", "NumberOfFrames")
_AT_STUDY = tuple(keyword for keyword in LISTED if keyword not in (*_AT_SERIES, *_AT_IMAGE))
_SCOPE_KEYS = ("StudyInstanceUID", "StudyDate", "PatientID", "AccessionNumber", "ModalitiesInStudy")
# A PACS may cut its answers to a query; what is below any usual limit is taken to be complete.
_COMPLETE = 100
_FIRST, _LAST = date(1, 1, 1), date(9999, 12, 31)
_DICOM_BEGAN = date(1990, 1, 1)

#: A match: a value for each keyword that was asked for, normalised.
Match = Mapping[str, str]


class Search(Protocol):
    """A query service of a PACS."""

    def find(self, level: str, keys: Mapping[str, str | Sequence[str]]) -> Iterator[Match]:
        """Yield the matches at a level; an empty value asks for the attribute, another one must match.

        Raises:
            Unavailable: the PACS is away, refuses the query or broke off.
        """
        ...


def normalise(keyword: str, values: Sequence[object]) -> str:
    """Return the values of an attribute as text that is the same whichever query service it came by."""
    vr = dictionary_VR(keyword)
    return "\\".join(_normalise(vr, "" if value is None else str(value)) for value in values)


def _normalise(vr: str, text: str) -> str:
    text = text.strip(" \0")
    if vr == "PN":
        return "=".join(group.rstrip("^ ") for group in text.split("=")).rstrip("=")
    if vr in ("IS", "US"):
        try:
            return str(int(text))
        except ValueError:
            return text
    return text


def listing(search: Search, study_uid: str, pacs: str) -> Iterator[ListedInstance]:
    """Yield the instances of a study; see `Pacs.listing`.

    Raises:
        Unavailable: also where the PACS counts more instances than it lists.
    """
    study = next((match for match in search.find(STUDY, {"StudyInstanceUID": study_uid, **dict.fromkeys(_AT_STUDY, "")})), None)
    if study is None:
        return
    keys = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": "", "NumberOfSeriesRelatedInstances": "", **dict.fromkeys(_AT_SERIES, "")}
    for series in _distinct(search.find(SERIES, keys), "SeriesInstanceUID"):
        count, series_uid = 0, series["SeriesInstanceUID"]
        asked = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid, "SOPInstanceUID": "", "SOPClassUID": ""}
        for image in search.find(IMAGE, asked | dict.fromkeys(_AT_IMAGE, "")):
            if image["SOPInstanceUID"]:
                count += 1
                found = {**study, **series, **image}
                attributes = {keyword: found[keyword] for keyword in LISTED}
                yield ListedInstance(
                    InstanceLocator(study_uid, series_uid, image["SOPInstanceUID"], pacs), image["SOPClassUID"], attributes
                )
        said = series["NumberOfSeriesRelatedInstances"]
        # Of few instances a difference is one of counting (what is hidden, say), not of a limit.
        if said.isdigit() and _COMPLETE <= count < int(said):
            raise _cut()


def studies(search: Search, scope: Scope) -> Iterator[str]:
    """Yield the studies of a scope, each once; see `Pacs.studies`."""
    for match in _candidates(search, scope):
        if match["StudyInstanceUID"] and _matches(search, scope, match):
            yield match["StudyInstanceUID"]


def _candidates(search: Search, scope: Scope) -> Iterator[Match]:
    """Yield studies by the condition that leaves the fewest; the PACS may return more than match."""
    if scope.series_uids:
        seen: set[str] = set()
        for series_uid in scope.series_uids:
            for study_uid in scope.study_uids or ("",):
                for series in search.find(SERIES, {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid}):
                    found = series["StudyInstanceUID"]
                    if series["SeriesInstanceUID"] == series_uid and found not in seen:
                        seen.add(found)
                        yield from _find(search, {"StudyInstanceUID": found})
        return
    for keyword, values in (
        ("StudyInstanceUID", scope.study_uids),
        ("AccessionNumber", scope.accession_numbers),
        ("PatientID", scope.patient_ids),
    ):
        if values:
            for value in dict.fromkeys(values):
                # A PACS may take a value for a pattern.
                yield from (match for match in _find(search, {keyword: value}) if match[keyword] == value.strip(" "))
            return
    yield from _Windows(search, scope).studies()


def _find(search: Search, keys: Mapping[str, str]) -> Iterator[Match]:
    return search.find(STUDY, dict.fromkeys(_SCOPE_KEYS, "") | dict(keys))


def _matches(search: Search, scope: Scope, match: Match) -> bool:
    return (
        _any(match["StudyInstanceUID"], scope.study_uids)
        and _any(match["PatientID"], scope.patient_ids)
        and _any(match["AccessionNumber"], scope.accession_numbers)
        and _in_range(match["StudyDate"], scope)
        and (not scope.modalities or not _modalities(search, match).isdisjoint(scope.modalities))
    )


def _any(value: str, wanted: Collection[str]) -> bool:
    return not wanted or value in wanted or value in {item.strip(" ") for item in wanted}


def _in_range(text: str, scope: Scope) -> bool:
    if scope.since is None and scope.until is None:
        return True
    try:
        day = date.fromisoformat(text.replace(".", ""))
    except ValueError:
        return False
    return (scope.since or _FIRST) <= day <= (scope.until or _LAST)


def _modalities(search: Search, match: Match) -> set[str]:
    """Return the modalities of a study; they are optional at its level, but not at that of its series."""
    if match["ModalitiesInStudy"]:
        return set(match["ModalitiesInStudy"].split("\\"))
    keys = {"StudyInstanceUID": match["StudyInstanceUID"], "SeriesInstanceUID": "", "Modality": ""}
    return {series["Modality"] for series in search.find(SERIES, keys)}


@dataclass(frozen=True, slots=True)
class _Window:
    """Days from `first` to `last`, both included."""

    first: date
    last: date

    def __str__(self) -> str:
        """The window as a range of DICOM; the ends of time are left open."""
        first = "" if self.first == _FIRST else self.first.isoformat().replace("-", "")
        last = "" if self.last == _LAST else self.last.isoformat().replace("-", "")
        return first if first == last else f"{first}-{last}"

    def has(self, text: str) -> bool:
        """Return whether a Study Date is in the window; all are in that of all time, none and malformed ones too."""
        if (self.first, self.last) == (_FIRST, _LAST):
            return True
        try:
            return self.first <= date.fromisoformat(text.replace(".", "")) <= self.last
        except ValueError:
            return bool(text)

    def parts(self) -> "list[_Window]":
        """Return windows that together are this one: its halves, or those before, in and after the time in which studies were made."""
        usual = (_DICOM_BEGAN, date.today() + timedelta(days=2))
        if self.first < usual[0] and self.last > usual[1]:
            cuts = [day for day in usual if self.first < day <= self.last]
        else:
            cuts = [self.first + (self.last - self.first) // 2 + timedelta(days=1)]
        firsts = [self.first, *cuts]
        lasts = [*(day - timedelta(days=1) for day in cuts), self.last]
        return [_Window(first, last) for first, last in zip(firsts, lasts, strict=True)]


class _Windows:
    """Goes over the studies of a PACS by windows of days that are halved until the answer to each is surely not cut."""

    def __init__(self, search: Search, scope: Scope) -> None:
        self._search = search
        self._whole = _Window(scope.since or _FIRST, scope.until or _LAST)
        self._modality = scope.modalities[0] if len(scope.modalities) == 1 else ""

    def studies(self) -> Iterator[Match]:
        if self._whole.first > self._whole.last:
            return
        if (self._whole.first, self._whole.last) == (_FIRST, _LAST):
            yield from self._undated()
        pending = [self._whole]
        while pending:
            window = pending.pop()
            if window.first == window.last:
                yield from self._day(window)
                continue
            matches = list(islice(found := self._find({"StudyDate": str(window)}), _COMPLETE))
            _close(found)
            if not all(window.has(match["StudyDate"]) for match in matches):
                raise Unavailable("PACS_REFUSED", "The PACS does not look for studies by ranges of dates, so a scan cannot be complete.")
            if len(matches) < _COMPLETE:
                yield from (match for match in matches if match["StudyDate"])
            else:
                pending.extend(reversed(window.parts()))

    def _undated(self) -> Iterator[Match]:
        """Yield the studies without a date, which are in no window: only a query for all studies returns them."""
        return (match for match in self._find({}) if not match["StudyDate"])

    def _day(self, window: _Window) -> Iterator[Match]:
        """Yield the studies of a day; where there are many, those of each hour too, to notice an answer that was cut."""
        seen: set[str] = set()
        for match in self._find({"StudyDate": str(window)}):
            seen.add(match["StudyInstanceUID"])
            yield match
        if len(seen) < _COMPLETE:
            return
        whole = len(seen)
        for hour in range(24):
            for match in self._find({"StudyDate": str(window), "StudyTime": f"{hour:02d}0000-{hour:02d}5959.999999"}):
                if match["StudyInstanceUID"] not in seen:
                    seen.add(match["StudyInstanceUID"])
                    yield match
        if len(seen) > whole:
            _log.warning("the PACS cuts its answers: a day was asked for by the hour", extra={"answers": whole, "studies": len(seen)})

    def _find(self, keys: Mapping[str, str]) -> Iterator[Match]:
        if self._modality:
            keys = {**keys, "ModalitiesInStudy": self._modality}
        return _find(self._search, keys)


def _distinct(matches: Iterator[Match], keyword: str) -> list[Match]:
    return list({match[keyword]: match for match in matches if match[keyword]}.values())


def _close(matches: Iterator[Match]) -> None:
    """End a query before its end."""
    close = getattr(matches, "close", None)
    if close is not None:
        close()


def _cut() -> Unavailable:
    return Unavailable("PACS_CUT_ANSWER", "The PACS lists fewer instances than it counts; raise its limit of answers to a query.")
