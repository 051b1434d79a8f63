"""Where a header ends, in every encoding, and what is not a whole DICOM file."""

import io
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mdm_dicom_srm import dicom_log
from mdm_dicom_srm.pacs.part10 import header_of, headers_of, sop_instance_uid
from mdm_wire.errors import Invalid
from pydicom.data import get_testdata_file

dicom_log.silence()
NAMES = [
    "CT_small.dcm",
    "MR_small_implicit.dcm",
    "MR_small_bigendian.dcm",
    "image_dfl.dcm",
    "JPEG-lossy.dcm",
    "emri_small_jpeg_2k_lossless.dcm",
    "rtplan.dcm",
    "reportsi.dcm",
    "UN_sequence.dcm",
    "nested_priv_SQ.dcm",
    "liver_1frame.dcm",
]


def content(name: str) -> bytes:
    return Path(str(get_testdata_file(name, download=False))).read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_a_header_holds_every_element_before_the_pixels_unchanged(name: str) -> None:
    original = pydicom.dcmread(io.BytesIO(content(name)), force=True)
    header = header_of(content(name))
    kept = pydicom.dcmread(io.BytesIO(header.part10))
    wanted = {tag for tag in original.keys() if tag < 0x7FE00000}  # noqa: SIM118
    assert set(kept.keys()) - {0x7FE00010} == wanted
    assert all(kept[tag] == original[tag] for tag in wanted)
    assert header.has_pixels == ("PixelData" in original) == ("PixelData" in kept)
    assert not kept.get("PixelData")
    assert header.sop_uid == original.get("SOPInstanceUID", "")
    assert header.transfer_syntax == original.file_meta.TransferSyntaxUID


@pytest.mark.parametrize("name", ["CT_small.dcm", "JPEG-lossy.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm"])
@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9])
def test_a_file_that_breaks_off_is_refused(name: str, share: float) -> None:
    whole = content(name)
    with pytest.raises(Invalid) as caught:
        header_of(whole[: int(len(whole) * share)])
    assert caught.value.reason in {"NOT_DICOM", "DICOM_TRUNCATED", "DICOM_MALFORMED"}


@given(st.binary(max_size=400))
def test_noise_is_refused_not_stumbled_over(noise: bytes) -> None:
    with pytest.raises(Invalid):
        header_of(noise)
    with pytest.raises(Invalid):
        sop_instance_uid(noise)


@settings(max_examples=200)
@given(position=st.integers(132, 3000), value=st.integers(0, 255))
def test_a_damaged_byte_gives_a_header_or_a_clear_error(position: int, value: int) -> None:
    damaged = bytearray(content("MR_small.dcm"))
    damaged[position] = value
    try:
        header_of(bytes(damaged))
    except Invalid as error:
        assert error.reason


def test_one_file_that_is_not_dicom_does_not_hide_the_others() -> None:
    good = content("CT_small.dcm")
    found = []
    with pytest.raises(Invalid):
        for header in headers_of([good, b"not DICOM", good]):
            found.append(header.sop_uid)
    assert len(found) == 2


def test_deep_nesting_is_refused() -> None:
    whole = content("CT_small.dcm")
    meta_end = header_of(whole).part10.index(b"\x08\x00\x05\x00")
    nested = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 2000
    with pytest.raises(Invalid):
        header_of(whole[:meta_end] + nested)
