"""What a new version changes in the files of a site that an earlier one made; what an operator wrote stays."""

import re
import tomllib
from pathlib import Path
from typing import Any

from mdm_site.file import to_toml
from mdm_site.site import SiteError

#: A setting of dicom-srm that earlier versions wrote and nothing read; it is refused now.
_GRID_SRM = re.compile(r"^srm *= *\{[^{}\n]*\} *\n", re.MULTILINE)
_ROLES = re.compile(r"^\[roles\] *(#.*)?\n", re.MULTILINE)


def upgrade_dicom_srm(settings: Path, curator: str, listener: tuple[str, int]) -> None:
    """Bring the configuration of dicom-srm to this version: without `[grid] srm`, with a listener for curators.

    `curator` is the subject who gets the role. A site that has the role already, be it for nobody (`curator = []`), is left without
    the listener if it has none.

    Raises:
        SiteError: a setting stands there in a form that cannot be changed here; the message says what to do.
    """
    text = settings.read_text()
    upgraded = _with_curator(_without_grid_srm(text, settings), settings, curator, listener)
    if upgraded != text:
        settings.write_text(upgraded)


def _without_grid_srm(text: str, settings: Path) -> str:
    wanted = tomllib.loads(text)
    if "srm" not in wanted.get("grid", {}):
        return text
    del wanted["grid"]["srm"]
    return _checked(_GRID_SRM.sub("", text), wanted, f"{settings}: remove `srm` from the section [grid]; dicom-srm refuses it")


def _with_curator(text: str, settings: Path, curator: str, listener: tuple[str, int]) -> str:
    wanted = tomllib.loads(text)
    if "curator" in wanted or "curator" in wanted.get("roles", {}):
        return text
    role = {"curator": [curator]}
    wanted["roles"] = wanted.get("roles", {}) | role
    section = {"curator": {"host": listener[0], "port": listener[1]}}
    wanted |= section
    changed, count = _ROLES.subn(lambda found: found.group() + to_toml(role), text, count=1)
    if not count:
        changed = f"{text.rstrip()}\n\n{to_toml({'roles': role})}"
    changed = f"{changed.rstrip()}\n\n{to_toml(section)}"
    return _checked(changed, wanted, f"{settings}: add the role `curator` and the section [curator] (docs/operator/quarantine.md)")


def _checked(text: str, wanted: dict[str, Any], message: str) -> str:
    """Return the text if it says what is wanted.

    Raises:
        SiteError: it does not, with the message.
    """
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        found = {}
    if found != wanted:
        raise SiteError(message)
    return text
