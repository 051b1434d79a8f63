"""The header values that decisions and pseudonyms depend on, read before anything is changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from mdm_deid.encoding.charset import Charset, charset
from mdm_deid.encoding.element import PIXELS, UNDEFINED, Element, Encoding, skip
from mdm_deid.outcome import Malformed
from mdm_deid.rules.rule import CONDITIONS

CHARACTER_SET: Final = 0x00080005
# De-identification Method, its codes, and what was done to dates.
METHOD: Final = 0x00120063
METHOD_CODES: Final = 0x00120064
DATES_MODIFIED: Final = 0x00280303
RECORD_TAGS: Final = frozenset((METHOD, METHOD_CODES, DATES_MODIFIED))
SOP_CLASS: Final = 0x00080016
SOP_INSTANCE: Final = 0x00080018
PATIENT_NAME: Final = 0x00100010
PATIENT_ID: Final = 0x00100020
ISSUER: Final = 0x00100021
STUDY: Final = 0x0020000D
SAMPLES: Final = 0x00280002
ROWS: Final = 0x00280010
COLUMNS: Final = 0x00280011
BITS: Final = 0x00280100
_GEOMETRY: Final = frozenset({SAMPLES, ROWS, COLUMNS, BITS})
# Pixel data and the extended offset table: what is looked at as bytes.
_BULK: Final = PIXELS | {0x7FE00001, 0x7FE00002, 0x7FE00003}
_FRAMES: Final = 0x00280008
_PHOTOMETRIC: Final = 0x00280004
_TEXTS = {CHARACTER_SET, SOP_CLASS, SOP_INSTANCE, PATIENT_ID, ISSUER, STUDY, _FRAMES, _PHOTOMETRIC, *CONDITIONS.values()}
# Of an overlay (PS3.3 C.9.2): size, number of frames, type, bits per pixel, its bit's position in a pixel, and its own data.
_OVERLAY_ROWS, _OVERLAY_COLUMNS, _OVERLAY_FRAMES, _OVERLAY_TYPE = 0x0010, 0x0011, 0x0015, 0x0040
_OVERLAY_BITS, _OVERLAY_BIT, _OVERLAY_DATA = 0x0100, 0x0102, 0x3000
# Numbers that say whether an overlay lies in the pixels' unused bits, and the greatest that says it does not.
_EMBEDDED: Final = {_OVERLAY_BITS: 1, _OVERLAY_BIT: 0}
_MAX_TEXT = 16384
_MODALITY: Final = 0x00080060
#: CT Image Storage and MR Image Storage.
SINGLE_FRAME: Final = frozenset({"1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"})
# Enhanced CT, Legacy Converted Enhanced CT; Enhanced MR, Enhanced MR Color, Legacy Converted Enhanced MR.
_MULTI_FRAME: Final = frozenset(f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2.1", "2.2", "4.1", "4.3", "4.4", "13.1.1", "13.1.2"))
# Nearly all elements are none of these, nor of an overlay.
_GATHERED: Final = RECORD_TAGS | _GEOMETRY | _BULK | _TEXTS
_OVERLAY_GROUPS: Final = 0x60


class Extent(NamedTuple):
    """The position of an element's value in the data set, its VR and its length."""

    vr: bytes
    value: int
    length: int
    end: int


@dataclass
class Facts:
    """Header values as text by tag, and what overlay groups there are.

    `geometry` are the numbers that say how long the pixel data should be, 0 where one cannot be read; `bulk` says where they lie.
    `record` are the elements that earlier de-identification wrote.
    `overlay_bits` are the overlay groups that may lie in the pixel data's unused bits, `regions` those that draw a region of interest
    and have as many data as their size demands.
    """

    texts: dict[int, str] = field(default_factory=dict)
    charset: Charset = field(default_factory=Charset)
    regions: set[int] = field(default_factory=set)
    overlay_bits: set[int] = field(default_factory=set)
    overlay_data: set[int] = field(default_factory=set)
    geometry: dict[int, int] = field(default_factory=dict)
    bulk: dict[int, Extent] = field(default_factory=dict)
    record: list[Element] = field(default_factory=list)

    def uid(self, tag: int) -> str:
        """Return the value of a UI attribute without padding."""
        return self.texts.get(tag, "").strip(" \0")

    @property
    def embedded_overlay(self) -> bool:
        """Return whether an overlay has a bit position but no data of its own."""
        return bool(self.overlay_bits - self.overlay_data)

    @property
    def frames(self) -> int:
        """Number of Frames; 1 without the attribute, 0 if it is not a number."""
        text = self.texts.get(_FRAMES, "").strip(" \0") or "1"
        return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0

    @property
    def photometric(self) -> str:
        """Photometric Interpretation."""
        return self.texts.get(_PHOTOMETRIC, "").strip(" \0")

    @property
    def may_show_face(self) -> bool:
        """Whether it is a CT, MR or X-ray 3D image, by its SOP class or its modality, such as a rendering saved as a capture.

        Of whatever part of the body: headers are often wrong about the part.
        """
        tomographic = self.uid(SOP_CLASS) in SINGLE_FRAME | _MULTI_FRAME or self.uid(_MODALITY).upper() in ("CT", "MR")
        return tomographic and bool(PIXELS & self.bulk.keys())

    def patient(self) -> tuple[str, str]:
        """Return the patient's id and issuer; without an id the study stands for the patient, so that patients stay apart."""
        patient_id = self.texts.get(PATIENT_ID, "").strip(" \0")
        if patient_id:
            return patient_id, self.texts.get(ISSUER, "").strip(" \0")
        return "", "study:" + self.uid(STUDY)

    def overlay(self, tag: int, value: int | None) -> None:
        """Record an element of a 60xx group; `value` is its number, None if it is not one that can be read."""
        group, element = tag >> 16, tag & 0xFFFF
        if element == _OVERLAY_DATA:
            self.overlay_data.add(group)
        elif element in _EMBEDDED and (value is None or value > _EMBEDDED[element]):
            self.overlay_bits.add(group)


