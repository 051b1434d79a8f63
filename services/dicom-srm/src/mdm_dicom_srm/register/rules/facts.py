"""What is read of a header without judging it: what a listing would say, and the facts that scopes and site policies look at."""

import hmac
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import date

from mdm_deid.encoding.charset import Charset, charset
from mdm_deid.encoding.element import Encoding, skip
from mdm_deid.encoding.part10 import open_part10
from mdm_deid.outcome import Malformed
from pydicom.datadict import tag_for_keyword

from mdm_dicom_srm.pacs.port import LISTED, InstanceLocator, Scope
from mdm_dicom_srm.pacs.query import normalise

_POLICY = ("SOPClassUID", "StationName", "SeriesDescription")
_KEYWORDS = {int(tag): keyword for keyword in (*LISTED, *_POLICY) if (tag := tag_for_keyword(keyword)) is not None}
_CHARACTER_SET = 0x00080005
_WANTED = {_CHARACTER_SET, *_KEYWORDS}
_LAST = max(_WANTED)
_MAX_VALUE = 4096


@dataclass(frozen=True, slots=True)
class Facts:
    """What scopes and site policies look at. Identifying, so never logged nor stored unsealed. `study_date` is as DICOM writes it."""

    modality: str = ""
    sop_class: str = ""
    station: str = ""
    study_date: str = ""
    study_description: str = ""
    series_description: str = ""
    patient_id: str = ""
    accession_number: str = ""

    def to_bytes(self) -> bytes:
        """Return what `from_bytes` reads."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Facts":
        """Return the facts that `to_bytes` wrote."""
        return cls(**json.loads(data))

    def day(self) -> date | None:
        """Return the study's date, None where there is none that can be read."""
        try:
            return date.fromisoformat(self.study_date.replace(".", ""))
        except ValueError:
            return None


def read(part10: bytes) -> tuple[Facts, Mapping[str, str]]:
    """Return the facts of a header, and a value for each keyword of `LISTED`; what cannot be read is "".

    Never raises: whether a file can be read is for the judge to say.
    """
    values = dict.fromkeys(_KEYWORDS.values(), "")
    with suppress(Malformed):
        opened = open_part10(part10)
        values |= _values(bytes(opened.data), opened.start, opened.encoding)
    facts = Facts(
        modality=values["Modality"],
        sop_class=values["SOPClassUID"],
        station=values["StationName"],
        study_date=values["StudyDate"],
        study_description=values["StudyDescription"],
        series_description=values["SeriesDescription"],
        patient_id=values["PatientID"],
        accession_number=values["AccessionNumber"],
    )
    return facts, {keyword: values[keyword] for keyword in LISTED}


def _values(data: bytes, pos: int, encoding: Encoding) -> dict[str, str]:
    """Return the values of the top level that are wanted, written as a query service would."""
    raw: dict[int, bytes] = {}
    limit = len(data)
    while pos < limit:
        head = encoding.header(data, pos, limit)
        tag, _, value, length = head
        if tag > _LAST:
            break
        pos = value + length if length <= limit - value else skip(data, head, limit, encoding)
        if tag in _WANTED and length <= _MAX_VALUE:
            raw[tag] = data[value:pos]
    characters = charset(raw.pop(_CHARACTER_SET, b"").decode("latin-1"))
    return {_KEYWORDS[tag]: _value(_KEYWORDS[tag], content, characters, encoding) for tag, content in raw.items()}


def _value(keyword: str, content: bytes, characters: Charset, encoding: Encoding) -> str:
    if keyword in ("Rows", "Columns"):
        return normalise(keyword, [encoding.uint(content)]) if len(content) == 2 else ""
    text = characters.decode(content)
    text = characters.by_first_set(content) if text is None else text
    return normalise(keyword, text.split("\\"))


def listing_digest(key: bytes, locator: InstanceLocator, attributes: Mapping[str, str]) -> bytes:
    """Return the keyed hash by which an equal listing of an instance is known, whichever PACS it comes from."""
    said = [locator.study_uid, locator.series_uid, locator.sop_uid, *(attributes[keyword] for keyword in LISTED)]
    return hmac.digest(key, json.dumps(said).encode(), "sha256")


def in_scope(scope: Scope, locator: InstanceLocator, facts: Facts | None) -> bool:
    """Return whether an instance is of a scope, as a PACS would answer; without facts only its UIDs are compared."""
    if scope.study_uids and locator.study_uid not in scope.study_uids:
        return False
    if scope.series_uids and locator.series_uid not in scope.series_uids:
        return False
    others = (scope.patient_ids, scope.accession_numbers, scope.modalities, scope.since, scope.until)
    if facts is None:
        return not any(others)
    day = facts.day()
    return (
        (not scope.patient_ids or facts.patient_id in scope.patient_ids)
        and (not scope.accession_numbers or facts.accession_number in scope.accession_numbers)
        and (not scope.modalities or facts.modality in scope.modalities)
        and (scope.since is None or (day is not None and day >= scope.since))
        and (scope.until is None or (day is not None and day <= scope.until))
    )
