"""QIDO-RS parameters: what is asked for, as conditions on the attributes of metadata records."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from mdm_wire.errors import Invalid
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

MAX_LIMIT = 10_000
_MAX_VALUES = 2_000
#: Every answer has all that records know, whatever `includefield` names.
_IGNORED = frozenset({"includefield", "fuzzymatching", "emptyvaluematching", "multiplevaluematching", "accept", "charset"})
_WILD_VRS = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"})


@dataclass(frozen=True)
class Condition:
    """One attribute and what it must be: one of `values`, wildcards in them meant if `wild`; or dates from and to, None: open."""

    keyword: str
    values: tuple[str, ...] = ()
    wild: bool = False
    dates: tuple[date | None, date | None] | None = None


@dataclass(frozen=True)
class Search:
    """A request of QIDO-RS."""

    conditions: tuple[Condition, ...] = ()
    limit: int = MAX_LIMIT
    offset: int = 0

    def values_of(self, keyword: str) -> tuple[str, ...]:
        """Return the values that an attribute must have without wildcards; empty where any will do."""
        return next((c.values for c in self.conditions if c.keyword == keyword and not c.wild), ())

    def without(self, keywords: Iterable[str]) -> "Search":
        """Return the search without conditions on these attributes."""
        gone = set(keywords)
        return Search(tuple(c for c in self.conditions if c.keyword not in gone), self.limit, self.offset)


def parse_search(pairs: Iterable[tuple[str, str]]) -> Search:
    """Return what the parameters of an address ask for; attributes by keyword or as eight hexadecimal digits.

    An empty value and a lone `*` match everything, as universal matching does.

    Raises:
        Invalid: QIDO_PARAMETER.
    """
    conditions: dict[str, Condition] = {}
    limit, offset = MAX_LIMIT, 0
    for name, value in pairs:
        if name == "limit":
            limit = min(_number(name, value), MAX_LIMIT)
        elif name == "offset":
            offset = _number(name, value)
        elif name.lower() not in _IGNORED:
            condition = _condition(name, value)
            if condition is not None:
                conditions[condition.keyword] = condition
    return Search(tuple(conditions.values()), limit, offset)


def _number(name: str, value: str) -> int:
    if not value.isdecimal() or len(value) > 9:
        raise Invalid("QIDO_PARAMETER", f"{name}: a number is expected")
    return int(value)


def keyword_of(name: str) -> str:
    """Return the keyword of an attribute that is named by keyword or tag; of nested ones, the last.

    Raises:
        Invalid: QIDO_PARAMETER: there is none.
    """
    last = name.rpartition(".")[2]
    tag = int(last, 16) if len(last) == 8 and all(c in "0123456789abcdefABCDEF" for c in last) else None
    keyword = keyword_for_tag(tag) if tag is not None else (last if tag_for_keyword(last) is not None else "")
    if not keyword:
        raise Invalid("QIDO_PARAMETER", f"{name[:64]}: neither the keyword nor the tag of an attribute")
    return keyword


def _condition(name: str, value: str) -> Condition | None:
    keyword = keyword_of(name)
    kind = dictionary_VR(keyword)
    if value.strip("*") == "":
        return None
    if kind in ("DA", "DT", "TM"):
        return Condition(keyword, dates=_dates(name, value)) if kind == "DA" else Condition(keyword, (value,))
    values: Sequence[str] = value.replace("\\", ",").split(",") if kind in ("UI", "CS", "IS", "DS") else [value]
    values = [part.strip() for part in values if part.strip()]
    if len(values) > _MAX_VALUES:
        raise Invalid("QIDO_PARAMETER", f"{name}: more than {_MAX_VALUES} values")
    wild = kind in _WILD_VRS and any(set(part) & set("*?") for part in values)
    return Condition(keyword, tuple(values), wild)


def _dates(name: str, value: str) -> tuple[date | None, date | None]:
    begin, dash, end = value.partition("-")
    try:
        first, last = (date.fromisoformat(f"{t[:4]}-{t[4:6]}-{t[6:8]}") if t else None for t in (begin, end if dash else begin))
    except ValueError as error:
        raise Invalid("QIDO_PARAMETER", f"{name}: a date is YYYYMMDD, a range YYYYMMDD-YYYYMMDD") from error
    return first, last
