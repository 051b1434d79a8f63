"""Patient characteristics as byte values: age and sex read where they can mean one thing only, ages capped."""

import re
from typing import Final

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


def age(old: bytes) -> bytes:
    """Return an age as AS has it (`060Y`), everything above 89 years as 090Y; nothing if it is none, or has no unit."""
    match = _AGE.fullmatch(old.strip(_PADDING))
    if match is None:
        return b""
    number, unit = int(match[1]), match[2].upper()
    return b"090Y" if number / _PER_YEAR[unit] >= OLDEST_AGE + 1 else b"%03d%s" % (number, unit)


def sex(old: bytes) -> bytes:
    """Return a value of Patient's Sex as its enumerated value M, F or O; nothing if it is none of them in other words."""
    return _SEXES.get(old.strip(_PADDING).upper(), b"")
