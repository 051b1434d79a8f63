"""From a profile and an IOD to one operation per attribute: the conditional codes of PS3.15 E.1-1 resolved."""

from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Final

from pydicom._dicom_dict import DicomDictionary

from mdm_dicom_srm.deid.codec import IMPLICIT_LE, Encoding
from mdm_dicom_srm.deid.profile import Profile
from mdm_dicom_srm.deid.table import Row, TypeNode, iod_types, known_sop_class, load_additional, load_rows

TEXT_VRS = frozenset(b"AE AS CS DA DS DT IS LO LT SH ST TM UC UR UT".split())
BINARY_VRS = frozenset(b"AT FL FD SL SS SV UL US UV OB OD OF OL OV OW".split())
PATIENT_AGE: Final = 0x00101010
CODE_MEANING: Final = 0x00080104
CONTENT_SEQUENCE: Final = 0x0040A730
_DATE_VRS = (b"DA", b"DT")
_ADDRESS_VRS = (b"AE", b"UR")
_STRENGTH = {"X": 0, "Z": 1, "D": 2}
_NEEDED = {"1": "D", "1C": "D", "2": "Z", "2C": "Z"}

_DUMMY_BY_VR = {
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
_DUMMY_BY_TAG = {
    0x00100040: b"O",
    0x04000565: b"COERCE",
    0x00080100: b"ANON",
    0x00080102: b"99MDM",
    CODE_MEANING: b"Anonymized",
}
_BINARY_SIZE = {b"FD": 8, b"SV": 8, b"UV": 8, b"OD": 8, b"OV": 8, b"US": 2, b"SS": 2, b"OB": 2, b"OW": 2, b"UN": 2}


class Kind(Enum):
    """What happens to an element."""

    KEEP = "kept"
    DROP = "removed"
    EMPTY = "emptied"
    REPLACE = "replaced"
    UID = "uid"
    SEQUENCE = "sequence"
    SHIFT = "shifted"
    AGE = "age"
    PRIVATE = "private"


@dataclass(frozen=True)
class Op:
    """`vr` is what is written where the value changes; `value` the dummy, or the fallback of a date that is no date.

    `known_only`: UID tells whether just registered UIDs stay, or also those in the standard's numbering.
    """

    kind: Kind
    vr: bytes = b""
    value: bytes = b""
    level: "Level | None" = None
    known_only: bool = False


_DROP = Op(Kind.DROP)
_KEEP = Op(Kind.KEEP)
_PRIVATE = Op(Kind.PRIVATE)


class Level:
    """One level of an IOD with the operations resolved so far, per encoding; the cache is bounded by the dictionary."""

    def __init__(self, node: TypeNode) -> None:
        self.node = node
        self.ops: tuple[dict[tuple[int, bytes], Op], ...] = ({}, {}, {})
        self._children: dict[int, Level] = {}

    def child(self, tag: int) -> "Level":
        """Return the level inside the sequence `tag`; sequences the IOD says nothing about share one level."""
        if tag not in self.node.children:
            return _UNLISTED
        if tag not in self._children:
            self._children[tag] = Level(self.node.children[tag])
        return self._children[tag]


_UNLISTED = Level(TypeNode())


@cache
def _rows() -> dict[int, Row]:
    return {row.tag: row for row in (*load_additional(), *load_rows())}


@cache
def standard_vr(tag: int) -> bytes:
    """Return the dictionary's VR (the first where it names several), or nothing for a tag DICOM does not define."""
    entry = DicomDictionary.get(tag)
    return entry[0][:2].encode("ascii") if entry else b""


class Rules:
    """The operations of one profile for the instances of one SOP class."""

    def __init__(self, profile: Profile, sop_class: str) -> None:
        self._options = profile.options
        self._dates = profile.dates
        self.keeps_private = "retain_safe_private" in profile.options
        self._keeps_uids = "retain_uids" in profile.options
        self._known = known_sop_class(sop_class)
        self.root = Level(iod_types(sop_class))
        # Levels the IOD does not list behave alike everywhere, but their cache belongs to this profile.
        self.unlisted = Level(TypeNode())

    def op(self, level: Level, tag: int, vr: bytes, encoding: Encoding) -> Op:
        """Return what to do with an element; `vr` is as read, empty in an implicit encoding."""
        op = self._resolve(level, tag, vr, encoding)
        if tag in DicomDictionary or tag in _rows():
            level.ops[encoding.index][tag, vr] = op
        return op

    def _resolve(self, level: Level, tag: int, vr: bytes, encoding: Encoding) -> Op:
        group, element = tag >> 16, tag & 0xFFFF
        if group % 2:
            return _PRIVATE if self.keeps_private else _DROP
        if element == 0 or group <= 0x0004 or group >> 8 in (0x50, 0x60) or group >= 0xFFFA:
            return _DROP
        row, standard = _rows().get(tag), standard_vr(tag)
        if row is None and not standard:
            return _DROP
        written = (standard or b"UN") if standard == b"SQ" or vr in (b"", b"UN") else vr
        if row is not None:
            kept = self._by_option(row, standard)
            if kept is not None:
                return self._keep(level, tag, vr, written, standard) if kept.kind is Kind.KEEP else kept
            return self._by_code(row.basic, level, tag, vr, written, encoding)
        return self._unlisted_attribute(level, tag, vr, written, standard, encoding)

    def _by_option(self, row: Row, standard: bytes) -> Op | None:
        """Return KEEP, a date shift or an age cap where a chosen option says so, else None."""
        if row.options.get("retain_longitudinal_modified_dates") == "C" and self._dates == "shift":
            if standard in _DATE_VRS:
                return Op(Kind.SHIFT, standard, _DUMMY_BY_VR[standard])
            if standard in (b"TM", b"SH"):
                return _KEEP
        for option in self._options:
            if row.options.get(option) == "K":
                return Op(Kind.AGE, b"AS") if row.tag == PATIENT_AGE else _KEEP
        return None

    def _unlisted_attribute(self, level: Level, tag: int, vr: bytes, written: bytes, standard: bytes, encoding: Encoding) -> Op:
        """Attributes outside the table stay, except where their VR alone can identify: names, addresses, dates, UIDs."""
        if b"PN" in (vr, standard):
            return self._by_code("Z", level, tag, vr, written, encoding)
        if standard in _ADDRESS_VRS or vr in _ADDRESS_VRS:
            return self._by_code("X/Z/D", level, tag, vr, written, encoding)
        if standard in _DATE_VRS or vr in _DATE_VRS:
            if self._dates == "shift":
                return Op(Kind.SHIFT, written, _DUMMY_BY_VR[written] if written in _DATE_VRS else b"")
            if self._dates == "remove":
                return self._by_code("X/Z/D", level, tag, vr, written, encoding)
        if standard == b"UI" or vr == b"UI":
            return _KEEP if self._keeps_uids and standard == b"UI" else Op(Kind.UID, written)
        return self._keep(level, tag, vr, written, standard)

    def _keep(self, level: Level, tag: int, vr: bytes, written: bytes, standard: bytes) -> Op:
        """Keep what is encoded as its attribute should be; a sequence is entered, a disguise is removed."""
        if standard == b"SQ":
            return self._enter(level, tag, written) if vr in (b"SQ", b"UN", b"") else _DROP
        if vr in (b"", b"UN") or vr == standard:
            return _KEEP
        same_class = {vr, standard} <= TEXT_VRS or {vr, standard} <= BINARY_VRS
        return _KEEP if same_class else _DROP

    def _enter(self, level: Level, tag: int, written: bytes) -> Op:
        child = level.child(tag)
        return Op(Kind.SEQUENCE, written, level=self.unlisted if child is _UNLISTED else child)

    def _by_code(self, basic: str, level: Level, tag: int, vr: bytes, written: bytes, encoding: Encoding) -> Op:
        if basic == "U" or (written == b"UI" and "D" in basic):
            return Op(Kind.UID, written, known_only=True)
        if "U" in basic:
            return self._enter(level, tag, written) if vr in (b"SQ", b"UN", b"") else _DROP
        code = self._code(basic, level.node.types.get(tag))
        if code == "X":
            return _DROP
        if code == "Z":
            return Op(Kind.EMPTY, written)
        child = level.node.children.get(tag, TypeNode())
        return Op(Kind.REPLACE, written, dummy(tag, written, child, encoding))

    def _code(self, basic: str, kind: str | None) -> str:
        """Pick the weakest allowed code that keeps the attribute's Type satisfied.

        A plain X on a Type 1 or 2 attribute becomes D or Z. Without a known IOD a conditional code takes its strongest part.
        """
        parts = sorted(basic.split("/"), key=_STRENGTH.__getitem__)
        if kind is None and not self._known and len(parts) > 1:
            return parts[-1]
        needed = _NEEDED.get(kind or "", "X")
        return next((part for part in parts if _STRENGTH[part] >= _STRENGTH[needed]), needed)


def dummy(tag: int, vr: bytes, node: TypeNode, encoding: Encoding = IMPLICIT_LE) -> bytes:
    """Return a value that is valid for the VR and says nothing; for a sequence, one item with what its IOD demands."""
    if vr == b"SQ":
        content = _dummy_content_item(encoding) if tag == CONTENT_SEQUENCE else _dummy_content(node, encoding)
        return encoding.item(b"".join(content))
    if tag in _DUMMY_BY_TAG:
        return _DUMMY_BY_TAG[tag]
    if vr in BINARY_VRS or vr == b"UN":
        return bytes(_BINARY_SIZE.get(vr, 4))
    return _DUMMY_BY_VR.get(vr, b"ANONYMIZED")


def _dummy_content(node: TypeNode, encoding: Encoding) -> list[bytes]:
    elements = {}
    for tag, kind in node.types.items():
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
