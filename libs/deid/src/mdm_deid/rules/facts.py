"""The few header values that decisions and pseudonyms depend on, gathered before anything is changed."""

from dataclasses import dataclass, field
from typing import Final

import pydicom
from pydicom.dataelem import RawDataElement

from mdm_deid.encoding.charset import Charset, charset
from mdm_deid.encoding.codec import UNDEFINED, Encoding, skip
from mdm_deid.outcome import Malformed
from mdm_deid.pixels.payload import GEOMETRY, PIXELS
from mdm_deid.rules.profile import CONDITIONS

CHARACTER_SET: Final = 0x00080005
SOP_CLASS: Final = 0x00080016
SOP_INSTANCE: Final = 0x00080018
PATIENT_NAME: Final = 0x00100010
PATIENT_ID: Final = 0x00100020
ISSUER: Final = 0x00100021
STUDY: Final = 0x0020000D
_FRAMES: Final = 0x00280008
_PHOTOMETRIC: Final = 0x00280004
_TEXTS = {CHARACTER_SET, SOP_CLASS, SOP_INSTANCE, PATIENT_ID, ISSUER, STUDY, _FRAMES, _PHOTOMETRIC, *CONDITIONS.values()}
_OVERLAY_TYPE, _OVERLAY_BIT, _OVERLAY_DATA = 0x0040, 0x0102, 0x3000
_MAX_TEXT = 16384


@dataclass
class Facts:
    """Header values as text by tag, and what overlay groups there are.

    `geometry` are the numbers that tell how long the pixel data should be.
    `overlay_bits` are those that may hide in the pixel data's unused bits, `regions` those that say they draw a region of interest.
    """

    texts: dict[int, str] = field(default_factory=dict)
    charset: Charset = field(default_factory=Charset)
    regions: set[int] = field(default_factory=set)
    overlay_bits: set[int] = field(default_factory=set)
    overlay_data: set[int] = field(default_factory=set)
    geometry: dict[int, int] = field(default_factory=dict)

    def uid(self, tag: int) -> str:
        """Return the value of a UI attribute without padding."""
        return self.texts.get(tag, "").strip(" \0")

    @property
    def embedded_overlay(self) -> bool:
        """Tell whether an overlay has a bit position but no data of its own."""
        return bool(self.overlay_bits - self.overlay_data)

    @property
    def frames(self) -> int:
        """Number of Frames; 1 without the attribute, 0 if it is no number."""
        text = self.texts.get(_FRAMES, "").strip(" \0") or "1"
        return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0

    @property
    def subsampled(self) -> bool:
        """Tell whether two pixels share their colour."""
        return self.texts.get(_PHOTOMETRIC, "").strip(" \0") in ("YBR_FULL_422", "YBR_PARTIAL_422")

    def patient(self) -> tuple[str, str]:
        """Return the patient's id and issuer; without an id the study stands for the patient, so strangers stay apart."""
        patient_id = self.texts.get(PATIENT_ID, "").strip(" \0")
        if patient_id:
            return patient_id, self.texts.get(ISSUER, "").strip(" \0")
        return "", "study:" + self.uid(STUDY)

    def overlay(self, tag: int, value: int) -> None:
        """Note an element of a 60xx group; `value` is its number if it is the bit position."""
        if tag & 0xFFFF == _OVERLAY_DATA:
            self.overlay_data.add(tag >> 16)
        elif tag & 0xFFFF == _OVERLAY_BIT and value > 0:
            self.overlay_bits.add(tag >> 16)


def facts_of_bytes(data: memoryview, pos: int, encoding: Encoding) -> Facts:
    """Gather from an encoded data set that runs from `pos` to the end of `data`.

    Raises:
        Malformed: the top level cannot be walked, or an attribute that decides comes twice.
    """
    facts, raw, limit = Facts(), dict[int, bytes](), len(data)
    while pos < limit:
        head = encoding.header(data, pos, limit)
        tag, _, value, length = head
        pos = value + length if length <= limit - value else skip(data, head, limit, encoding)
        if tag in _TEXTS:
            if tag in raw:
                raise Malformed("duplicate_element")
            if length == UNDEFINED or length > _MAX_TEXT:
                raise Malformed("invalid_value")
            raw[tag] = bytes(data[value:pos])
        elif tag in GEOMETRY or tag in PIXELS:
            if tag in facts.geometry:
                raise Malformed("duplicate_element")
            facts.geometry[tag] = encoding.uint(data[value:pos]) if length == 2 else 0
        elif tag >> 24 == 0x60:
            bit_position = tag & 0xFFFF == _OVERLAY_BIT and length == 2
            facts.overlay(tag, encoding.uint(data[value:pos]) if bit_position else 0)
            if tag & 0xFFFF == _OVERLAY_TYPE and bytes(data[value:pos]).strip(b" \0") == b"R":
                facts.regions.add(tag >> 16)
    facts.charset = charset(raw.get(CHARACTER_SET, b"").decode("latin-1"))
    facts.texts = {tag: facts.charset.by_first_set(value) for tag, value in raw.items()}
    return facts


def facts_of_dataset(dataset: pydicom.Dataset) -> Facts:
    """Gather from a header; values are not converted by pydicom, so bad ones raise nothing."""
    facts = Facts()
    texts = {tag: _raw_text(dataset, tag) for tag in _TEXTS if tag in dataset}
    declared = texts.get(CHARACTER_SET, b"")
    facts.charset = charset(declared.decode("latin-1") if isinstance(declared, bytes) else declared)
    facts.texts = {tag: facts.charset.by_first_set(value) if isinstance(value, bytes) else value for tag, value in texts.items()}
    for tag in dataset.keys():  # noqa: SIM118 - iterating the data set itself would convert every value
        if tag >> 24 == 0x60:
            element = dataset.get_item(tag)
            value = element.value if element is not None else 0
            if isinstance(element, RawDataElement) and isinstance(value, bytes):
                value = int.from_bytes(value, "little" if element.is_little_endian else "big")
            facts.overlay(int(tag), value if isinstance(value, int) else 0)
    return facts


def _raw_text(dataset: pydicom.Dataset, tag: int) -> bytes | str:
    element = dataset.get_item(tag)
    value = element.value if element is not None else None
    if value is None:
        return ""
    if isinstance(value, bytes | str):
        return value
    try:
        return "\\".join(str(part) for part in value)
    except TypeError:
        return str(value)
