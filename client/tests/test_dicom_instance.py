"""A DICOM file in memory: frames as they are stored, bulk data, headers that viewers can live with, pictures."""

import io
import json

import numpy as np
import pydicom
import pytest
from mdm_client.dicomweb.media import choose, frame_form, parse_accept
from mdm_client.dicomweb.rendering import Picture, explicit_frame, render
from mdm_client.image.instance import bulk_data, frame, frame_syntax, read_instance
from mdm_wire.errors import Corrupt, FailedPrecondition, Invalid, NotFound
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from client.tests.imaging import slices, written

ROOT = "http://127.0.0.1:1/dicom-web"
J2K, RLE, PLAIN = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.1"
FILES = [
    *("CT_small.dcm", "emri_small.dcm", "emri_small_RLE.dcm", "emri_small_jpeg_2k_lossless.dcm", "MR_small_implicit.dcm"),
    *("MR_small_bigendian.dcm", "emri_small_big_endian.dcm", "liver.dcm", "color3d_jpeg_baseline.dcm", "SC_rgb_rle_2frame.dcm"),
    *("RG3_J2KR.dcm", "color-pl.dcm", "JPEG2000.dcm", "rtdose.dcm", "SC_ybr_full_422_uncompressed.dcm"),
]


def file_of(name: str) -> bytes:
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"pydicom-data has no {name}")
    with open(path, "rb") as file:  # noqa: PTH123 - as pydicom names it
        return file.read()


@pytest.mark.parametrize("name", FILES)
def test_every_frame_is_the_stored_one(name):
    data = file_of(name)
    instance = read_instance(data, ROOT)
    original = pydicom.dcmread(io.BytesIO(data))
    assert instance.frames == int(original.get("NumberOfFrames") or 1)
    decoded = original.pixel_array.reshape((instance.frames, *original.pixel_array.shape[-3 if original.SamplesPerPixel > 1 else -2 :]))
    for number in {1, instance.frames}:
        found = bytes(frame(data, instance, number))
        if instance.pixel_bytes < 0:
            assert found[:1000] in original.PixelData  # a frame may be in several fragments
            assert frame_syntax(instance) == str(original.file_meta.TransferSyntaxUID)
        elif original.BitsAllocated == 1:
            bits = np.unpackbits(np.frombuffer(found, np.uint8), bitorder="little")[: decoded[0].size]
            assert (bits == decoded[number - 1].ravel()).all()
        elif "big" in name:
            assert found == decoded[number - 1].astype(decoded.dtype.newbyteorder("<")).tobytes()
            assert frame_syntax(instance) == PLAIN
        else:
            size = len(original.PixelData) // instance.frames
            assert found == original.PixelData[(number - 1) * size : number * size]


@pytest.mark.parametrize("name", FILES)
def test_headers_are_json_and_have_no_pixels(name):
    instance = read_instance(file_of(name), ROOT)
    header = json.loads(instance.header)
    assert header["00080018"]["Value"] == [instance.uid]
    assert set(header["7FE00010"]) == {"vr", "BulkDataURI"}
    assert len(instance.header) < 200_000
    assert "00020010" not in header


@pytest.mark.parametrize("name", [name for name in FILES if name != "rtdose.dcm"])
def test_every_image_can_be_drawn(name):
    data = file_of(name)
    drawn = Image.open(io.BytesIO(render(data, 1, Picture("image/png", 100, 100))))
    assert max(drawn.size) <= 100
    assert drawn.getextrema() not in [(0, 0), ((0, 0),) * 3]


def test_a_window_makes_what_is_below_it_black_and_what_is_above_white():
    dataset = slices(1)[0]
    dataset.PixelData = np.repeat(np.array([0, 1000, 2000, 3000], "<u2"), 64).tobytes()
    drawn = Image.open(io.BytesIO(render(written(dataset), 1, Picture.of_query({"window": "476,100,LINEAR"}, "image/png"))))
    assert [drawn.getpixel((0, row)) for row in (0, 5, 9, 15)] == [0, 0, 255, 255]


@pytest.mark.parametrize("query", [{"viewport": "a,b"}, {"viewport": "1000000,2"}, {"window": "1,0"}, {"quality": "0"}])
def test_a_picture_of_impossible_form_is_refused(query):
    with pytest.raises(Invalid):
        Picture.of_query(query, "image/png")


def test_a_spacing_of_zero_is_left_out_and_missing_bits_are_added():
    dataset = slices(1)[0]
    dataset.PixelSpacing = [0, 0]
    del dataset.BitsStored, dataset.HighBit
    header = json.loads(read_instance(written(dataset), ROOT).header)
    assert "00280030" not in header
    assert (header["00280101"]["Value"], header["00280102"]["Value"]) == ([16], [15])


