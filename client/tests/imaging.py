"""A grid of fakes with images in it: DICOM files, and records of them that a small SQL database answers for."""

import io
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pydicom
from mdm.metadata.v1 import metadata_pb2 as pb
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from client.tests.fake_services import FakeMetadata
from client.tests.grid import FakeGrid

BASE = "/biomed/hospital-a"
_LINKS = {"patient": "TEXT", "study": "TEXT", "lfn": "TEXT"}
SCHEMA: dict[str, dict[str, str]] = {
    "studies": {**_LINKS, "StudyDate": "DATE", "StudyDescription": "TEXT", "PatientSex": "TEXT", "PatientAge": "TEXT"},
    "series": {
        **_LINKS,
        "series": "TEXT",
        "NumberOfSeriesRelatedInstances": "INT",
        "Modality": "TEXT",
        "SeriesNumber": "INT",
        "BodyPartExamined": "TEXT",
    },
    "images": {
        **_LINKS,
        **dict.fromkeys(("series", "Modality", "SOPClassUID", "TransferSyntaxUID", "Manufacturer"), "TEXT"),
        **dict.fromkeys(("InstanceNumber", "Rows", "Columns", "NumberOfFrames"), "INT"),
        "guid": "UUID",
    },
}
_KINDS = {int: "INT", float: "FLOAT", str: "TEXT"}


class RecordDatabase(FakeMetadata):
    """Answers SELECTs over the collections of one site, out of SQLite."""

    def __init__(self, more: Mapping[str, str] = {}, base: str = BASE) -> None:
        super().__init__()
        self.base = base
        self.schema = {**SCHEMA, "images": {**SCHEMA["images"], **more}}
        self.asked: list[str] = []
        self._lock = threading.Lock()
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        for name, columns in self.schema.items():
            self._database.execute(f'CREATE TABLE "{base}/{name}" ({", ".join(columns)})')

    def put(self, name: str, values: Mapping[str, Any]) -> None:
        columns = self.schema[name]
        known = [values.get(column) for column in columns]
        self._database.execute(f'INSERT INTO "{self.base}/{name}" VALUES ({", ".join("?" * len(known))})', known)

    def forget(self, column: str, value: str) -> None:
        """Empty a column of images where it has this value."""
        self._database.execute(f'UPDATE "{self.base}/images" SET {column} = NULL WHERE {column} = ?', [value])

    def ListCollections(self, request, context):
        response = pb.ListCollectionsResponse()
        for name, columns in self.schema.items():
            attributes = [
                pb.Attribute(
                    name=column, type=pb.AttributeType.Value(f"ATTRIBUTE_TYPE_{kind}"), indexed=column in ("PatientSex", "Modality")
                )
                for column, kind in columns.items()
            ]
            response.collections.append(pb.Collection(path=f"{self.base}/{name}", attributes=attributes))
        return response

    def Query(self, request, context):
        self.asked.append(request.sql)
        values = {name: getattr(value, value.WhichOneof("kind") or "text") for name, value in request.parameters.items()}
        with self._lock:
            cursor = self._database.execute(request.sql.replace(" ILIKE ", " LIKE "), values)
            rows = cursor.fetchall()
        names = [described[0] for described in cursor.description]
        kinds = [self._kind(name, [row[place] for row in rows]) for place, name in enumerate(names)]
        header = pb.QueryHeader(columns=[pb.ResultColumn(name=name, type=kind) for name, kind in zip(names, kinds, strict=True)])
        yield pb.QueryResponse(header=header)
        if rows:
            columns = [_column(kind, [row[place] for row in rows]) for place, kind in enumerate(kinds)]
            yield pb.QueryResponse(rows=pb.RowBatch(count=len(rows), columns=columns))

    def _kind(self, name: str, values: list[Any]) -> int:
        for columns in self.schema.values():
            if name.rpartition(".")[2] in columns:
                return pb.AttributeType.Value(f"ATTRIBUTE_TYPE_{columns[name.rpartition('.')[2]]}")
        found = next((type(value) for value in values if value is not None), int)
        return pb.AttributeType.Value(f"ATTRIBUTE_TYPE_{_KINDS[found]}")


