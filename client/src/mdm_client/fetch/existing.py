"""Files that are there before they are fetched: which stay, which are replaced, which are in the way."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path

from mdm_wire.errors import Conflict, MdmError

from mdm_client.catalog.model import Location
from mdm_client.fetch.plan import PlannedFile


class Likeness(Enum):
    """How what has a file's path compares with what the catalog knows of the file."""

    ABSENT = auto()
    SAME = auto()
    UNKNOWN = auto()  # the catalog knows neither size nor digest
    OTHER_SIZE = auto()
    OTHER_CONTENT = auto()
    NO_FILE = auto()


_DIFFERENCES = {Likeness.OTHER_SIZE: "another size", Likeness.OTHER_CONTENT: "another content", Likeness.NO_FILE: "another kind"}


@dataclass
class Sorted:
    """Planned files by what is to be done with them; `kept` exist and are the same, `uncompared` of them as far as can be known."""

    wanted: list[PlannedFile] = field(default_factory=list)
    kept: list[PlannedFile] = field(default_factory=list)
    uncompared: int = 0
    refused: list[tuple[PlannedFile, MdmError]] = field(default_factory=list)


def sort_out(files: Sequence[PlannedFile], directory: Path, *, skip_existing: bool, force: bool) -> Sorted:
    """Return which files are to be fetched, which stay, and which cannot be fetched for what is in their way.

    With `skip_existing`, a file of the same size and, where the catalog knows it, the same SHA-256 stays. Whatever else exists is in the
    way, unless `force`.
    """
    found = Sorted()
    for file in files:
        path = directory / file.path
        if not os.path.lexists(path) or (force and not skip_existing):
            found.wanted.append(file)
            continue
        likeness = compare(path, file.location) if skip_existing else Likeness.UNKNOWN
        if skip_existing and likeness not in _DIFFERENCES:
            found.kept.append(file)
            found.uncompared += likeness is Likeness.UNKNOWN
        elif force:
            found.wanted.append(file)
        else:
            found.refused.append((file, _in_the_way(path, likeness)))
    return found


def compare(path: Path, location: Location) -> Likeness:
    """Compare a local file with what the catalog knows; links are followed, and only a file of the right size is read."""
    if not os.path.lexists(path):
        return Likeness.ABSENT
    if not path.is_file():
        return Likeness.NO_FILE
    if location.size is not None and path.stat().st_size != location.size:
        return Likeness.OTHER_SIZE
    if location.sha256:
        return Likeness.SAME if _digest(path) == location.sha256 else Likeness.OTHER_CONTENT
    return Likeness.UNKNOWN if location.size is None else Likeness.SAME


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _in_the_way(path: Path, likeness: Likeness) -> MdmError:
    difference = _DIFFERENCES.get(likeness)
    if difference:
        return Conflict("LOCAL_FILE_DIFFERS", f"{path}: there is a file of {difference} than the catalog's; --force replaces it")
    return Conflict("LOCAL_FILE_EXISTS", f"{path}: exists already; --skip-existing leaves what is the same, --force replaces it")
