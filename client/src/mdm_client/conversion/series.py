"""Fetched DICOM files by series, and what their headers say of a series."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
from mdm_wire.errors import Corrupt
from pydicom import Dataset

_WANTED = [
    "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "Modality", "PatientID", "PatientSex", "PatientAge", "StudyDate", "ImageType",
]  # fmt: skip


@dataclass
class FetchedSeries:
    """Files of one series, and the header of one of them. `parent` is the directory, below the output, where its files would stand."""

    parent: str
    header: Dataset
    files: list[Path] = field(default_factory=list)

    @property
    def name(self) -> str:
        """How a person and a file's name call it: by its number, or else the end of its UID."""
        number = self.text("SeriesNumber")
        return f"series-{number}" if number.isdecimal() else f"series-{self.text('SeriesInstanceUID').replace('.', '')[-6:]}"

    def text(self, keyword: str) -> str:
        """Return a value of the header as text, empty where there is none."""
        value: Any = self.header.get(keyword)
        return "" if value is None else str(value).strip()


def by_series(files: Iterable[tuple[Path, str]]) -> list[FetchedSeries]:
    """Return the series of fetched files, each given with the directory where it would stand.

    Raises:
        Corrupt: DICOM_MALFORMED.
    """
    found: dict[tuple[str, str, str], FetchedSeries] = {}
    for path, parent in files:
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_WANTED)
        except Exception as error:  # whatever is read in what is no DICOM file
            raise Corrupt("DICOM_MALFORMED", f"a file cannot be read as DICOM ({type(error).__name__})") from error
        key = (parent, str(header.get("StudyInstanceUID")), str(header.get("SeriesInstanceUID")))
        found.setdefault(key, FetchedSeries(parent, header)).files.append(path)
    return list(found.values())
