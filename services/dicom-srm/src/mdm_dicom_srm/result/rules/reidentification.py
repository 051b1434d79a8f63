"""A result translated back for the PACS: the grid's pseudonymous UIDs and patient become the hospital's own."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from mdm_wire.errors import FailedPrecondition, Invalid
from pydicom import DataElement, Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.uid import UID

#: What a result takes over from the images that it refers to (PS3.3: patient, study and frame of reference).
_TAKEN = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "OtherPatientIDs",
    "EthnicGroup",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
)
#: What says that a file has no identity.
_DROPPED = (
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "LongitudinalTemporalInformationModified",
)
#: UIDs by which a file refers to others: one of these that is unknown would lead nowhere in the PACS.
_LEADING = frozenset({"ReferencedSOPInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "ReferencedFrameOfReferenceUID"})
_STANDARD = "1.2.840.10008."


@dataclass(frozen=True, slots=True)
class Originals:
    """What the hospital has of the study that a result belongs to: `uids` by pseudonym, and a header of one of its images."""

    uids: Mapping[str, str]
    header: Dataset


def referenced(result: Dataset) -> set[str]:
    """Return the SOP Instance UIDs that a result refers to, but for its own."""
    return {str(e.value) for e in result.iterall() if e.keyword == "ReferencedSOPInstanceUID" and e.value} - {str(result.SOPInstanceUID)}


def reidentify(result: Dataset, originals: Originals) -> int:
    """Translate a result in place; return how many UIDs were replaced.

    Raises:
        FailedPrecondition: UID_UNKNOWN: it refers to something that is not in the registry of this site; NOT_PSEUDONYMOUS.
        Invalid: NO_REFERENCES: nothing says which images it is of.
    """
    if not referenced(result):
        raise Invalid("NO_REFERENCES", "The file refers to no image: there is nothing to translate it by.")
    if str(result.get("StudyInstanceUID", "")) in originals.uids.values():
        raise FailedPrecondition("NOT_PSEUDONYMOUS", "The file names the original study already.")
    own = {str(result.get(keyword, "")) for keyword in ("SOPInstanceUID", "SeriesInstanceUID")}
    unknown = sum(1 for element, uid in _uids(result) if _must_be_known(element) and uid not in originals.uids and uid not in own)
    if unknown:
        message = f"The file has {unknown} UIDs that lead to nothing of this site: it is not of its images, or these were removed."
        raise FailedPrecondition("UID_UNKNOWN", message)
    count = sum(_translate(element, originals.uids) for element in list(_elements(result)))
    for keyword in _DROPPED:
        if keyword in result:
            delattr(result, keyword)
    for keyword in _TAKEN:
        tag = tag_for_keyword(keyword)
        assert tag is not None
        if keyword in originals.header:
            result[keyword] = originals.header[keyword]
        elif keyword in result:
            result[keyword].value = None
    if "SpecificCharacterSet" in originals.header:
        # Values of the result itself are ASCII or are encoded anew by pydicom.
        result.SpecificCharacterSet = originals.header.SpecificCharacterSet
    return count


def uids_of(headers: Iterable[Dataset], pseudonym: Callable[[str], str]) -> dict[str, str]:
    """Return the original UIDs in headers by the pseudonyms that they have in the grid."""
    return {pseudonym(uid): uid for header in headers for _, uid in _uids(header) if not uid.startswith(_STANDARD)}


def _must_be_known(element: DataElement) -> bool:
    return element.keyword in _LEADING


def _elements(dataset: Dataset) -> Iterator[DataElement]:
    return (element for element in dataset.iterall() if element.VR == "UI")


def _uids(dataset: Dataset) -> Iterator[tuple[DataElement, str]]:
    for element in _elements(dataset):
        for value in _values(element):
            yield element, value


def _values(element: DataElement) -> list[str]:
    value = element.value
    if not value:
        return []
    return [str(item) for item in value] if element.VM > 1 else [str(value)]


def _translate(element: DataElement, uids: Mapping[str, str]) -> int:
    values = _values(element)
    found = [uids.get(value, value) for value in values]
    changed = sum(before != after for before, after in zip(values, found, strict=True))
    if changed:
        element.value = UID(found[0]) if len(found) == 1 else [UID(item) for item in found]
    return changed
