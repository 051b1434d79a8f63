"""Real images for the demonstration, from pydicom and pydicom-data, under the names of invented patients."""

from dataclasses import dataclass
from pathlib import Path

import pydicom
from mdm_site.site import SiteError
from pydicom.data import get_testdata_file
from pydicom.dataset import FileDataset

#: File names as pydicom's test data has them, with what each shows. One series may be several files.
FILES = {
    "CT_small.dcm": "CT",
    "693_UNCR.dcm": "CT, 512 × 512",
    "98892001/CT5N/2062": "CT series, slice 1",
    "98892001/CT5N/2392": "CT series, slice 2",
    "98892001/CT5N/2693": "CT series, slice 3",
    "98892001/CT5N/3023": "CT series, slice 4",
    "98892001/CT5N/3353": "CT series, slice 5",
    "MR_small.dcm": "MR",
    "MR2_UNCR.dcm": "MR, 1024 × 1024",
    "emri_small.dcm": "enhanced MR, 10 frames",
    "RG3_J2KR.dcm": "radiograph, JPEG 2000 lossless",
    "explicit_VR-UN.dcm": "CT digitised from video",
}
#: Conversion Type DV: text may be burned into such pixels, so the site's policy keeps them for a person to look at.
_HELD = "explicit_VR-UN.dcm"
_PATIENTS = (
    ("Moreau^Camille", "HA-4711", "19560412"),
    ("Okafor^Daniel", "HA-4712", "19710923"),
    ("Lindqvist^Elsa", "HA-4713", "19630130"),
    ("Haddad^Youssef", "HA-4714", "19480807"),
    ("Novak^Petra", "HA-4715", "19850615"),
    ("Silva^Rui", "HA-4716", "19921101"),
    ("Tanaka^Keiko", "HA-4717", "19390228"),
    ("Fischer^Anton", "HA-4718", "19770519"),
)


@dataclass(frozen=True)
class Sample:
    """One image as the hospital has it."""

    description: str
    dataset: FileDataset
    #: Values given to it for this demonstration that must not leave the hospital.
    secrets: tuple[str, ...]
    #: Whether the site's policy holds it back.
    held: bool

    @property
    def patient_id(self) -> str:
        """The hospital's identifier of the patient."""
        return str(self.dataset.PatientID)


def samples() -> list[Sample]:
    """Return the images, one invented patient per study, always the same ones, without using the network.

    Raises:
        SiteError: a file is missing, which means that pydicom-data is not installed.
    """
    patients: dict[str, tuple[str, str, str]] = {}
    found = []
    for name, description in FILES.items():
        dataset = pydicom.dcmread(_locate(name))
        study = str(dataset.StudyInstanceUID)
        patient = patients.setdefault(study, _PATIENTS[len(patients)])
        found.append(_dressed(dataset, description, patient, held=name == _HELD))
    return found


def _locate(name: str) -> Path:
    if "/" in name:
        path: str | None = str(Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests" / name)
    else:
        path = str(get_testdata_file(name, download=False) or "")
    if not path or not Path(path).is_file():
        raise SiteError(f"the sample image {name} is missing: install pydicom and pydicom-data as locked in requirements/")
    return Path(path)


def _dressed(dataset: FileDataset, description: str, patient: tuple[str, str, str], *, held: bool) -> Sample:
    name, patient_id, birth_date = patient
    digits = patient_id.removeprefix("HA-")
    values = {
        "PatientName": name,
        "PatientID": patient_id,
        "PatientBirthDate": birth_date,
        "PatientAddress": f"{digits} Harbour Street",
        "AccessionNumber": f"ACC{digits}",
        "InstitutionName": "Hospital A, Harbour Road",
        "ReferringPhysicianName": "Weber^Johanna",
        "OperatorsName": "Jansen^Piet",
        "DeviceSerialNumber": f"SN{digits}",
    }
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    secrets = [value for keyword, value in values.items() if keyword != "PatientBirthDate"]
    secrets += [str(dataset.StudyInstanceUID), str(dataset.SeriesInstanceUID), str(dataset.SOPInstanceUID)]
    return Sample(description, dataset, tuple(secrets), held)