def test_large_values_at_any_depth_are_fetched_by_address():
    dataset, nested = slices(1)[0], Dataset()
    nested.add_new(0x00091001, "OB", bytes(5000))
    nested.SelectorOBValue = bytes(range(256)) * 40
    dataset.ReferencedStudySequence = [Dataset(), nested]
    dataset.RedPaletteColorLookupTableData = bytes(8)
    dataset.EncapsulatedDocument, dataset.MIMETypeOfEncapsulatedDocument = b"%PDF-1", "application/pdf"
    data = written(dataset)
    instance = read_instance(data, ROOT)
    header = json.loads(instance.header)
    address = header["00081110"]["Value"][1]["00720065"]["BulkDataURI"]
    assert address == f"{ROOT}/studies/{instance.study}/series/{instance.series}/instances/{instance.uid}/bulkdata/00081110/1/00720065"
    assert list(bulk_data(data, instance, "00081110/1/00720065")) == [(nested.SelectorOBValue, "application/octet-stream")]
    assert "BulkDataURI" in header["00281201"]
    assert list(bulk_data(data, instance, "00420011")) == [(b"%PDF-1", "application/pdf")]
    for path, error in (("00100010", NotFound), ("00081110/7/00720065", NotFound), ("xyz", Invalid)):
        with pytest.raises(error):
            list(bulk_data(data, instance, path))


def test_values_that_cannot_be_read_do_not_hide_the_others():
    dataset = slices(1)[0]
    dataset.add_new(0x00181151, "FD", float("nan"))
    data = written(dataset).replace(b"IS\x02\x001 ", b"IS\x02\x00x ")
    header = json.loads(read_instance(data, ROOT).header)
    assert header["00080060"]["Value"] == ["CT"]


@pytest.mark.filterwarnings("ignore:Expected implicit VR")
@pytest.mark.parametrize("data", [b"", b"not DICOM at all" * 100, b"\0" * 128 + b"DICM"])
def test_what_is_no_dicom_is_an_error(data):
    with pytest.raises(Corrupt):
        read_instance(data, ROOT)


def test_a_cut_file_has_no_frame_beyond_its_end():
    data = written(slices(1)[0])[:-10]
    with pytest.raises(Corrupt):
        frame(data, read_instance(data, ROOT), 1)


def test_implicit_little_endian_frames_are_found():
    dataset = slices(1)[0]
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    data = written(dataset)
    assert bytes(frame(data, read_instance(data, ROOT), 1)) == dataset.PixelData


def test_decoded_frames_are_explicit_little_endian():
    data = file_of("emri_small_RLE.dcm")
    assert explicit_frame(data, 3) == pydicom.dcmread(io.BytesIO(data)).pixel_array[2].astype("<u2").tobytes()


@pytest.mark.parametrize(
    ("accept", "stored", "form"),
    [
        ("multipart/related; type=application/octet-stream; transfer-syntax=*", J2K, ("application/octet-stream", J2K, False, True)),
        ('multipart/related; type="application/octet-stream"; transfer-syntax=*', PLAIN, ("application/octet-stream", PLAIN, False, True)),
        ('multipart/related; type="*/*"', J2K, ("image/jp2", J2K, False, True)),
        ("", RLE, ("image/dicom-rle", RLE, False, True)),
        ("*/*", PLAIN, ("application/octet-stream", PLAIN, False, True)),
        ('multipart/related; type="image/jp2"', J2K, ("image/jp2", J2K, False, True)),
        ('multipart/related; type="application/octet-stream"', J2K, ("application/octet-stream", PLAIN, True, True)),
        ("application/octet-stream; transfer-syntax=*", J2K, ("application/octet-stream", J2K, False, False)),
        (
            f'multipart/related; type="application/octet-stream"; transfer-syntax={PLAIN}',
            RLE,
            ("application/octet-stream", PLAIN, True, True),
        ),
        ('multipart/related; type="image/jpeg"', J2K, None),
        ('multipart/related; type="application/dicom"', J2K, None),
    ],
)
def test_frames_are_sent_as_they_are_stored_wherever_that_is_accepted(accept, stored, form):
    found = frame_form(parse_accept(accept), stored)
    assert (found and (found.type, found.syntax, found.decoded, found.multipart)) == form


def test_the_first_acceptable_type_is_chosen():
    accepted = parse_accept('multipart/related; type="application/pdf", application/dicom+json;q=0.5')
    assert choose(accepted, ["application/pdf", "application/octet-stream"]) == ("application/pdf", True)
    assert choose(accepted, ["application/dicom+json"]) == ("application/dicom+json", False)
    assert choose(accepted, ["image/png"]) is None
    assert choose(parse_accept("image/*"), ["image/jpeg", "image/png"]) == ("image/jpeg", False)


def test_pixels_without_a_decoder_are_refused_with_the_reason():
    dataset = slices(1)[0]
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    del dataset.PixelData
    with pytest.raises(FailedPrecondition, match="cannot be drawn"):
        render(written(dataset), 1, Picture())
