"""Records as DICOM JSON: what QIDO-RS answers, and headers of images whose records say all that a viewer needs."""

import json
from collections.abc import Iterable, Mapping
from datetime import date
from functools import cache
from typing import Any

from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword

from mdm_client.dicomweb.records import Record
from mdm_client.dicomweb.study import Study

Json = dict[str, Any]
_GRID_NAMES = {"study": "StudyInstanceUID", "series": "SeriesInstanceUID", "patient": "PatientID"}
_NOT_DICOM = frozenset({"lfn", "guid", "site", "grid", "entry", "_order"})
_NUMBERS = frozenset({"IS", "DS", "US", "SS", "UL", "SL", "FD", "FL"})
_STUDY_EMPTY = ("StudyTime", "AccessionNumber", "ReferringPhysicianName", "PatientBirthDate", "StudyID", "StudyDescription", "StudyDate")
_SERIES_EMPTY = ("SeriesDescription", "SeriesNumber", "Modality")
_CT, _MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
#: What a record of one plain slice must have for a viewer to place, window and measure it.
_GEOMETRY = ("SOPInstanceUID", "FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_PIXELS = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation", "SamplesPerPixel", "PhotometricInterpretation")
_RESCALED = ("RescaleSlope", "RescaleIntercept")


@cache
def _tag(keyword: str) -> tuple[str, str, bool] | None:
    tag = tag_for_keyword(keyword)
    if tag is None:
        return None
    return f"{tag:08X}", dictionary_VR(tag), dictionary_VM(tag) != "1"


def attributes(values: Mapping[str, Any], empty: Iterable[str] = ()) -> Json:
    """Return attributes by keyword in the DICOM JSON model; those of `empty` that have no value are there without one."""
    document: Json = {}
    for keyword, value in {**dict.fromkeys(empty), **values}.items():
        known = _tag(_GRID_NAMES.get(keyword, keyword))
        if keyword in _NOT_DICOM or known is None:
            continue
        tag, kind, several = known
        document[tag] = {"vr": kind[:2]} if value is None else {"vr": kind[:2], "Value": _values(value, kind, several)}
    return dict(sorted(document.items()))


def _values(value: Any, kind: str, several: bool) -> list[Any]:
    if isinstance(value, list):
        return value
    if isinstance(value, date):
        return [value.strftime("%Y%m%d")]
    parts = value.split("\\") if isinstance(value, str) and several else [value]
    if kind in _NUMBERS:
        return [_number(part) for part in parts]
    return [{"Alphabetic": str(part)} for part in parts] if kind == "PN" else [str(part) for part in parts]


def _number(value: Any) -> int | float:
    if isinstance(value, str):
        number = float(value)
        return int(number) if number.is_integer() and "." not in value else number
    return value  # type: ignore[no-any-return]


def study_attributes(record: Record, summary: tuple[list[str], int, int, list[str]] | None, root: str) -> Json:
    """Return a study as QIDO-RS lists it; `summary` as of `Records.summaries`."""
    modalities, series, instances, _ = summary or ([], 0, 0, [])
    return attributes(
        {
            **record,
            "PatientName": record.get("patient"),
            "ModalitiesInStudy": modalities or None,
            "NumberOfStudyRelatedSeries": series,
            "NumberOfStudyRelatedInstances": instances,
            "InstanceAvailability": "ONLINE",
            "RetrieveURL": f"{root}/studies/{record['study']}",
        },
        _STUDY_EMPTY,
    )


def series_attributes(record: Record, root: str) -> Json:
    """Return a series as QIDO-RS lists it."""
    url = f"{root}/studies/{record['study']}/series/{record['series']}"
    count = record.get("NumberOfSeriesRelatedInstances")
    return attributes({**record, "NumberOfSeriesRelatedInstances": count, "RetrieveURL": url}, _SERIES_EMPTY)


def image_attributes(record: Record, root: str) -> Json:
    """Return an instance as QIDO-RS lists it; its record has a SOPInstanceUID."""
    url = f"{root}/studies/{record['study']}/series/{record['series']}/instances/{record['SOPInstanceUID']}"
    values = {**record, "RetrieveURL": url, "InstanceAvailability": "ONLINE", "AvailableTransferSyntaxUID": record.get("TransferSyntaxUID")}
    values.pop("TransferSyntaxUID", None)
    return attributes(values, ("InstanceNumber",))


def suffices(image: Record) -> bool:
    """Return whether a record says all that a viewer needs of its image: one plain slice of CT or MR, placed in space."""
    kind = image.get("SOPClassUID")
    needed = (*_GEOMETRY, *_PIXELS, *(_RESCALED if kind == _CT else ()))
    plain = image.get("SamplesPerPixel") == 1 and (image.get("NumberOfFrames") or 1) == 1
    return kind in (_CT, _MR) and plain and all(image.get(keyword) is not None for keyword in needed)


def brief_header(study: Study, image: Record, root: str) -> bytes:
    """Return the header that records give of an image, as `Instance.header`."""
    series = study.series.get(str(image["series"]), {})
    address = f"{root}/studies/{image['study']}/series/{image['series']}/instances/{image['SOPInstanceUID']}"
    values = {key: value for record in (study.record, series, image) for key, value in record.items() if value is not None}
    allocated = {"HighBit": image["BitsStored"] - 1, "PatientName": image["patient"], "RetrieveURL": address}
    syntax = {"AvailableTransferSyntaxUID": values.pop("TransferSyntaxUID", None)}
    document = attributes({**values, **allocated, **syntax}, _STUDY_EMPTY)
    document["7FE00010"] = {"vr": "OW", "BulkDataURI": f"{address}/bulkdata/7FE00010"}
    return json.dumps(document, separators=(",", ":")).encode()
