"""Files of a site, replaced as one step: a reader, and a crash, leaves or finds the old or the new one."""

import os
import tempfile
from pathlib import Path

_PRIVATE, _PUBLIC = 0o600, 0o644


def write_file(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a file, that only its owner may read where it is private, unless it is there as it is to be."""
    mode = _PRIVATE if private else _PUBLIC
    if path.exists() and path.read_bytes() == content and path.stat().st_mode & 0o777 == mode:
        return
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # for its owner only, from the beginning
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink()
        raise
