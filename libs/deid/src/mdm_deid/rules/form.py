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


def _is_written_well(vr: bytes, data: Buffer, first: int, last: int) -> bool:
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