def _column(kind: int, values: list[Any]) -> pb.ColumnData:
    nulls = bytearray(-(-len(values) // 8))
    for place, value in enumerate(values):
        if value is None:
            nulls[place >> 3] |= 1 << (place & 7)
    missing = bytes(nulls) if any(nulls) else b""
    if kind == pb.ATTRIBUTE_TYPE_INT:
        return pb.ColumnData(ints=[value or 0 for value in values], nulls=missing)
    return pb.ColumnData(texts=[str(value or "") for value in values], nulls=missing)


class ImagingGrid(FakeGrid):
    """A grid of fakes with studies in it."""

    def __init__(self, pki: Any, folder: Path, more: Mapping[str, str] = {}, base: str = BASE) -> None:
        super().__init__(pki, folder)
        self.metadata = RecordDatabase(more, base)

    def add_study(self, *series: list[Dataset], **values: Any) -> str:
        """Put a study everywhere, each of its series a list of datasets, and return its UID."""
        study = generate_uid()
        patient = f"P{study[-8:]}"
        place = f"{self.metadata.base}/{patient}/{study}"
        self.metadata.put("studies", {"patient": patient, "study": study, "lfn": place, **values})
        for number, datasets in enumerate(series, 1):
            uid = generate_uid()
            links = {"patient": patient, "study": study, "series": uid}
            described = {"Modality": datasets[0].Modality, "SeriesNumber": number, "NumberOfSeriesRelatedInstances": len(datasets)}
            self.metadata.put("series", {**links, **described, "lfn": f"{place}/{uid}", "BodyPartExamined": "CHEST"})
            for dataset in datasets:
                dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.PatientID = study, uid, patient
                lfn = f"{place}/{uid}/{dataset.InstanceNumber:04d}.dcm"
                image = self.add(lfn, written(dataset))
                stated = {
                    keyword: value if isinstance(value, int) else "\\".join(map(str, value)) if isinstance(value, list) else str(value)
                    for keyword in self.metadata.schema["images"]
                    if (value := _plain(dataset.get(keyword))) is not None
                }
                syntax = str(dataset.file_meta.TransferSyntaxUID)
                self.metadata.put("images", {**stated, **links, "guid": str(image.guid), "lfn": lfn, "TransferSyntaxUID": syntax})
        return study

    def image_of(self, uid: str) -> Any:
        """Return the fake grid's image of a SOP Instance UID."""
        return next(image for image in self.catalog.images.values() if uid.encode() in image.plaintext)

    def fetched(self) -> set[UUID]:
        """Return the files that were asked to be staged."""
        return {UUID(surl.rpartition("/")[2]) for surl in self.srm.asked}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, int):
        return value
    return [float(part) for part in value] if isinstance(value, pydicom.multival.MultiValue) and not isinstance(value[0], str) else value


def written(dataset: Dataset) -> bytes:
    """Return a dataset as a file."""
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def slices(count: int, size: int = 16) -> list[Dataset]:
    """Return CT slices of one series, with pixels of their own."""
    frame_of_reference = generate_uid()
    found = []
    for number in range(1, count + 1):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
        dataset.StudyInstanceUID = dataset.SeriesInstanceUID = "1.2.3"
        dataset.Modality, dataset.Manufacturer, dataset.InstanceNumber = "CT", "ACME", number
        dataset.Rows = dataset.Columns = size
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.PixelSpacing, dataset.RescaleSlope, dataset.RescaleIntercept = [0.5, 0.5], 1, -1024
        dataset.FrameOfReferenceUID = frame_of_reference
        dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0.0, 0.0, float(number)], [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        dataset.PixelData = bytes([number % 256, 0]) * (size * size)
        found.append(dataset)
    return found


@contextmanager
def imaging_grid(pki: Any, folder: Path, more: Mapping[str, str] = {}, base: str = BASE) -> Iterator[ImagingGrid]:
    """Serve a grid of fakes, to be filled with studies."""
    folder.mkdir(exist_ok=True)
    with ImagingGrid(pki, folder, more, base).serving() as served:
        assert isinstance(served, ImagingGrid)
        yield served
