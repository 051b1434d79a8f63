"""Real images made unique: pydicom's test files with identifying values of their own."""

import uuid
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid


@dataclass(frozen=True)
class Image:
    """A Part 10 file and what in it must never be seen outside the hospital."""

    path: Path
    study_uid: str
    series_uid: str
    sop_uid: str
    patient_name: str
    patient_id: str
    #: Every planted value; each is unique, so finding one anywhere is a leak.
    secrets: tuple[str, ...]

    def read(self) -> pydicom.FileDataset:
        """Return the original dataset."""
        return pydicom.dcmread(self.path)


def example(name: str) -> pydicom.FileDataset:
    """Return one of the files that pydicom installs; nothing is downloaded."""
    return pydicom.dcmread(str(get_testdata_file(name, download=False)))


def make_image(path: Path, base: str, *, of: Image | None = None, number: int | None = None) -> Image:
    """Write a copy of pydicom's test file `base` with new UIDs and canary values; `of` puts it into the same series and patient."""
    dataset = example(base)
    token = uuid.uuid4().hex[:10].upper()
    name, patient_id = (of.patient_name, of.patient_id) if of else (f"CANARY{token}^NAME", f"ID{token}")
    study_uid, series_uid = (of.study_uid, of.series_uid) if of else (generate_uid(), generate_uid())
    sop = generate_uid()
    planted = {
        "PatientName": name,
        "PatientID": patient_id,
        "PatientBirthDate": "19470313",
        "ReferringPhysicianName": f"REFERRER{token}^DOC",
        "InstitutionName": f"CLINIC{token}",
        "AccessionNumber": f"ACC{token}",
        "StudyID": f"ST{token}",
        "StudyInstanceUID": study_uid,
        "SeriesInstanceUID": series_uid,
        "SOPInstanceUID": sop,
        "FrameOfReferenceUID": generate_uid(),
        "PatientComments": f"lives at {token} street",
        "OtherPatientIDs": f"OTHER{token}",
        "OperatorsName": f"OPERATOR{token}",
        "StationName": f"STN{token}",
        "DeviceSerialNumber": f"SER{token}",
    }
    for keyword, value in planted.items():
        setattr(dataset, keyword, value)
    if number is not None:
        dataset.InstanceNumber = number
    nested = Dataset()
    nested.ReferencedSOPInstanceUID = generate_uid()
    nested.PatientName = f"NESTED{token}^NAME"
    dataset.ReferencedStudySequence = Sequence([nested])
    private = dataset.private_block(0x0029, f"CANARY {token}", create=True)
    private.add_new(0x01, "LO", f"PRIVATE{token}")
    dataset.file_meta.MediaStorageSOPInstanceUID = sop
    dataset.file_meta.SourceApplicationEntityTitle = f"AE{token}"
    dataset.preamble = f"PREAMBLE{token}".encode().ljust(128, b"\0")
    dataset.save_as(path, enforce_file_format=True)
    secrets = [str(value) for keyword, value in planted.items() if keyword != "PatientBirthDate"]
    secrets += [token, nested.ReferencedSOPInstanceUID]
    return Image(path, study_uid, series_uid, sop, name, patient_id, tuple(secrets))
