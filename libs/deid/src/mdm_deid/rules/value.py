"""Values by VR and attribute: the form of a value that may be kept, and the valid dummy without information (action code D)."""

import re
from collections.abc import Callable
from functools import partial
from typing import Final

from mdm_deid.encoding.element import IMPLICIT_LE, Buffer, Encoding, standard_vr
from mdm_deid.rules.date import NOT_MOVED, shifted
from mdm_deid.rules.table import TypeNode
from mdm_deid.text.term import CODE_MEANING, CODE_VALUE, CODING_SCHEME

TEXT_VRS: Final = frozenset(b"AE AS CS DA DS DT IS LO LT SH ST TM UC UR UT".split())
FREE_TEXT_VRS: Final = frozenset(b"LO LT SH ST UC UT".split())
PATIENT_SEX: Final = 0x00100040
BINARY_VRS = frozenset(b"AT FL FD SL SS SV UL US UV OB OD OF OL OV OW".split())
CONTENT_SEQUENCE: Final = 0x0040A730
DUMMY_BY_VR: Final = {
    b"DA": b"19000101",
    b"DT": b"19000101000000",
    b"TM": b"000000",
    b"AS": b"000Y",
    b"DS": b"0",
    b"IS": b"0",
    b"CS": b"ANON",
    b"AE": b"ANON",
    b"UI": b"2.25.0",
    b"UR": b"urn:anonymized",
}
# Rescale Type, Modality LUT Type and what they may say (PS3.3 C.11.1, C.8.15); US is unspecified.
RESCALE_TYPES: Final = (0x00281054, 0x00283004)
RESCALE_TERMS: Final = frozenset(b"OD HU US MGML Z_EFF ED EDW HU_MOD PCT CNTS BQML GML STDDEV".split())
_DUMMY_BY_TAG = {
    PATIENT_SEX: b"O",
    0x04000565: b"COERCE",
    **dict.fromkeys(RESCALE_TYPES, b"US"),
    CODE_VALUE: b"ANON",
    CODING_SCHEME: b"99MDM",
    CODE_MEANING: b"Anonymized",
}
_BINARY_SIZE = {b"FD": 8, b"SV": 8, b"UV": 8, b"OD": 8, b"OV": 8, b"US": 2, b"SS": 2, b"OB": 2, b"OW": 2, b"UN": 2}
# Returns whether a value (data, first, last) is what its attribute can hold.
Form = Callable[[Buffer, int, int], object]
# The usual form of a value, which would be written again as it is, so that it need not be read.
_DAY: Final = rb"(?!0000)\d{4}(?:0[1-9]|1[0-2])(?:0[1-9]|1\d|2[0-8])"
_CLOCK: Final = rb"(?:[01]\d|2[0-3])(?:[0-5]\d(?:[0-5]\d(?:\.\d{1,6})?)?)?"
_USUAL: Final = {
    vr: re.compile(rb"(?:" + written + rb")?[ \0]*").fullmatch
    for vr, written in ((b"DA", _DAY), (b"TM", _CLOCK), (b"DT", _DAY + rb"(?:" + _CLOCK + rb")?"))
}


def _is_written_well(vr: bytes, data: Buffer, first: int, last: int) -> bool:
    if _USUAL[vr](data, first, last):
        return True
    value = bytes(data[first:last]).rstrip(b" \0")
    return shifted(vr, value, NOT_MOVED) == value


# Other characters in the place of a number may say anything.
_NUMBERS: Final = re.compile(rb"[-+0-9.,eE \\\0]*").fullmatch
# Text outside ASCII is not found by a search over bytes; it is searched as text.
PLAIN: Final = re.compile(rb"[\x00-\x1a\x1c-\x7f]*").fullmatch
FORMS: Final[dict[bytes, Form]] = {
    b"DS": _NUMBERS,
    b"IS": _NUMBERS,
    **{vr: partial(_is_written_well, vr) for vr in (b"TM", b"DA", b"DT")},
}
FORMS_BY_TAG: Final[dict[int, Form]] = {
    0x00080201: re.compile(rb"[-+]\d{4}[ \0]*|[ \0]*").fullmatch,
    PATIENT_SEX: re.compile(rb"[MFO]?[ \0]*").fullmatch,
}


def dummy(tag: int, vr: bytes, node: TypeNode, encoding: Encoding = IMPLICIT_LE) -> bytes:
    """Return a value for an attribute; for a sequence, one item with what its IOD demands."""
    if vr == b"SQ":
        content = _dummy_content_item(encoding) if tag == CONTENT_SEQUENCE else _dummy_content(node, encoding)
        return encoding.item(b"".join(content))
    if tag in _DUMMY_BY_TAG:
        return _DUMMY_BY_TAG[tag]
    if vr in BINARY_VRS or vr == b"UN":
        return bytes(_BINARY_SIZE.get(vr, 4))
    return DUMMY_BY_VR.get(vr, b"ANONYMIZED")


def _dummy_content(node: TypeNode, encoding: Encoding) -> list[bytes]:
    elements = {}
    for tag, kind in node.types.items():
        if kind in ("1", "2"):
            vr = standard_vr(tag) or b"UN"
            value = dummy(tag, vr, node.children.get(tag, TypeNode()), encoding) if kind == "1" else b""
            elements[tag] = encoding.element(tag, vr, value)
    if CODE_MEANING in node.types:
        elements |= _dummy_code(encoding)
    return [elements[tag] for tag in sorted(elements)]


def _dummy_code(encoding: Encoding) -> dict[int, bytes]:
    vrs = {CODE_VALUE: b"SH", CODING_SCHEME: b"SH", CODE_MEANING: b"LO"}
    return {tag: encoding.element(tag, vr, _DUMMY_BY_TAG[tag]) for tag, vr in vrs.items()}


def _dummy_content_item(encoding: Encoding) -> list[bytes]:
    """Return the elements of a text content item (PS3.3 C.17.3), the plainest a Content Sequence can hold."""
    return [
        encoding.element(0x0040A010, b"CS", b"CONTAINS"),
        encoding.element(0x0040A040, b"CS", b"TEXT"),
        encoding.element(0x0040A043, b"SQ", encoding.item(b"".join(_dummy_code(encoding).values()))),
        encoding.element(0x0040A160, b"UT", b"ANONYMIZED"),
    ]
