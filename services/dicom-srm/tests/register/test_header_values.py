"""The reader of headers says what pydicom says of the whole header, whatever it remembers."""

import io
from pathlib import Path

import pydicom
import pytest
from mdm_dicom_srm.pacs.header import header_of
from mdm_dicom_srm.register.rules import attribute
from mdm_dicom_srm.register.rules.header_values import HeaderReader
from mdm_wire.errors import Invalid
from pydicom.dataelem import RawDataElement

KEYWORDS = frozenset(item.name for of_level in attribute.load(None).values() for item in of_level) | {"PatientName", "PatientID"}


def headers() -> list[bytes]:
    found = []
    for path in sorted((Path(pydicom.__file__).parent / "data/test_files").glob("*.dcm")):
        try:
            found.append(header_of(path.read_bytes()).part10)
        except Invalid:
            continue
    return found


def by_pydicom(header: bytes, keyword: str) -> object:
    dataset = pydicom.dcmread(io.BytesIO(header), force=True)
    if keyword == "TransferSyntaxUID":
        return dataset.file_meta.get(keyword)
    try:
        return dataset.get(keyword)
    except Exception:
        return None


def test_values_are_those_of_pydicom_at_first_and_when_remembered():
    reader = HeaderReader(KEYWORDS)
    files = headers()
    assert len(files) > 30
    for header in files * 2:
        read = reader.read(header)
        for keyword in KEYWORDS:
            assert str(read.values.get(keyword)) == str(by_pydicom(header, keyword)), keyword


def test_equal_bytes_under_another_character_set_are_another_value():
    reader = HeaderReader(frozenset({"PatientName"}))
    names = []
    for character_set in ("ISO_IR 100", "ISO_IR 144", "ISO_IR 100"):
        dataset = pydicom.Dataset()
        dataset.SpecificCharacterSet = character_set
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        dataset["PatientName"] = pydicom.DataElement(0x00100010, "PN", b"\xd0\xd1")
        content = io.BytesIO()
        dataset.save_as(content, enforce_file_format=False)
        names.append(str(reader.read(content.getvalue()).values["PatientName"]))
    assert names[0] == names[2] == "ÐÑ"
    assert names[1] == "аб"


@pytest.mark.parametrize(("value", "given"), [(b"CT", True), (b"", False), (b"  ", False), (b"\0\0", False)])
def test_what_is_blank_is_not_given(value, given):
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    dataset[0x00080060] = RawDataElement(pydicom.tag.Tag(0x00080060), "CS", len(value), value, 0, True, True)
    content = io.BytesIO()
    dataset.save_as(content, enforce_file_format=False)
    assert ("Modality" in HeaderReader(frozenset({"Modality"})).read(content.getvalue()).given) is given
