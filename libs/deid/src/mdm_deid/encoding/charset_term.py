"""The defined terms of Specific Character Set (PS3.3 C.12.1.1.2), and what is meant where one is misspelt."""

import re
from functools import lru_cache
from typing import Final

# Single-byte sets by number of the ISO registry; 6 is the default repertoire.
SINGLE_BYTE: Final = frozenset({13, 100, 101, 109, 110, 126, 127, 138, 144, 148, 166, 203})
# Sets that need an escape sequence before their first character, so they never come first.
MULTI_BYTE: Final = frozenset({58, 87, 149, 159})
# Sets that allow no others beside them.
_UTF8, _GB18030, _GBK = ALONE = ("ISO_IR 192", "GB18030", "GBK")
_DEFAULT: Final = 6
# Part of ISO 8859, or number of the Latin alphabet -> number of the ISO registry.
_PARTS: Final = {1: 100, 2: 101, 3: 109, 4: 110, 5: 144, 6: 127, 7: 126, 8: 138, 9: 148, 11: 166, 15: 203}
_LATIN: Final = {1: 100, 2: 101, 3: 109, 4: 110, 5: 148, 9: 203}
_NAMES: Final[dict[str, int | str]] = {
    **dict.fromkeys(("ASCII", "USASCII", "ISO646", "ISO646US", "ISO646IRV"), _DEFAULT),
    **dict.fromkeys(("CYRILLIC", "ISOCYRILLIC"), 144),
    "ARABIC": 127,
    "GREEK": 126,
    "HEBREW": 138,
    **dict.fromkeys(("THAI", "TIS620"), 166),
    "JISX0201": 13,
    "ISO2022JP": 87,
    "ISO2022KR": 149,
    "ISO2022CN": 58,
    **dict.fromkeys(("UTF8", "UNICODE", "UNICODEUTF8", "ISO10646", "ISO106461"), _UTF8),
    # GB 2312 without escape sequences is a part of GBK.
    **dict.fromkeys(("CP936", "GB2312", "GB231280", "EUCCN", "ISO2022GBK", "ISOIRGBK"), _GBK),
}
_IR: Final = re.compile(r"(?:ISO)?(2022)?IR0*(\d{1,3})|ISO(2022)0*(\d{1,3})")
_ISO_8859: Final = re.compile(r"(?:ISO)?8859(\d{1,2})")
_LATIN_N: Final = re.compile(r"(?:ISO)?L(?:ATIN)?(\d)")
_GB: Final = re.compile(r"(?:ISO)?(?:2022)?(?:IR)?(?:GB(18030)(?:20\d\d)?|GBK)")
_SEPARATORS: Final = re.compile(r"[\s\0_\-./]+")


@lru_cache(64)
def canonical(value: str) -> str | None:
    """Return a value of Specific Character Set as PS3.3 spells it; nothing for the default repertoire, None if it is not certain.

    Other spellings of the defined terms are understood: case, blanks, hyphens for underscores, the names of IANA. A set that needs
    code extensions is written with the default repertoire before it.
    """
    parts = [part.strip(" \0\t") for part in value.split("\\")]
    meant = [_meant(part) for part in parts]
    if any(part is None for part in meant):
        return None
    sets = list(dict.fromkeys(part for part in meant if part is not None))
    alone = [part for part in sets if isinstance(part, str)]
    numbers = [part for part in sets if isinstance(part, int)]
    if alone:
        # What is named beside it could only be reached by escape sequences, which it has not.
        return alone[0] if len(alone) == 1 and (sets[0] == alone[0] or set(numbers) <= {_DEFAULT}) else None
    if numbers == [_DEFAULT]:
        return ""
    extended = any("2022" in _folded(part) for part in parts)
    others = [number for number in numbers if number != _DEFAULT]
    if len(others) == 1 and others[0] in SINGLE_BYTE and not extended:
        return f"ISO_IR {others[0]}"
    if numbers[0] in MULTI_BYTE:
        numbers = [_DEFAULT, *others]
    first = "" if numbers[0] == _DEFAULT and not parts[0] else f"ISO 2022 IR {numbers[0]}"
    return "\\".join([first, *(f"ISO 2022 IR {number}" for number in numbers[1:])])


def _folded(text: str) -> str:
    return _SEPARATORS.sub("", text.partition(":")[0]).upper()


def _meant(text: str) -> int | str | None:
    """Return the number of one set in the ISO registry, or the term of one that stands alone."""
    name = _folded(text)
    if not name:
        return _DEFAULT if not text else None
    if name in _NAMES:
        return _NAMES[name]
    if match := _GB.fullmatch(name):
        return _GB18030 if match[1] else _GBK
    if match := _IR.fullmatch(name):
        number = int(match[2] or match[4])
        return _UTF8 if number == 192 else number if number in SINGLE_BYTE | MULTI_BYTE | {_DEFAULT} else None
    if match := _ISO_8859.fullmatch(name):
        return _PARTS.get(int(match[1]))
    if match := _LATIN_N.fullmatch(name):
        return _LATIN.get(int(match[1]))
    return None
