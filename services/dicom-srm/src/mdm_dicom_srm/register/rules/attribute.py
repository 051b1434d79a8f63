"""Which DICOM attributes become metadata, and their values in the types of the metadata service."""

import math
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from mdm_deid.rules.date import read_date
from mdm_deid.rules.value import DUMMY_BY_VR
from mdm_service.settings import ConfigurationError
from pydicom.datadict import tag_for_keyword
from pydicom.multival import MultiValue

from mdm_dicom_srm.register.rules.header_values import HeaderValues
from mdm_dicom_srm.register.rules.model import Value
from mdm_dicom_srm.register.rules.port import Attribute

COLLECTIONS = ("studies", "series", "images")
_TYPES = frozenset({"int", "float", "text", "date"})
_KEYS = frozenset({"type", "length", "unit", "description", "indexed"})
_TEXT_LENGTH = 256
_INDEXED_LENGTH = 500
_INT_LIMIT = 1 << 63
_DUMMY_DATE = read_date(DUMMY_BY_VR[b"DA"])


def load(path: Path | None) -> dict[str, tuple[Attribute, ...]]:
    """Read the attributes of each collection from a TOML file, or the one shipped with the service.

    Raises:
        ConfigurationError: the file cannot be read, or names something unknown.
    """
    where = str(path or "attributes.toml")
    try:
        text = path.read_text("utf-8") if path else (resources.files("mdm_dicom_srm.register.rules") / "attributes.toml").read_text("utf-8")
        document = tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{where}: {error}") from error
    unknown = document.keys() - set(COLLECTIONS)
    if unknown:
        raise ConfigurationError(f"{where}: unknown collection {min(unknown)}: there are {', '.join(COLLECTIONS)}")
    return {
        name: tuple(_attribute(f"{where}: {name}.{key}", key, row) for key, row in document.get(name, {}).items()) for name in COLLECTIONS
    }


def _attribute(where: str, keyword: str, row: Mapping[str, Any]) -> Attribute:
    if tag_for_keyword(keyword) is None:
        raise ConfigurationError(f"{where}: not a DICOM keyword")
    if not isinstance(row, dict) or row.keys() - _KEYS or row.get("type") not in _TYPES:
        raise ConfigurationError(
            f"{where}: needs type = one of {', '.join(sorted(_TYPES))}, and may have {', '.join(sorted(_KEYS - {'type'}))}"
        )
    length = row.get("length", _TEXT_LENGTH) if row["type"] == "text" else 0
    if not isinstance(length, int) or not 0 <= length <= 65536 or (row.get("indexed") and length > _INDEXED_LENGTH):
        raise ConfigurationError(f"{where}: length must be 1 to 65536, at most {_INDEXED_LENGTH} where indexed")
    return Attribute(
        name=keyword,
        type=str(row["type"]),
        length=length,
        unit=str(row.get("unit", "")),
        description=str(row.get("description", "")),
        indexed=bool(row.get("indexed", False)),
    )


def values(header: HeaderValues, attributes: tuple[Attribute, ...]) -> dict[str, Value]:
    """Return the values of a header; None where it has none or one that is not of the attribute's type."""
    return {attribute.name: value(header, attribute) for attribute in attributes}


def stated(original: HeaderValues, anonymous: HeaderValues, attributes: tuple[Attribute, ...]) -> dict[str, Value]:
    """Return the anonymous values of what the original has, None for the rest: a dummy that the type requires states nothing."""
    return {item.name: value(anonymous, item) if item.name in original.given else None for item in attributes}


def value(header: HeaderValues, attribute: Attribute) -> Value:
    """Return one value; see `values`."""
    raw = header.values.get(attribute.name)
    if raw is None or raw == "" or (isinstance(raw, MultiValue) and not raw):
        return None
    # What a modality wrote need not be of the type that its attribute has.
    try:
        return _CONVERSIONS[attribute.type](raw, attribute.length)
    except Exception:
        return None


def text(header: HeaderValues, keyword: str, length: int = _TEXT_LENGTH) -> str:
    """Return a value as text, "" where there is none."""
    found = value(header, Attribute(keyword, "text", length))
    return found if isinstance(found, str) else ""


def _text(raw: Any, length: int) -> str | None:
    parts = [str(part) for part in raw] if isinstance(raw, MultiValue) else [str(raw)]
    clean = "\\".join(parts).replace("\0", "").encode("utf-8", "replace").decode("utf-8").strip()
    return clean[:length] or None


def _int(raw: Any, _: int) -> int | None:
    number = int(raw)
    return number if -_INT_LIMIT <= number < _INT_LIMIT else None


def _float(raw: Any, _: int) -> float | None:
    number = float(raw)
    return number if math.isfinite(number) else None


def _date(raw: Any, _: int) -> str | None:
    """Return a date in ISO 8601; a dummy that stands for a removed date is none."""
    day = read_date(str(raw).encode("utf-8", "replace"))
    return None if day is None or day == _DUMMY_DATE else day.isoformat()


_CONVERSIONS = {"text": _text, "int": _int, "float": _float, "date": _date}
