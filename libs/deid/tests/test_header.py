"""Where a header ends, in every encoding, and what is not a whole DICOM file."""

import io
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mdm_deid import Malformed
from mdm_deid.encoding.header import meta_sop_instance, read_header, unread_header
from mdm_deid.encoding.pydicom_log import silence_pydicom
from pydicom.data import get_testdata_file

silence_pydicom()
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
    header = read_header(content(name))
    kept = pydicom.dcmread(io.BytesIO(header.part10))
    wanted = {tag for tag in original.keys() if tag < 0x7FE00000}  # noqa: SIM118
    assert set(kept.keys()) - {0x7FE00010} == wanted
    assert all(kept[tag] == original[tag] for tag in wanted)
    assert ("PixelData" in original) == ("PixelData" in kept)
    assert not kept.get("PixelData")
    assert header.sop_uid == original.get("SOPInstanceUID", "")
    assert kept.file_meta == original.file_meta


@pytest.mark.parametrize("name", ["CT_small.dcm", "JPEG-lossy.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm"])
@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9])
def test_a_file_that_breaks_off_is_refused(name: str, share: float) -> None:
    whole = content(name)
    with pytest.raises(Malformed) as caught:
        read_header(whole[: int(len(whole) * share)])
    assert caught.value.reason in {"empty", "malformed", "not_part10", "pixel_fragments", "truncated"}


def test_an_unread_header_is_the_file_meta_information() -> None:
    whole = content("CT_small.dcm")
    header = unread_header(whole + b"rest", "1.2.3")
    assert (header.sop_uid, header.study_uid, header.size) == ("1.2.3", "", len(whole) + 4)
    assert whole.startswith(header.part10)
    assert whole[len(header.part10) :].startswith(b"\x08\0\x05\0")
    assert meta_sop_instance(whole) == read_header(whole).sop_uid == str(pydicom.dcmread(io.BytesIO(whole)).SOPInstanceUID)


def test_any_transfer_syntax_is_read_that_says_what_it_is() -> None:
    whole = content("CT_small.dcm")
    known = b"1.2.840.10008.1.2.1\0"
    private = whole.replace(known, b"1.2.3.4.5.6.7.8.9.0\0", 1)
    assert len(private) == len(whole) and read_header(private).sop_uid == read_header(whole).sop_uid


@given(st.binary(max_size=400))
def test_noise_is_refused_not_stumbled_over(noise: bytes) -> None:
    with pytest.raises(Malformed):
        read_header(noise)
    with pytest.raises(Malformed):
        meta_sop_instance(noise)


@settings(max_examples=200)
@given(position=st.integers(132, 3000), value=st.integers(0, 255))
def test_a_damaged_byte_gives_a_header_or_a_clear_error(position: int, value: int) -> None:
    damaged = bytearray(content("MR_small.dcm"))
    damaged[position] = value
    try:
        read_header(bytes(damaged))
    except Malformed as error:
        assert error.reason


def test_deep_nesting_is_refused() -> None:
    whole = content("CT_small.dcm")
    meta_end = read_header(whole).part10.index(b"\x08\x00\x05\x00")
    nested = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 2000
    with pytest.raises(Malformed):
        read_header(whole[:meta_end] + nested)


@pytest.mark.parametrize("reserved", [b"", b"\0\0"])
def test_an_element_under_a_vr_that_is_none_gets_the_dictionarys(reserved: bytes) -> None:
    whole = content("CT_small.dcm")
    name = pydicom.dcmread(io.BytesIO(whole)).PatientName
    start = whole.index(b"\x10\0\x10\0PN")
    value = whole[start + 8 : start + 8 + int.from_bytes(whole[start + 6 : start + 8], "little")]
    size = len(value).to_bytes(4 if reserved else 2, "little")
    odd = whole[:start] + b"\x10\0\x10\0??" + reserved + size + value + whole[start + 8 + len(value) :]
    header = read_header(odd)
    assert header.part10 == read_header(whole).part10
    assert pydicom.dcmread(io.BytesIO(header.part10)).PatientName == name


def test_a_header_ends_before_an_element_that_cannot_be_read_with_certainty() -> None:
    whole = content("CT_small.dcm")
    start = whole.index(b"\x10\0\x10\0PN")
    header = read_header(whole[:start] + b"\x10\0\x10\0??\xff\xff" + whole[start + 8 :])
    assert header.part10 == whole[:start]
    assert header.sop_uid == read_header(whole).sop_uid
    first = whole.index(b"\x08\0\x05\0")
    with pytest.raises(Malformed, match="invalid_vr"):
        read_header(whole[:first] + b"\x08\0\x05\0??\xff\xff" + whole[first + 8 :])


def test_a_file_inflates_to_no_more_than_deidentification_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdm_deid.encoding.part10.MAX_INFLATED", 10_000)
    with pytest.raises(Malformed) as caught:
        read_header(content("image_dfl.dcm"))
    assert caught.value.reason == "too_large"
