"""Queries by DIMSE C-FIND in the Study Root model (PS3.4 annex C.4.1)."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing

from mdm_wire.errors import Unavailable
from pydicom import Dataset
from pydicom.multival import MultiValue
from pynetdicom.dimse_primitives import C_FIND

from mdm_dicom_srm.pacs.dimse import AssociationPool, Proposal
from mdm_dicom_srm.pacs.dimse_message import SUCCESS, Answer, identifier
from mdm_dicom_srm.pacs.query import IMAGE, SERIES, STUDY, Match, normalise

FIND = "1.2.840.10008.5.1.4.1.2.2.1"  # Study Root Query/Retrieve Information Model - FIND (PS3.4 table C.6.2-1)
_MAX_MATCHES = 1_000_000
_UIDS = {STUDY: "StudyInstanceUID", SERIES: "SeriesInstanceUID", IMAGE: "SOPInstanceUID"}
_ABOVE = (_UIDS[STUDY], _UIDS[SERIES])


class CFind:
    """The C-FIND service of a PACS; see `query.Search`."""

    def __init__(self, pool: AssociationPool) -> None:
        self._pool = pool

    def find(self, level: str, keys: Mapping[str, str | Sequence[str]]) -> Generator[Match, None, None]:
        """Yield the matches at a level as they arrive, each once; see `query.Search.find`.

        Of a PACS that does not match a list of UIDs (PS3.4 C.2.2.2.2) all are asked for, and the others left out here.

        Raises:
            Unavailable: also where the answer has no end.
        """
        own, lists = _UIDS[level], [keyword for keyword, value in keys.items() if not isinstance(value, str) and len(value) > 1]
        seen: set[str] = set()
        try:
            for match in self._ask(level, keys):
                if match.get(own, "") not in seen or not match[own]:
                    seen.add(match.get(own, ""))
                    yield match
        except _Refused:
            if not lists or seen:
                raise
            wider = {keyword: "" if keyword in lists else value for keyword, value in keys.items()}
            yield from (match for match in self.find(level, wider) if all(match[keyword] in keys[keyword] for keyword in lists))

    def _ask(self, level: str, keys: Mapping[str, str | Sequence[str]]) -> Generator[Match, None, None]:
        count, status = 0, SUCCESS
        with closing(self._pool.exchange(Proposal(FIND), C_FIND(), identifier(level, keys))) as answers:
            for answer in answers:
                if not isinstance(answer, Answer):
                    continue
                status = answer.status
                if answer.pending and answer.identifier is not None:
                    count += 1
                    match = {keyword: _value(answer.identifier, keyword) for keyword in keys}
                    if _is_asked_for(match, keys):
                        yield match
                if count > _MAX_MATCHES:
                    raise Unavailable("PACS_BROKE_OFF", "The PACS answers a C-FIND without end.")
        if status != SUCCESS:
            raise refused("C-FIND", status)


class _Refused(Unavailable):
    """The PACS answered, with a failure."""


def refused(operation: str, status: int) -> Unavailable:
    """Return the error for a final status that is not success."""
    return _Refused("PACS_REFUSED", f"The PACS answered {operation} with status 0x{status:04X}; check its log.")


def _is_asked_for(match: Match, keys: Mapping[str, str | Sequence[str]]) -> bool:
    """Return whether a match is of the study and series asked for; what a PACS says of others is an error of its own."""
    for keyword in _ABOVE:
        wanted = keys.get(keyword)
        if wanted and isinstance(wanted, str) and match[keyword] not in ("", wanted):
            return False
    return True


def _value(dataset: Dataset, keyword: str) -> str:
    try:
        value = dataset.get(keyword)
    except Exception:  # pydicom raises of many kinds where a value is not what its VR says
        return ""
    return normalise(keyword, list(value) if isinstance(value, (MultiValue, list)) else [value])
