"""Blanking of pixels by a rule: uncompressed ones in a copy, compressed ones decoded and written as RLE Lossless."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydicom.uid import UID

from mdm_deid.encoding.element import EXPLICIT_LE, PIXEL_DATA, UNDEFINED
from mdm_deid.encoding.part10 import Part10
from mdm_deid.outcome import Withheld
from mdm_deid.pixels.image import IMAGE_TYPE, LOSSY, PHOTOMETRIC, PLANAR, Image
from mdm_deid.pixels.rle import encode_frame
from mdm_deid.pixels.rule import CLEAN_FACES, CLEAN_PIXELS, PixelRule

# What one blanked instance may have in decoded pixels: they are held in memory.
MAX_PIXEL_BYTES: Final = 512 << 20
RLE_LOSSLESS: Final = "1.2.840.10008.1.2.5"
_LAYOUTS = frozenset({"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL"})
_ALWAYS_LOSSY = frozenset({"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"})
_EXTENDED_OFFSETS = (0x7FE00001, 0x7FE00002)
_DERIVATION, _BURNED_IN = 0x00082111, 0x00280301
#: Recognizable Visual Features.
FACE: Final = 0x00280302
_DONE: Final = {CLEAN_PIXELS: b"Regions that may show identifying text were blanked", CLEAN_FACES: b"The face was blanked"}
# Sequence delimitation item, (FFFE,E0DD).
_SEQUENCE_END = b"\xfe\xff\xdd\xe0" + bytes(4)
_CODE_STRING = re.compile(r"[A-Z0-9_ ]{0,16}")


class Unblankable(Withheld):
    """A rule applies, but the pixels cannot be blanked."""


@dataclass(frozen=True)
class BlankedPixels:
    """The elements that replace those of a file, by tag; an empty one removes the element.

    `codes` say what was done, in CID 7050 (PS3.16).
    """

    rule: str
    transfer_syntax: str
    codes: frozenset[str]
    elements: dict[int, bytes | memoryview]


def blank_pixels(rule: PixelRule, image: Image, opened: Part10) -> BlankedPixels:
    """Return the pixel data with the rule's regions blanked, and the attributes that say so.

    A header without pixel data gets the attributes alone.

    Raises:
        Unblankable: `compressed_pixels` (no decoder here), `undecodable_pixels`, `pixel_layout`, `too_many_pixels`.
    """
    compressed = UID(opened.transfer_syntax).is_encapsulated
    if compressed:
        _decoder(opened.transfer_syntax)
    elements = _attributes(rule, image, opened)
    if image.pixels is not None:
        _check(image, compressed)
        if CLEAN_PIXELS not in rule.codes and not any(rule.blanked(image)):
            return BlankedPixels(rule.name, opened.transfer_syntax, rule.codes, {FACE: elements[FACE]})
        elements |= _recoded(rule, image, opened) if compressed else {PIXEL_DATA: _native(rule, image, opened)}
    return BlankedPixels(rule.name, RLE_LOSSLESS if compressed else opened.transfer_syntax, rule.codes, elements)


def decoded_frames(image: Image, opened: Part10) -> Iterator[tuple[bytearray, Image]]:
    """Yield each frame, little endian and uncompressed, with the image as it is after decoding.

    Raises:
        Unblankable: see `blank_pixels`.
    """
    if image.pixels is None:
        raise Unblankable("no_pixels")
    compressed = UID(opened.transfer_syntax).is_encapsulated
    _check(image, compressed)
    if compressed:
        yield from _decoded(image, opened)
        return
    size = _frame_bytes(image)
    for pos in range(image.pixels.value, image.pixels.value + size * image.frames, size):
        frame = bytearray(opened.data[pos : pos + size])
        if not opened.encoding.little and image.bits_allocated == 16:
            frame[::2], frame[1::2] = frame[1::2], frame[::2]
        yield frame, image


def _decoder(transfer_syntax: str) -> Any:
    """Return pydicom's decoder for a compressed transfer syntax.

    Raises:
        Unblankable: pydicom knows none, or what it needs for it is not installed.
    """
    # Brings NumPy where that is installed; most files need no decoder.
    from pydicom.pixels.decoders.base import get_decoder

    try:
        decoder = get_decoder(UID(transfer_syntax))
    except NotImplementedError:
        raise Unblankable("compressed_pixels") from None
    if not decoder.is_available:
        raise Unblankable("compressed_pixels")
    return decoder


def _attributes(rule: PixelRule, image: Image, opened: Part10) -> dict[int, bytes | memoryview]:
    """Return the elements that tell a reader what was done (PS3.3 C.7.6.1, C.8.6.1)."""
    encoding = opened.encoding
    done = [text for code, text in _DONE.items() if code in rule.codes]
    elements: dict[int, bytes | memoryview] = {_DERIVATION: encoding.element(_DERIVATION, b"ST", b"; ".join(done))}
    if CLEAN_PIXELS in rule.codes:
        elements[_BURNED_IN] = encoding.element(_BURNED_IN, b"CS", b"NO")
    if CLEAN_FACES in rule.codes:
        elements[FACE] = encoding.element(FACE, b"CS", b"NO")
    first, *rest = image.texts.get(IMAGE_TYPE, "").split("\\")
    # In enhanced objects the frames' types, and what must or may not be present, hang on it.
    if first.strip() == "ORIGINAL" and "Enhanced" not in UID(opened.sop_class).name:
        kept = [part.strip() if _CODE_STRING.fullmatch(part.strip()) else "" for part in rest]
        elements[IMAGE_TYPE] = encoding.element(IMAGE_TYPE, b"CS", "\\".join(["DERIVED", *kept]).encode("ascii"))
    if opened.transfer_syntax in _ALWAYS_LOSSY and LOSSY not in image.texts:
        elements[LOSSY] = encoding.element(LOSSY, b"CS", b"01")
    return elements


def _frame_bytes(image: Image) -> int:
    return image.rows * image.columns * image.samples * image.bits_allocated // 8


def _check(image: Image, compressed: bool) -> None:
    """Refuse what cannot be blanked with certainty."""
    bits = (8, 16) if compressed else (8, 16, 32)
    known = image.photometric in _LAYOUTS or (compressed and image.photometric.startswith("YBR_"))
    if image.pixels is None or not known or image.samples not in (1, 3) or image.bits_allocated not in bits or image.planar not in (0, 1):
        raise Unblankable("pixel_layout")
    if (image.pixels.length == UNDEFINED) is not compressed:
        raise Unblankable("pixel_layout")
    size = _frame_bytes(image) * image.frames
    if size == 0:
        raise Unblankable("pixel_layout")
    if size > MAX_PIXEL_BYTES:
        raise Unblankable("too_many_pixels")
    if not compressed and image.pixels.length not in (size, size + 1):
        raise Unblankable("pixel_layout")


def _native(rule: PixelRule, image: Image, opened: Part10) -> memoryview:
    """Return the pixel data element with blanked regions, in a copy."""
    if image.pixels is None or (not opened.encoding.little and image.bits_allocated == 8 and image.pixels.vr != b"OB"):
        raise Unblankable("pixel_layout")
    head = opened.data[image.pixels.start : image.pixels.value]
    buffer = bytearray(opened.data[image.pixels.start : image.pixels.end])
    patches = list(_patches(rule, image, "little" if opened.encoding.little else "big"))
    for frame in range(image.frames):
        _apply(patches, buffer, len(head) + frame * _frame_bytes(image))
    return memoryview(buffer)


def _recoded(rule: PixelRule, image: Image, opened: Part10) -> dict[int, bytes | memoryview]:
    """Return the pixel data as RLE Lossless with the attributes that follow from it."""
    encoding = opened.encoding
    items, photometric = [encoding.item(b"")], ""
    for frame, decoded in _decoded(image, opened):
        if photometric not in ("", decoded.photometric):
            raise Unblankable("pixel_layout")
        photometric = decoded.photometric
        sample_bytes = decoded.bits_allocated // 8
        _apply(list(_patches(rule, decoded)), frame, 0)
        by_pixel = _by_pixel(frame, sample_bytes) if decoded.samples == 3 and decoded.planar == 1 else frame
        items.append(encoding.item(encode_frame(by_pixel, decoded.rows, decoded.samples, sample_bytes)))
    elements: dict[int, bytes | memoryview] = dict.fromkeys(_EXTENDED_OFFSETS, b"")
    elements[PHOTOMETRIC] = encoding.element(PHOTOMETRIC, b"CS", photometric.encode("ascii"))
    if image.samples == 3:
        elements[PLANAR] = encoding.element(PLANAR, b"US", b"\0\0")
    elements[PIXEL_DATA] = EXPLICIT_LE.prefix(PIXEL_DATA, b"OB", UNDEFINED) + b"".join(items) + _SEQUENCE_END
    return elements


def _by_pixel(frame: bytearray, sample_bytes: int) -> bytearray:
    """Return a frame of three planes as colour by pixel."""
    out, plane = bytearray(len(frame)), len(frame) // 3
    for sample in range(3):
        for byte in range(sample_bytes):
            out[sample * sample_bytes + byte :: 3 * sample_bytes] = frame[sample * plane + byte : (sample + 1) * plane : sample_bytes]
    return out


def _decoded(image: Image, opened: Part10) -> Iterator[tuple[bytearray, Image]]:
    """Decode frame by frame; whatever a decoder raises is one reason, as its message may quote the file."""
    if image.pixels is None:
        raise Unblankable("pixel_layout")
    encoded = bytes(opened.data[image.pixels.value : image.pixels.end])
    count = 0
    frames = _decoder(opened.transfer_syntax).iter_buffer(encoded, **_options(image, opened))
    while True:
        try:
            buffer, properties = next(frames, (None, {}))
        except Exception:
            raise Unblankable("undecodable_pixels") from None
        if buffer is None:
            break
        decoded = _after_decoding(image, properties)
        if len(buffer) != _frame_bytes(decoded) or decoded.photometric not in _LAYOUTS or count == image.frames:
            raise Unblankable("pixel_layout")
        count += 1
        yield bytearray(buffer), decoded
    if count != image.frames:
        raise Unblankable("undecodable_pixels")


def _options(image: Image, opened: Part10) -> dict[str, Any]:
    return {
        "transfer_syntax_uid": UID(opened.transfer_syntax),
        "rows": image.rows,
        "columns": image.columns,
        "samples_per_pixel": image.samples,
        "number_of_frames": image.frames,
        "photometric_interpretation": image.photometric,
        "planar_configuration": image.planar,
        "bits_allocated": image.bits_allocated,
        "bits_stored": image.bits_stored or image.bits_allocated,
        "pixel_representation": image.representation,
        "pixel_keyword": "PixelData",
    }


def _after_decoding(image: Image, properties: dict[str, Any]) -> Image:
    """Return the image as the decoder describes what it made."""
    if properties["rows"] != image.rows or properties["columns"] != image.columns or properties["samples_per_pixel"] != image.samples:
        raise Unblankable("pixel_layout")
    if properties["bits_allocated"] != image.bits_allocated:
        raise Unblankable("pixel_layout")
    photometric = str(properties["photometric_interpretation"])
    return Image(
        # Decoders give every pixel its own colour, though pydicom still names the subsampling.
        texts={**image.texts, PHOTOMETRIC: "YBR_FULL" if photometric == "YBR_FULL_422" else photometric},
        rows=image.rows,
        columns=image.columns,
        samples=image.samples,
        planar=int(properties.get("planar_configuration", 0)),
        bits_allocated=image.bits_allocated,
        bits_stored=image.bits_stored,
        representation=image.representation,
        regions=image.regions,
        pixels=image.pixels,
    )


def _patches(rule: PixelRule, image: Image, order: Literal["little", "big"] = "little") -> Iterator[tuple[int, bytes]]:
    """Yield where in a frame the blank bytes go, and which: 0, and for colour differences 128, so that the region is black."""
    sample_bytes = image.bits_allocated // 8
    plane = image.rows * image.columns * sample_bytes
    # Of a colour difference, the middle of its range is none.
    black = [0, 0, 0] if image.samples == 3 else [rule.blank_value(image) % (1 << image.bits_allocated)]
    if image.photometric == "YBR_FULL":
        black = [0, 1 << (image.bits_allocated - 1), 1 << (image.bits_allocated - 1)]
    values = [value.to_bytes(sample_bytes, order) for value in black[: image.samples]]
    for top, spans in enumerate(rule.blanked(image)):
        for left, right in spans:
            first = top * image.columns + left
            if image.samples == 3 and image.planar == 1:
                for number, value in enumerate(values):
                    yield number * plane + first * sample_bytes, value * (right - left)
            else:
                yield first * sample_bytes * image.samples, b"".join(values) * (right - left)


def _apply(patches: Sequence[tuple[int, bytes]], buffer: bytearray, start: int) -> None:
    for offset, blank in patches:
        buffer[start + offset : start + offset + len(blank)] = blank