def steers(tag: int) -> bool:
    """Return whether an attribute decides or identifies, so that it is read in every file: see decision 0023.

    So do all that facts are gathered from, those of the patient and of what was done to dates and identity, overlays, private creators.
    """
    group, element = tag >> 16, tag & 0xFFFF
    private_creator = group & 1 and 0x10 <= element <= 0xFF
    return tag in _GATHERED or group in (0x0010, 0x0012) or group >> 8 == _OVERLAY_GROUPS or bool(private_creator)


def read_facts(data: memoryview, pos: int, encoding: Encoding, spans: Sequence[tuple[int, int]] = ()) -> Facts:
    """Gather from an encoded data set that runs from `pos` to the end of `data`; if given, only from `spans` of whole elements in it.

    Raises:
        Malformed: the top level cannot be walked, or an attribute that decides comes twice.
    """
    facts, raw = Facts(), dict[int, bytes]()
    overlays = dict[int, dict[int, memoryview]]()
    for start, end in spans or ((pos, len(data)),):
        _gather(facts, raw, overlays, data, start, end, encoding)
    facts.regions = {group for group, overlay in overlays.items() if _is_region(overlay, encoding)}
    facts.charset = charset(raw.get(CHARACTER_SET, b"").decode("latin-1"))
    facts.texts = {tag: facts.charset.by_first_set(value) for tag, value in raw.items()}
    return facts


def _gather(
    facts: Facts,
    raw: dict[int, bytes],
    overlays: dict[int, dict[int, memoryview]],
    data: memoryview,
    pos: int,
    until: int,
    encoding: Encoding,
) -> None:
    """Gather from the elements between two positions: texts as bytes in `raw`, overlays by group and element."""
    limit = len(data)
    while pos < until:
        start, head = pos, encoding.header(data, pos, limit)
        tag, vr, value, length = head
        pos = value + length if length <= limit - value else skip(data, head, limit, encoding)
        if tag not in _GATHERED and tag >> 24 != _OVERLAY_GROUPS:
            continue
        if tag in _TEXTS:
            if tag in raw:
                raise Malformed("duplicate_element")
            if length == UNDEFINED or length > _MAX_TEXT:
                raise Malformed("invalid_value")
            raw[tag] = bytes(data[value:pos])
        elif tag in _GEOMETRY or tag in _BULK:
            if tag in facts.geometry or tag in facts.bulk:
                raise Malformed("duplicate_element")
            if tag in _BULK:
                facts.bulk[tag] = Extent(vr, value, length, pos)
            else:
                facts.geometry[tag] = encoding.uint(data[value:pos]) if length == 2 else 0
        elif tag in RECORD_TAGS:
            facts.record.append(Element(tag, vr, start, value, length, pos))
        elif not tag & 0x10000:
            facts.overlay(tag, encoding.uint(data[value:pos]) if length == 2 else None)
            overlays.setdefault(tag >> 16, {})[tag & 0xFFFF] = data[value:pos]


def _is_region(overlay: Mapping[int, memoryview], encoding: Encoding) -> bool:
    """Return whether an overlay draws a region of interest with one bit a pixel and nothing after the last one."""
    rows, columns = (encoding.uint(overlay.get(element, b"")) for element in (_OVERLAY_ROWS, _OVERLAY_COLUMNS))
    frames = bytes(overlay.get(_OVERLAY_FRAMES, b"1")).strip(b" \0")
    length = -(-rows * columns * (int(frames) if frames.isdigit() and len(frames) < 10 else 0) // 8)
    fits = length > 0 and len(overlay.get(_OVERLAY_DATA, b"")) == length + length % 2
    return fits and bytes(overlay.get(_OVERLAY_TYPE, b"")).strip(b" \0") == b"R"
