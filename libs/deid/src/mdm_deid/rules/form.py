"""What values that stay must look like, by VR and for single attributes."""

import re
from collections.abc import Callable
from functools import partial
from typing import Final

from mdm_deid.encoding.codec import Buffer
from mdm_deid.rules.date import NOT_MOVED, shifted

TEXT_VRS: Final = frozenset(b"AE AS CS DA DS DT IS LO LT SH ST TM UC UR UT".split())
FREE_TEXT_VRS: Final = frozenset(b"LO LT SH ST UC UT".split())
PATIENT_SEX: Final = 0x00100040
# Returns whether a value (data, first, last) is what its attribute can hold.
Form = Callable[[Buffer, int, int], object]


# One value as nearly all are written: no need to read it to know that it would be written again as it is.
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


# Anything else in the place of such a value may say anything.
_NUMBERS: Final = re.compile(rb"[-+0-9.,eE \\\0]*").fullmatch
# Text outside ASCII is not found by a search over bytes; it is looked at closely.
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
