"""Which rules these are: a digest of this package's code and tables, so that what older ones released can be told."""

import hashlib
from collections.abc import Iterator
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

_SUFFIXES: Final = (".py", ".csv", ".toml", ".tsv", ".txt")


@cache
def revision() -> str:
    """Return 16 hexadecimal digits that change whenever a file of the package does."""
    digest = hashlib.sha256()
    for name, file in sorted(_files(resources.files("mdm_deid"))):
        digest.update(hashlib.sha256(name.encode() + b"\0" + file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _files(folder: Traversable, path: str = "") -> Iterator[tuple[str, Traversable]]:
    """Yield the package's code and tables, in its rooms too, with their paths in it."""
    for file in folder.iterdir():
        if file.is_dir():
            yield from _files(file, f"{path}{file.name}/")
        elif file.name.endswith(_SUFFIXES):
            yield path + file.name, file
