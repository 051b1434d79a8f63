"""What cannot be read as DICOM is an error of the service, and hides nothing else."""

from pathlib import Path

import pytest
from mdm_dicom_srm.pacs.dimse import silence_dicom
from mdm_dicom_srm.pacs.header import header_of, headers_of, sop_instance_uid
from mdm_wire.errors import Invalid
from pydicom.data import get_testdata_file

silence_dicom()


def content(name: str) -> bytes:
    return Path(str(get_testdata_file(name, download=False))).read_bytes()


def damaged(name: str) -> bytes:
    whole = content(name)
    first = whole.index(b"\x08\0\x05\0")
    return whole[:first] + b"\x08\0\x05\0??\xff\xff" + whole[first + 8 :]


@pytest.mark.parametrize(
    ("part10", "reason"),
    [
        (b"not DICOM", "NOT_DICOM"),
        (b"", "NOT_DICOM"),
        (content("CT_small.dcm")[:-1000], "DICOM_TRUNCATED"),
        (damaged("CT_small.dcm"), "DICOM_MALFORMED"),
    ],
    ids=["other bytes", "empty", "cut", "unknown VR"],
)
def test_what_cannot_be_read_has_a_reason(part10: bytes, reason: str) -> None:
    with pytest.raises(Invalid) as caught:
        header_of(part10)
    assert caught.value.reason == reason


def test_a_file_inflates_to_no_more_than_deidentification_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdm_deid.encoding.part10.MAX_INFLATED", 10_000)
    with pytest.raises(Invalid) as caught:
        header_of(content("image_dfl.dcm"))
    assert caught.value.reason == "DICOM_TRUNCATED"


def test_one_file_that_is_not_dicom_does_not_hide_the_others() -> None:
    good = content("CT_small.dcm")
    found = []
    with pytest.raises(Invalid):
        for header in headers_of([good, b"not DICOM", good]):
            found.append(header.sop_uid)
    assert len(found) == 2


def test_a_file_whose_meta_information_names_another_instance_is_known_by_its_data_set() -> None:
    good = content("CT_small.dcm")
    uid = header_of(good).sop_uid
    other = good.replace(uid.encode(), b"9" * len(uid), 1)
    assert sop_instance_uid(other, {uid}) == uid
    assert sop_instance_uid(other, {"9" * len(uid)}) == "9" * len(uid)
    assert sop_instance_uid(b"not DICOM", {uid}) == ""
