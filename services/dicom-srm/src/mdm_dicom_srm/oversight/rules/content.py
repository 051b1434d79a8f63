"""What an original header says: of the examination, of what made it wait, and whether a note repeats it."""

import io
import re
from collections.abc import Iterable, Iterator, Sequence

import pydicom
from mdm_deid.rules.rule import InstanceRule, meets
from pydicom import Dataset
from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.multival import MultiValue

from mdm_dicom_srm.judgement import Judgement
from mdm_dicom_srm.oversight.rules.model import Element

_SHOWN = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "StudyDate", "StudyDescription", "AccessionNumber"),
    *("Modality", "SeriesDescription", "SeriesNumber", "InstanceNumber", "SOPClassUID", "ImageType", "ConversionType"),
    *("Manufacturer", "ManufacturerModelName", "StationName", "BurnedInAnnotation", "Rows", "Columns", "NumberOfFrames"),
)
_OF_CONFLICTS = ("PatientID", "IssuerOfPatientID", "PatientName")
_IDENTIFYING = ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "OtherPatientIDs", "StudyInstanceUID", "SOPInstanceUID")
_LONGEST = 256
# Shorter ones occur in any text.
_SHORTEST_IN_NOTE = 3
_WORD = re.compile(r"\w+")


def read(header: bytes) -> Dataset:
    """Return the data set of a Part 10 file without pixel data."""
    return pydicom.dcmread(io.BytesIO(header), force=True)


def examination(dataset: Dataset) -> list[Element]:
    """Return what says whose image it is, of what, and how it was made."""
    return list(_elements(dataset, (tag_for_keyword(keyword) for keyword in _SHOWN)))


def suspicious(dataset: Dataset, reason: str, judgement: Judgement | None, rules: Sequence[InstanceRule]) -> list[Element]:
    """Return the elements for which an instance waits: those of the profile's rule, of a patient's identity, or that the check found."""
    if judgement is not None and judgement.found:
        return list(_elements(dataset, judgement.found))
    if reason == "PATIENT_CONFLICT":
        return list(_elements(dataset, map(tag_for_keyword, _OF_CONFLICTS)))
    for rule in rules:
        if rule.reason.upper() == reason:
            met = [tag for tag, wanted in rule.conditions.items() if meets(_text(dataset, tag), wanted)]
            if met:
                return list(_elements(dataset, met))
    return []


def identifies(note: str, dataset: Dataset) -> bool:
    """Return whether a note repeats a part of the patient's name or another identifier of the header."""
    words = {word.casefold() for word in _WORD.findall(note)}
    for keyword in _IDENTIFYING:
        value = _text(dataset, tag_for_keyword(keyword)).casefold()
        parts = _WORD.findall(value) if keyword == "PatientName" else [value] if value else []
        for part in parts:
            if len(part) >= _SHORTEST_IN_NOTE and (part in words or (keyword != "PatientName" and part in note.casefold())):
                return True
    return False


def _elements(dataset: Dataset, tags: Iterable[int | None]) -> Iterator[Element]:
    for tag in tags:
        if tag is not None and (text := _text(dataset, tag)):
            yield Element(tag, keyword_for_tag(tag), text[:_LONGEST])


def _text(dataset: Dataset, tag: int | None) -> str:
    """Return a value as text, "" where there is none or it cannot be decoded: a header holds whatever a modality wrote."""
    try:
        element = dataset[tag] if tag is not None and tag in dataset else None
        value = None if element is None or element.VR == "SQ" else element.value
        if value is None or isinstance(value, bytes):
            return ""
        return "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value)
    except Exception:
        return ""
