"""Names of files, and the digest by which a header is known again."""

import io
from uuid import UUID

import pydicom
import pytest
from mdm_dicom_srm.register.rules.names import digest, file_name
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ImplicitVRLittleEndian

from .conftest import Site, header, part10

GUID = UUID(int=7)
KEY = bytes(32)


def test_names_sort_as_numbers_do_however_large() -> None:
    numbers = [0, 1, 2, 9, 10, 99, 100, 9999, 10_000, 10_001, 99_999, 100_000, 2**31 - 1, 2**31, 999_999_999_999]
    names = [file_name(number, GUID) for number in numbers]
    assert names == sorted(names)
    assert names[1] == f"0001-{GUID}.dcm"
    assert names[8] == f"a10000-{GUID}.dcm"


@pytest.mark.parametrize("number", [None, -1, -(2**31), 0])
def test_a_name_begins_with_a_digit_whatever_the_number_is(number: int | None) -> None:
    assert file_name(number, GUID) == f"0000-{GUID}.dcm"


@pytest.mark.integration
@pytest.mark.parametrize("number", [-5, None, "", 2147483647])
def test_instance_numbers_of_every_kind_are_published(site: Site, number: object) -> None:
    site.enqueue(header(InstanceNumber=number), header(number=2, InstanceNumber=number))
    site.run()
    names = [file.lfn.rpartition("/")[2] for file in site.catalog.files.values()]
    assert len(set(names)) == 2
    assert {name.partition("-")[0] for name in names} == {"f2147483647" if number == 2147483647 else "0000"}


def nested(undefined: bool) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(part10()))
    item = Dataset()
    item.CodeValue, item.CodeMeaning = "T-1", "Meaning"
    inner = Dataset()
    inner.ReferencedSOPInstanceUID = "1.2.3"
    item.ReferencedImageSequence = Sequence([inner])
    dataset.ProcedureCodeSequence = Sequence([item])
    for element in (dataset["ProcedureCodeSequence"], item["ReferencedImageSequence"]):
        element.is_undefined_length = undefined
        element.value[0].is_undefined_length_sequence_item = undefined
    return saved(dataset)


def saved(dataset: pydicom.FileDataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def changed(content: bytes, **changes: object) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(content))
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    return saved(dataset)


def test_how_lengths_are_written_and_who_sent_it_does_not_change_the_digest() -> None:
    other = pydicom.dcmread(io.BytesIO(nested(True)))
    other.file_meta.SourceApplicationEntityTitle = "ELSEWHERE"
    other.preamble = b"x" * 128
    other.add_new(0x00080000, "UL", 512)
    assert digest(KEY, nested(True)) == digest(KEY, nested(False)) == digest(KEY, saved(other))


def test_values_tags_nesting_and_transfer_syntax_do() -> None:
    content = nested(False)
    implicit = pydicom.dcmread(io.BytesIO(content))
    implicit.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    buffer = io.BytesIO()
    implicit.save_as(buffer, implicit_vr=True)
    deeper = pydicom.dcmread(io.BytesIO(content))
    deeper.ProcedureCodeSequence[0].ReferencedImageSequence[0].ReferencedSOPInstanceUID = "1.2.4"
    found = [
        content,
        changed(content, PatientID="X"),
        changed(content, PatientComments="new"),
        saved(deeper),
        buffer.getvalue(),
        b"\0" * 128 + b"DICMgarbage",
    ]
    assert len({digest(KEY, item) for item in found}) == len(found)
    assert digest(KEY, content) != digest(bytes(31) + b"1", content)
