"""New values for old ones of one data set: UIDs, identifiers, labels, dates, ages, sexes, colour profiles."""

import re
import unicodedata
from datetime import timedelta
from functools import cached_property
from typing import Final

from pydicom._uid_dict import UID_dictionary

from mdm_deid.encoding.charset import Charset
from mdm_deid.pixels.icc import clean_profile
from mdm_deid.rules.date import NOT_MOVED, shifted
from mdm_deid.rules.operation import Kind, Op
from mdm_deid.rules.pseudonym import Pseudonymiser
from mdm_deid.rules.value import PATIENT_SEX, RESCALE_TERMS

_AGE: Final = re.compile(rb"0*(\d{1,3}) *([DWMY])", re.IGNORECASE)
_PER_YEAR: Final = {b"Y": 1, b"M": 12, b"W": 52, b"D": 365}
OLDEST_AGE: Final = 89
# Words for a sex and their initials; those that mean another one in some language (M of mujer beside H of hombre) are not among them.
_SEXES: Final = {
    **dict.fromkeys(b"F FEMALE FEMININE FEMININ FEMENINO WOMAN W WEIBLICH FRAU FEMME MUJER VROUW KVINNA KOBIETA".split(), b"F"),
    **dict.fromkeys(b"M MALE MASCULINE MASCULIN MASCULINO MAN MANN HOMME HOMBRE UOMO".split(), b"M"),
    **dict.fromkeys(b"O OTHER DIVERS".split(), b"O"),
}
_PADDING: Final = b" \0"
_STANDARD_UID: Final = re.compile(r"1\.2\.840\.10008(\.\d{1,4}){1,9}")
# Under which nodes the standard has numbers; it may have more of them than this dictionary.
_NODES: Final = frozenset(uid.rpartition(".")[0] for uid in UID_dictionary)
_UID: Final = re.compile(rb"(?:[0-9]+(?:\.[0-9]+)*)?")


def age(old: bytes) -> bytes:
    """Return an age as AS has it (`060Y`), everything above 89 years as 090Y; b"" if it is not an age, or has no unit."""
    match = _AGE.fullmatch(old.strip(_PADDING))
    if match is None:
        return b""
    number, unit = int(match[1]), match[2].upper()
    return b"090Y" if number / _PER_YEAR[unit] >= OLDEST_AGE + 1 else b"%03d%s" % (number, unit)


def sex(old: bytes) -> bytes:
    """Return a value of Patient's Sex as its enumerated value M, F or O; b"" if it is not a word for one of them."""
    return _SEXES.get(old.strip(_PADDING).upper(), b"")


def is_uid(value: bytes) -> bool:
    """Return whether a value has UIDs and nothing else; text in the place of a UID is not retained."""
    return all(_UID.fullmatch(part) for part in value.rstrip(_PADDING).split(b"\\"))


def _of_the_standard(uid: str) -> bool:
    return _STANDARD_UID.fullmatch(uid) is not None and uid.rpartition(".")[0] in _NODES


class Replacements:
    """Computes the values that replace others, each once."""

    def __init__(self, pseudonymiser: Pseudonymiser, patient: tuple[str, str]) -> None:
        """Prepare for a `patient`, the Patient ID and its issuer, to whom labels and the offset of dates belong."""
        self._pseudonymiser = pseudonymiser
        self._patient = patient
        self._uids: dict[bytes, bytes] = {}
        self._dates: dict[tuple[bytes, bytes], bytes] = {}

    @property
    def count(self) -> int:
        """How many values have been computed."""
        return len(self._uids) + len(self._dates)

    @cached_property
    def _offset(self) -> timedelta:
        return timedelta(days=self._pseudonymiser.date_offset_days(*self._patient))

    def value(self, op: Op, tag: int, old: bytes, charset: Charset) -> bytes:
        """Return the replacement of a value by `op`; nothing if it is emptied or cannot be read."""
        if op.kind is Kind.UID:
            return self._uid_values(old, op.known_only)
        if op.kind is Kind.VALID_UID:
            return old if is_uid(old) else self._uid_values(old, known_only=True)
        if op.kind is Kind.SHIFT:
            if (old, op.vr) not in self._dates:
                self._dates[old, op.vr] = shifted(op.vr, old, self._offset)
            return self._dates[old, op.vr]
        if op.kind is Kind.IDENTIFIER:
            return self._identifiers(old, charset) or op.value
        if op.kind is Kind.LABEL:
            return self.label(old, charset) or op.value
        if op.kind is Kind.COLOURS:
            return clean_profile(old) if old else b""
        if op.kind is Kind.NORMALISE:
            return sex(old) if tag == PATIENT_SEX else shifted(op.vr, old, NOT_MOVED)
        if op.kind is Kind.AGE:
            return age(old)
        if op.kind is Kind.TERM and old.strip(_PADDING) in RESCALE_TERMS:
            return old
        return op.value if op.kind in (Kind.REPLACE, Kind.TERM) else b""

    def label(self, old: bytes, charset: Charset) -> bytes:
        """Return the pseudonym of a label, so that different names stay different; nothing for an empty one."""
        text = charset.guess(old).strip(" \0")
        return self._pseudonymiser.label(*self._patient, text).encode("ascii") if text else b""

    def _uid_values(self, old: bytes, known_only: bool) -> bytes:
        return b"\\".join(self._mapped_uid(part.strip(_PADDING), known_only) for part in old.split(b"\\"))

    def _mapped_uid(self, uid: bytes, known_only: bool) -> bytes:
        text = uid.decode("latin-1")
        if not uid or text in UID_dictionary or (not known_only and _of_the_standard(text)):
            return uid
        if uid not in self._uids:
            self._uids[uid] = self._pseudonymiser.uid(text).encode("ascii")
        return self._uids[uid]

    def _identifiers(self, old: bytes, charset: Charset) -> bytes:
        """Return pseudonyms for the values of an identifier, the same in whatever character set it is written."""
        texts = (unicodedata.normalize("NFC", text).strip(" \0") for text in charset.guess(old).split("\\"))
        pseudonyms = (self._pseudonymiser.identifier(text) if text else "" for text in texts)
        return "\\".join(pseudonyms).encode("ascii").rstrip(b"\\")
