"""De-identification profiles: which options of the standard apply and which instances wait for a person."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from mdm_dicom_srm.deid.outcome import Outcome

OPTIONS = frozenset(
    {
        "retain_safe_private",
        "retain_uids",
        "retain_device_identity",
        "retain_institution_identity",
        "retain_patient_characteristics",
        "retain_longitudinal_full_dates",
        "retain_longitudinal_modified_dates",
    }
)
_FULL_DATES, _MODIFIED_DATES = "retain_longitudinal_full_dates", "retain_longitudinal_modified_dates"
_KEYS = {"name", "base", "options", "dates", "release", "rule"}
# Condition of a rule -> the attribute it looks at.
CONDITIONS = {
    "sop_classes": 0x00080016,
    "modalities": 0x00080060,
    "image_types": 0x00080008,
    "conversion_types": 0x00080064,
    "burned_in_annotation": 0x00280301,
    "recognizable_visual_features": 0x00280302,
}


class ProfileError(ValueError):
    """A profile is wrong; the message names the file and the key."""


@dataclass(frozen=True)
class Rule:
    """Instances that match any condition get `outcome` with `reason`; SOP classes may end in `.*`."""

    reason: str
    outcome: Outcome
    conditions: Mapping[int, frozenset[str]]

    def matches(self, values: Mapping[int, str]) -> bool:
        """Tell whether any value (multi-valued ones separated by a backslash) meets a condition."""
        for tag, wanted in self.conditions.items():
            for part in values.get(tag, "").upper().split("\\"):
                value = part.strip(" \0")
                if value in wanted or (tag == CONDITIONS["sop_classes"] and _prefixes(value) & wanted):
                    return True
        return False


def _prefixes(uid: str) -> set[str]:
    arcs = uid.split(".")
    return {".".join(arcs[:count]) + ".*" for count in range(1, len(arcs))}


@dataclass(frozen=True)
class Profile:
    """A checked profile. `dates` is `remove`, `shift` or `keep`; rules are tried in order, the first match decides."""

    name: str
    options: frozenset[str] = frozenset()
    dates: str = "remove"
    rules: tuple[Rule, ...] = field(default=())

    @classmethod
    def load(cls, path: Path | None) -> "Profile":
        """Read a TOML profile, or the shipped `basic` one for None.

        Raises:
            ProfileError: an unknown key, option, condition or value; the message names it.
            OSError: the file cannot be read.
        """
        if path is None:
            return cls.shipped("basic")
        return _parse(path.read_text(encoding="utf-8"), str(path))

    @classmethod
    def shipped(cls, name: str) -> "Profile":
        """Return the profile `basic` or `research` that comes with the package."""
        if name not in ("basic", "research"):
            raise ProfileError(f"no shipped profile {name!r}: there are basic and research")
        text = (resources.files("mdm_dicom_srm.deid") / "data" / f"{name}.toml").read_text(encoding="utf-8")
        return _parse(text, name)


def _parse(text: str, where: str) -> Profile:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{where}: {error}") from error
    _known(document, _KEYS, where)
    base = Profile.shipped(_text(document, "base", where)) if "base" in document else Profile(name="")
    options = base.options
    if "options" in document:
        options = frozenset(_texts(document, "options", where))
    for option in sorted(options - OPTIONS):
        raise ProfileError(f"{where}: options: {option!r} is not one of {', '.join(sorted(OPTIONS))}")
    dates = _text(document, "dates", where) if "dates" in document else base.dates
    _check_dates(dates, options, where)
    released = set(_texts(document, "release", where)) if "release" in document else set()
    for reason in sorted(released - {rule.reason for rule in base.rules}):
        raise ProfileError(f"{where}: release: the base profile has no rule {reason!r}")
    own = tuple(_rule(entry, f"{where}: rule {number}") for number, entry in enumerate(document.get("rule", []), 1))
    kept = tuple(rule for rule in base.rules if rule.reason not in released)
    return Profile(_text(document, "name", where), options, dates, own + kept)


def _check_dates(dates: str, options: frozenset[str], where: str) -> None:
    if {_FULL_DATES, _MODIFIED_DATES} <= options:
        raise ProfileError(f"{where}: options: full and modified dates exclude each other")
    wanted = "shift" if _MODIFIED_DATES in options else "keep" if _FULL_DATES in options else "remove"
    if dates != wanted:
        raise ProfileError(f"{where}: dates: these options need {wanted!r}, not {dates!r}")


def _rule(entry: object, where: str) -> Rule:
    if not isinstance(entry, dict):
        raise ProfileError(f"{where}: must be a table")
    _known(entry, {"reason", "outcome", *CONDITIONS}, where)
    outcome = entry.get("outcome", "QUARANTINED")
    if outcome not in ("QUARANTINED", "FILTERED"):
        raise ProfileError(f"{where}: outcome: must be QUARANTINED or FILTERED")
    conditions = {tag: frozenset(value.upper() for value in _texts(entry, key, where)) for key, tag in CONDITIONS.items() if key in entry}
    if not conditions:
        raise ProfileError(f"{where}: has no condition")
    return Rule(_text(entry, "reason", where), Outcome(outcome), conditions)


def _known(table: Mapping[str, Any], keys: set[str], where: str) -> None:
    for key in table:
        if key not in keys:
            raise ProfileError(f"{where}: unknown key {key!r}: known are {', '.join(sorted(keys))}")


def _text(table: Mapping[str, Any], key: str, where: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value:
        raise ProfileError(f"{where}: {key}: must be a text that is not empty")
    return value


def _texts(table: Mapping[str, Any], key: str, where: str) -> list[str]:
    value = table[key]
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise ProfileError(f"{where}: {key}: must be a list of texts")
    return value
