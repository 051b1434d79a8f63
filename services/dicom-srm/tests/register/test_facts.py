"""What is read of headers without judging them is what a PACS would list."""

import io
from pathlib import Path

import pydicom
import pytest
from mdm_dicom_srm.pacs.port import LISTED
from mdm_dicom_srm.pacs.query import normalise
from mdm_dicom_srm.register.rules.facts import Facts, read
from pydicom.data import get_charset_files, get_testdata_file
from pydicom.multival import MultiValue

FILES = [
    "CT_small.dcm",
    "MR_small.dcm",
    "MR_small_bigendian.dcm",
    "examples_ybr_color.dcm",
    "JPEG2000.dcm",
    "chrFren.dcm",
    "chrRuss.dcm",
    "chrX1.dcm",
]


def listed(content: bytes) -> dict[str, str]:
    """The same by pydicom."""
    dataset = pydicom.dcmread(io.BytesIO(content), force=True)
    values = {keyword: dataset.get(keyword) for keyword in LISTED}
    return {k: normalise(k, list(v) if isinstance(v, MultiValue) else [v]) for k, v in values.items()}


@pytest.mark.parametrize("name", FILES)
def test_a_header_says_what_a_listing_would(name: str) -> None:
    path = get_charset_files(name)[0] if name.startswith("chr") else get_testdata_file(name, download=False)
    content = Path(str(path)).read_bytes()
    facts, attributes = read(content)
    assert attributes == listed(content)
    assert facts.modality == attributes["Modality"] and facts.patient_id == attributes["PatientID"]
    assert Facts.from_bytes(facts.to_bytes()) == facts


@pytest.mark.parametrize("cut", [0, 100, 132, 200, 400])
def test_what_cannot_be_read_is_silent(cut: int) -> None:
    content = Path(str(get_testdata_file("CT_small.dcm", download=False))).read_bytes()[:cut]
    facts, attributes = read(content)
    assert facts == Facts() and set(attributes.values()) == {""}
