"""What a DICOM result says of itself: what it is, and the grid's images that it refers to."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from uuid import UUID

import pydicom
from mdm_wire.errors import Invalid, MdmError
from pydicom import Dataset
from pydicom.errors import InvalidDicomError

from mdm_client.client import Client
from mdm_client.dicomweb.records import IMAGES, Records, Site, Statement

#: Of the storage classes of results; others go by their modality.
_KINDS = {"SEG": "segmentation", "RTSTRUCT": "structure-set", "SR": "report", "RTDOSE": "dose", "PR": "presentation-state"}
_REFERENCED = "ReferencedSOPInstanceUID"
_BATCH = 500

Described = Mapping[Path, tuple[dict[str, str], tuple[UUID, ...]] | MdmError]


def describe(client: Client, paths: Sequence[Path]) -> Described:
    """Return of DICOM files their attributes and the images that they refer to, or why they cannot be put.

    A file of a study of the grid must refer to images that the caller sees: a result of images that were renamed on the way belongs to
    nothing here. One of another study is described by its header only.

    Raises:
        MdmError: no metadata service answers.
    """
    found: dict[Path, tuple[dict[str, str], tuple[UUID, ...]] | MdmError] = {}
    headers: dict[Path, Dataset] = {}
    for path in paths:
        try:
            headers[path] = pydicom.dcmread(path, stop_before_pixels=True)
        except (InvalidDicomError, OSError, ValueError, EOFError, AttributeError) as error:
            found[path] = Invalid("DICOM_MALFORMED", f"{path}: cannot be read as DICOM ({type(error).__name__})")
    references = {path: frozenset(_references(dataset)) for path, dataset in headers.items()}
    records = Records(client)
    try:
        known = _images(records, frozenset().union(*references.values()))
    finally:
        records.close()
    for path, dataset in headers.items():
        images = {uid: known[uid] for uid in references[path] if uid in known}
        unknown = len(references[path]) - len(images)
        if images and unknown:
            found[path] = Invalid("REFERENCE_UNKNOWN", f"{path}: refers to {unknown} images that the grid does not have, or not for you")
            continue
        guids = tuple(sorted((guid for guid, _ in images.values()), key=str))
        found[path] = _attributes(dataset, sorted({patient for _, patient in images.values()})), guids
    return found


def _attributes(dataset: Dataset, patients: Sequence[str]) -> dict[str, str]:
    modality = str(dataset.get("Modality", ""))
    equipment = dataset.get("ManufacturerModelName") or dataset.get("Manufacturer") or ""
    versions = dataset.get("SoftwareVersions") or ""
    values = {
        "kind": _KINDS.get(modality, modality.lower()),
        "tool": str(equipment)[:256],
        "tool_version": (versions if isinstance(versions, str) else "\\".join(map(str, versions)))[:64],
        "description": str(dataset.get("ContentDescription") or dataset.get("StructureSetLabel") or "")[:1023],
        "SeriesDescription": str(dataset.get("SeriesDescription", ""))[:256],
        "Modality": modality[:16],
        "SOPClassUID": str(dataset.get("SOPClassUID", "")),
        "SOPInstanceUID": str(dataset.get("SOPInstanceUID", "")),
        "study": str(dataset.get("StudyInstanceUID", "")),
        "series": str(dataset.get("SeriesInstanceUID", "")),
        "patient": patients[0] if len(patients) == 1 else "",
    }
    return {name: value for name, value in values.items() if value}


def _references(dataset: Dataset) -> Iterator[str]:
    """Yield the SOP Instance UIDs to which a file refers, at any depth, but for itself and, as structure sets do, for its study."""
    own = {dataset.get("SOPInstanceUID"), dataset.get("StudyInstanceUID")}
    for element in dataset.iterall():
        if element.keyword == _REFERENCED and element.value and element.value not in own:
            yield str(element.value)


def _images(records: Records, uids: frozenset[str]) -> dict[str, tuple[UUID, str]]:
    """Return GUID and patient's pseudonym of images by SOP Instance UID, of all sites."""
    ordered = sorted(uids)

    def ask(site: Site) -> list[tuple[str, UUID, str]]:
        rows: list[tuple[str, UUID, str]] = []
        for start in range(0, len(ordered), _BATCH):
            statement = Statement(site, IMAGES)
            statement.one_of("i.SOPInstanceUID", "text", ordered[start : start + _BATCH])
            rows += records.rows(site, statement.sql(["i.SOPInstanceUID", "i.guid", "i.patient"]), statement.parameters)
        return rows

    answers, _ = records.each(ask) if ordered else ([], {})
    return {uid: (UUID(str(guid)), str(patient)) for rows in answers for uid, guid, patient in rows}
