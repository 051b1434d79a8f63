"""Values that are valid for their VR and say nothing (action code D)."""

from typing import Final

from mdm_deid.encoding.codec import IMPLICIT_LE, Encoding
from mdm_deid.rules.table import TypeNode, standard_vr

BINARY_VRS = frozenset(b"AT FL FD SL SS SV UL US UV OB OD OF OL OV OW".split())
CODE_MEANING: Final = 0x00080104
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
    0x00100040: b"O",
    0x04000565: b"COERCE",
    **dict.fromkeys(RESCALE_TYPES, b"US"),
    0x00080100: b"ANON",
    0x00080102: b"99MDM",
    CODE_MEANING: b"Anonymized",
}
_BINARY_SIZE = {b"FD": 8, b"SV": 8, b"UV": 8, b"OD": 8, b"OV": 8, b"US": 2, b"SS": 2, b"OB": 2, b"OW": 2, b"UN": 2}


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
    vrs = {0x00080100: b"SH", 0x00080102: b"SH", CODE_MEANING: b"LO"}
    return {tag: encoding.element(tag, vr, _DUMMY_BY_TAG[tag]) for tag, vr in vrs.items()}


def _dummy_content_item(encoding: Encoding) -> list[bytes]:
    """Return the elements of a text content item (PS3.3 C.17.3), the plainest a Content Sequence can hold."""
    return [
        encoding.element(0x0040A010, b"CS", b"CONTAINS"),
        encoding.element(0x0040A040, b"CS", b"TEXT"),
        encoding.element(0x0040A043, b"SQ", encoding.item(b"".join(_dummy_code(encoding).values()))),
        encoding.element(0x0040A160, b"UT", b"ANONYMIZED"),
    ]
