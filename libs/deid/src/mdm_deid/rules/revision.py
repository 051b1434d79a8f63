"""Which rules these are: a digest of this package's code and tables, so that what older ones released can be told."""

import hashlib
from functools import cache
from importlib import resources
from typing import Final

_SUFFIXES: Final = (".py", ".csv", ".toml", ".tsv", ".txt")


@cache
def revision() -> str:
    """Return 16 hexadecimal digits that change whenever a file of the package does."""
    package = resources.files("mdm_deid")
    files = [file for folder in (package, package / "data") for file in folder.iterdir() if file.name.endswith(_SUFFIXES)]
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.name):
        digest.update(hashlib.sha256(file.name.encode() + b"\0" + file.read_bytes()).digest())
    return digest.hexdigest()[:16]
