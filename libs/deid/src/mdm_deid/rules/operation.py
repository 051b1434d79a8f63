"""From a profile and an IOD to one operation per attribute: options applied, conditional codes of PS3.15 E.1-1 resolved."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache, partial
from typing import Final

from pydicom._dicom_dict import DicomDictionary

from mdm_deid.encoding.element import PIXELS, Buffer, Encoding, standard_vr
from mdm_deid.pixels.icc import readable
from mdm_deid.rules.facts import CHARACTER_SET, METHOD
from mdm_deid.rules.private import PrivateAttributes
from mdm_deid.rules.profile import Profile
from mdm_deid.rules.rule import Action, AttributeRule
from mdm_deid.rules.table import Row, TypeNode, iod_types, known_sop_class, load_additional, load_identifiers, load_rows
from mdm_deid.rules.value import (
    BINARY_VRS,
    CONTENT_SEQUENCE,
    DUMMY_BY_VR,
    FORMS,
    FORMS_BY_TAG,
    FREE_TEXT_VRS,
    PATIENT_SEX,
    PLAIN,
    RESCALE_TYPES,
    TEXT_VRS,
    Form,
    dummy,
)
from mdm_deid.text.term import CODED_ENTRY
from mdm_deid.text.vocabulary import label_tags, terms

# Beside pixel data: the offset tables of encapsulated pixel data. What else the group had is retired.
_PIXEL_GROUP: Final = frozenset((*PIXELS, 0x7FE00001, 0x7FE00002, 0x7FE00003))
_PATIENT_GROUP: Final = 0x0010
_COLOUR_PROFILE: Final = 0x00282000
# Codes that persons and makers choose: Image Type, Frame Type, Body Part Examined, View Position, what draws and what is a region.
_TYPED: Final = frozenset((0x00080008, 0x00089007, 0x00180015, 0x00185101, 0x30060036, 0x300600A4))
# Belongs to Frame of Reference UID, which stays also where its module is an optional one.
_POSITION_REFERENCE: Final = 0x00201040
_MAC_GROUP: Final = 0x4FFE
_DATE_VRS = (b"DA", b"DT")
_TIME_VRS = (*_DATE_VRS, b"TM")
_ADDRESS_VRS = (b"AE", b"UR")
# Values of these VRs tell who or when; where they are removed, free text that is kept must not repeat them.
_IDENTIFYING_VRS = frozenset(b"PN LO SH DA DT".split())
_CODED_VRS = frozenset(b"CS DS IS SQ AT FL FD SL SS SV UL US UV UI".split())
_NARRATIVE_VRS = frozenset(b"LT ST UT".split())
_LABEL_VRS = FREE_TEXT_VRS | {b"AE", b"CS"}
_JUDGED_VRS = FREE_TEXT_VRS | {b"CS", b"PN"}
_STRENGTH = {"X": 0, "Z": 1, "D": 2}
_NEEDED = {"1": "D", "1C": "D", "2": "Z", "2C": "Z"}
_CLEANING = ("clean_descriptors", "clean_structured_content", "clean_graphics", "retain_patient_characteristics")
# Overlay plane (PS3.3 C.9.2) under Clean Graphics: element -> VR of what stays of a region of interest.
_OVERLAY: Final = {
    0x0010: b"US",
    0x0011: b"US",
    0x0015: b"IS",
    0x0022: b"LO",
    0x0040: b"CS",
    0x0050: b"SS",
    0x0051: b"US",
    0x0100: b"US",
    0x0102: b"US",
    0x1301: b"IS",
    0x1302: b"DS",
    0x1303: b"DS",
    0x1500: b"LO",
    0x3000: b"OW",
    0x4000: b"LT",
}


class Kind(Enum):
    """The kinds of operation on an element."""

    KEEP = "kept"
    DROP = "removed"
    EMPTY = "emptied"
    REPLACE = "replaced"
    UID = "uid"
    SEQUENCE = "sequence"
    SHIFT = "shifted"
    AGE = "age"
    NORMALISE = "normalised"
    CLEAN = "cleaned"
    PRIVATE = "private"
    OVERLAY = "overlay"
    PIXELS = "pixels"
    VALID_UID = "kept uid"
    IDENTIFIER = "identifier"
    TERM = "term"
    TERMS = "terms"
    COLOURS = "colours"
    CHARSET = "character set"
    LABEL = "label"


@dataclass(frozen=True)
class Op:
    """What is done to one element.

    Which of the parameters count depends on `kind`:

    - `vr`: the value representation that is written, where the value changes.
    - `value`: the dummy value; of IDENTIFIER, what takes the place of an empty value.
    - `level`: of SEQUENCE, the operations inside its items.
    - `known_only`: of UID, only registered UIDs stay; otherwise those that merely follow the standard's numbering stay as well.
    - `identifies`: the removed value names a person or a thing. It is searched for in the text that stays.
    - `fallback`: of CLEAN, what is done when no text can stay; of KEEP, what is done to a value without the form (else: removed).
    - `form`: of KEEP, returns whether the attribute can hold a value (data, first, last). One that it cannot is left to `fallback`.
    - `text`: of KEEP, the form only says whether the text is plain ASCII. Other text stays, but removed values are searched for in it.
    - `whole`: of CLEAN, the text is a label: it stays as a whole, or becomes a pseudonym.
    - `coded`: the element is part of a coded entry. It stays if the entry is one of the standard's.
    """

    kind: Kind
    vr: bytes = b""
    value: bytes = b""
    level: "Level | None" = None
    known_only: bool = False
    identifies: bool = False
    fallback: "Op | None" = None
    form: Form | None = None
    text: bool = False
    whole: bool = False
    coded: bool = False


_DROP = Op(Kind.DROP)
_KEEP = Op(Kind.KEEP)
_KEEP_TEXT = Op(Kind.KEEP, form=PLAIN, text=True)
_PRIVATE = Op(Kind.PRIVATE)
_CHARSET = Op(Kind.CHARSET, b"CS")


def _known_terms(tag: int, data: Buffer, first: int, last: int) -> bool:
    value = bytes(data[first:last]).strip(b" \0")
    return terms(tag, value) == value


def _told_apart(basic: Op, code: str) -> Op:
    """Return the operation for an identifier of a thing: a pseudonym where the table has it emptied or replaced.

    Either may be done with any value of the VR (PS3.15 E.1.1: Z, D); what the table removes is not brought back.
    """
    stays = basic.kind is Kind.REPLACE or (basic.kind is Kind.EMPTY and "Z" in code)
    return replace(basic, kind=Kind.IDENTIFIER) if stays and basic.vr in _LABEL_VRS else basic


class Level:
    """One level of an IOD with the operations resolved so far, per encoding; the cache is bounded by the dictionary."""

    def __init__(self, node: TypeNode) -> None:
        self.node = node
        self.ops: tuple[dict[tuple[int, bytes], Op], ...] = ({}, {}, {})
        self._children: dict[int, Level] = {}

    def child(self, tag: int) -> "Level | None":
        """Return the level inside the sequence `tag`, if the IOD says anything about it; content items hold content items."""
        if tag not in self.node.children:
            return self if tag == CONTENT_SEQUENCE and 0x0040A040 in self.node.types else None
        if tag not in self._children:
            self._children[tag] = Level(self.node.children[tag])
        return self._children[tag]


@dataclass(frozen=True)
class _Element:
    """An element as met: `vr` as read (empty in an implicit encoding), `written` the VR that a new value would have."""

    level: Level
    tag: int
    vr: bytes
    standard: bytes
    written: bytes
    encoding: Encoding

    @property
    def is_sequence(self) -> bool:
        return self.standard == b"SQ" and self.vr in (b"SQ", b"UN", b"")


@cache
def _rows() -> dict[int, Row]:
    return {row.tag: row for row in (*load_additional(), *load_rows())}


class Rules:
    """The operations of one profile for the instances of one SOP class that the same attribute rules apply to."""

    def __init__(self, profile: Profile, sop_class: str, attribute_rules: Sequence[AttributeRule] = ()) -> None:
        self._options = profile.options
        self._dates = profile.dates
        self._allow = profile.allow
        self._attribute_rules = tuple(rule for rule in attribute_rules if not rule.creator)
        self.private = PrivateAttributes(attribute_rules, profile.options, profile.private_lists)
        self.keeps_overlays = "clean_graphics" in profile.options and profile.allow is None
        self._keeps_uids = "retain_uids" in profile.options
        self._known = known_sop_class(sop_class)
        self.root = Level(iod_types(sop_class))
        # Levels the IOD does not list behave alike everywhere, but their cache belongs to this profile.
        self.unlisted = Level(TypeNode())
        # Inside a private sequence that no list names: nothing stays there but listed private attributes.
        self.only_private = Level(TypeNode())

    def op(self, level: Level, tag: int, vr: bytes, encoding: Encoding) -> Op:
        """Return what to do with an element; `vr` is as read, empty in an implicit encoding."""
        op = self._resolve(level, tag, vr, encoding)
        if tag in DicomDictionary or tag in _rows():
            level.ops[encoding.index][tag, vr] = op
        return op

    def removal(self, level: Level, tag: int, vr: bytes, encoding: Encoding) -> Op:
        """Return how to take an element away for which there is no action, so that the IOD stays satisfied.

        A dummy takes its place only where that demands a value.
        """
        standard = standard_vr(tag)
        return self._by_code("X/Z", _Element(level, tag, vr, standard, standard if vr in (b"", b"UN") else vr, encoding), identifies=False)

    def _resolve(self, level: Level, tag: int, vr: bytes, encoding: Encoding) -> Op:
        group, element = tag >> 16, tag & 0xFFFF
        if group % 2:
            return _PRIVATE if self.private.any else _DROP
        if level is self.only_private and tag != CHARACTER_SET:
            return _DROP
        # Lengths, commands, directories, trailing padding and digital signatures, which can hold no longer.
        if element == 0 or group <= 0x0004 or group == _MAC_GROUP or group >= 0xFFFA:
            return _DROP
        standard = standard_vr(tag)
        written = (standard or b"UN") if standard == b"SQ" or vr in (b"", b"UN") else vr
        met = _Element(level, tag, vr, standard, written, encoding)
        if tag == CHARACTER_SET:
            return _CHARSET
        for rule in self._attribute_rules:
            if rule.names(tag):
                return self._by_rule(rule, met)
        if group >> 8 == 0x60 and self.keeps_overlays:
            return self._overlay(met)
        row = _rows().get(tag)
        if group >> 8 in (0x50, 0x60) or (row is None and not standard):
            return _DROP
        if tag >> 16 == 0x7FE0 and (tag not in _PIXEL_GROUP or level is not self.root):
            return _DROP
        if tag in PIXELS:
            return Op(Kind.PIXELS)
        op = self._unlisted_attribute(met) if row is None else self._by_row(row, met)
        if self._allow is None:
            return op
        if tag in self._allow:
            if tag in _TYPED and op.kind is Kind.KEEP:
                return Op(Kind.TERMS, written)
            return Op(Kind.TERM, b"LO", b"US") if tag in RESCALE_TYPES and written == b"LO" else op
        return self._demanded(op, met)

    def _by_row(self, row: Row, met: _Element) -> Op:
        """Apply the options, or else the basic action, of a row of the table.

        Modified dates go before what retains a date exactly, as an exact one would give the offset away.
        """
        codes = {option: row.options[option] for option in self._options if option in row.options}
        basic = self._by_code(
            row.basic, met, "retain_patient_characteristics" not in row.options and "clean_descriptors" not in row.options
        )
        if row.tag in load_identifiers():
            basic = _told_apart(basic, row.basic)
        if self._dates == "shift" and "retain_longitudinal_modified_dates" in codes:
            if met.standard in _DATE_VRS:
                return Op(Kind.SHIFT, met.standard, identifies=True)
            return self._keep(met) if met.standard in (b"TM", b"SH") else basic
        if "K" in codes.values():
            return self._keep(met)
        if "C" in codes.values() and any(option in codes for option in _CLEANING):
            return self._clean(met, basic)
        return basic

    def _clean(self, met: _Element, basic: Op) -> Op:
        """Clean text and the contents of sequences; other values cannot be cleaned."""
        if met.is_sequence:
            return self._enter(met)
        text = met.standard in FREE_TEXT_VRS and met.vr in FREE_TEXT_VRS | {b"", b"UN"}
        return Op(Kind.CLEAN, met.written, fallback=replace(basic, identifies=False), whole=met.tag in label_tags()) if text else basic

    def _unlisted_attribute(self, met: _Element) -> Op:
        """Attributes outside the table stay, except where their VR alone can identify: names, addresses, dates, UIDs, long text."""
        vr, standard = met.vr, met.standard
        if b"PN" in (vr, standard):
            return self._by_code("Z", met)
        if standard in _ADDRESS_VRS or vr in _ADDRESS_VRS:
            return self._by_code("X/Z/D", met)
        if standard == b"TM" and self._dates == "remove":
            return self._by_code("X/Z/D", met)
        if standard in _DATE_VRS or vr in _DATE_VRS:
            if self._dates == "shift":
                return Op(Kind.SHIFT, met.written)
            if self._dates == "remove":
                return self._by_code("X/Z/D", met)
        if standard == b"UI" or vr == b"UI":
            return Op(Kind.VALID_UID if self._keeps_uids and standard == b"UI" else Kind.UID, met.written)
        if met.tag in label_tags() or met.tag == METHOD:
            return self._clean(met, self._by_code("X/Z/D", met, identifies=False))
        if standard in _NARRATIVE_VRS:
            basic = self._by_code("X/Z/D", met, identifies=False)
            return self._clean(met, basic) if self._cleans_narrative(met.tag) else basic
        return self._keep(met)

    def _cleans_narrative(self, tag: int) -> bool:
        """Return whether an option cleans a free text that no row of the table names, such as Text Value."""
        by_group = {0x0040: "clean_structured_content", 0x0070: "clean_graphics"}
        return not self._options.isdisjoint({"clean_descriptors", by_group.get(tag >> 16, "")})

    def _keep(self, met: _Element) -> Op:
        """Keep what is encoded as its attribute should be; a sequence is entered, a disguise is removed."""
        if met.standard == b"SQ":
            return self._enter(met) if met.is_sequence else _DROP
        if met.standard == b"UI":
            return Op(Kind.VALID_UID, b"UI")
        if met.standard == b"AS":
            return Op(Kind.AGE, b"AS") if met.vr in (b"", b"UN", b"AS") else _DROP
        same_class = {met.vr, met.standard} <= TEXT_VRS or {met.vr, met.standard} <= BINARY_VRS
        if met.vr not in (b"", b"UN", met.standard) and not same_class:
            return _DROP
        if met.tag == _COLOUR_PROFILE:
            return Op(Kind.COLOURS, met.written, form=readable)
        form = FORMS_BY_TAG.get(met.tag) or FORMS.get(met.standard) or FORMS.get(met.vr)
        if form:
            read = met.tag == PATIENT_SEX or met.standard in _TIME_VRS
            return Op(Kind.KEEP, form=form, fallback=Op(Kind.NORMALISE, met.standard) if read else None)
        return _KEEP_TEXT if {met.vr, met.standard} & _JUDGED_VRS else _KEEP

    def _enter(self, met: _Element) -> Op:
        return Op(Kind.SEQUENCE, met.written, level=met.level.child(met.tag) or self.unlisted)

    def _by_code(self, basic: str, met: _Element, identifies: bool = True) -> Op:
        if basic == "U" or (met.written == b"UI" and "D" in basic):
            return Op(Kind.UID, met.written, known_only=True)
        if "U" in basic:
            return self._enter(met) if met.is_sequence else _DROP
        code = self._code(basic, met.level.node.types.get(met.tag))
        learn = identifies and (met.standard in _IDENTIFYING_VRS or met.vr in _IDENTIFYING_VRS or met.is_sequence)
        if code == "X":
            return Op(Kind.DROP, met.standard, identifies=learn)
        if met.tag in label_tags() and met.written in FREE_TEXT_VRS:
            return Op(Kind.LABEL, met.written, DUMMY_BY_VR.get(met.written, b"ANONYMIZED") if code == "D" else b"", identifies=learn)
        if code == "Z":
            return Op(Kind.EMPTY, met.written, identifies=learn)
        child = met.level.node.children.get(met.tag, TypeNode())
        return Op(Kind.REPLACE, met.written, dummy(met.tag, met.written, child, met.encoding), identifies=learn)

    def _code(self, basic: str, kind: str | None) -> str:
        """Pick the weakest allowed code that keeps the attribute's Type satisfied.

        A plain X on a Type 1 or 2 attribute becomes D or Z. Without a known IOD a conditional code takes its strongest part.
        """
        parts = sorted(basic.split("/"), key=_STRENGTH.__getitem__)
        if kind is None and not self._known and len(parts) > 1:
            return parts[-1]
        needed = _NEEDED.get(kind or "", "X")
        return next((part for part in parts if _STRENGTH[part] >= _STRENGTH[needed]), needed)

    def _demanded(self, op: Op, met: _Element) -> Op:
        """Of an attribute that is not on the list, leave what the IOD cannot do without, and no text at all."""
        if op.kind in (Kind.DROP, Kind.EMPTY, Kind.REPLACE, Kind.IDENTIFIER):
            return op if met.tag in met.level.node.demanded or op.kind is Kind.DROP else _DROP
        demanded = met.level.node.types if met.tag == _POSITION_REFERENCE else met.level.node.demanded
        kind = demanded.get(met.tag)
        # What the patient module demands under a condition goes with that on which it depends.
        if kind is None or (kind == "1C" and met.tag >> 16 == _PATIENT_GROUP):
            return _DROP
        if kind in ("1", "1C") and met.standard == b"CS" and op.kind is Kind.KEEP:
            return replace(op, form=partial(_known_terms, met.tag), text=False)
        if kind in ("1", "1C") and (op.kind in (Kind.UID, Kind.VALID_UID) or (met.standard in _CODED_VRS and met.written == met.standard)):
            return op
        return replace(self._by_code("X/Z/D", met, identifies=False), coded=met.tag in CODED_ENTRY)

    def _by_rule(self, rule: AttributeRule, met: _Element) -> Op:
        """Apply an attribute rule; the IOD stays valid, and values that do not fit the encoding are removed."""
        basic = self._by_code({Action.EMPTY: "Z/D", Action.REPLACE: "D"}.get(rule.action, "X/Z/D"), met)
        if rule.action is Action.KEEP:
            return self._keep(met) if met.standard else _KEEP if met.tag >> 24 in (0x50, 0x60) else _DROP
        if rule.action is Action.CLEAN:
            return self._clean(met, basic)
        if rule.action is Action.SHIFT and met.written in _DATE_VRS:
            return Op(Kind.SHIFT, met.written)
        if rule.action is Action.UID and met.written == b"UI":
            return Op(Kind.UID, b"UI", known_only=True)
        if rule.action is Action.REPLACE and met.written == met.standard:
            return Op(Kind.REPLACE, met.written, rule.value.encode("ascii"), identifies=True)
        return basic

    def _overlay(self, met: _Element) -> Op:
        vr = _OVERLAY.get(met.tag & 0xFFFF)
        same_class = vr is not None and (met.vr in (vr, b"") or {met.vr, vr} <= TEXT_VRS or {met.vr, vr} <= BINARY_VRS)
        if vr is None or not same_class:
            return _DROP
        fallback = Op(Kind.CLEAN, met.vr or vr, fallback=_DROP) if vr in FREE_TEXT_VRS else None
        return Op(Kind.OVERLAY, met.vr or vr, fallback=fallback)
