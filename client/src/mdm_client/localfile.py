"""Files that appear under their name only when they are whole."""

import contextlib
import os
import secrets
from pathlib import Path
from types import TracebackType
from typing import Self

_MAX_NAME_BYTES = 255


class AtomicFile:
    """Writes `<name>.<random>.part` beside the destination, and renames it when the block ends without an exception.

    After an exception nothing remains. Files are readable by their owner only.
    """

    def __init__(self, destination: Path, durable: bool = False) -> None:
        self._destination = destination
        self._durable = durable
        suffix = f".{secrets.token_hex(4)}.part"
        stem = os.fsencode(destination.name)[: _MAX_NAME_BYTES - len(suffix)]
        self._part = destination.with_name(os.fsdecode(stem) + suffix)
        self._descriptor = -1

    def __enter__(self) -> Self:
        self._descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        return self

    def write(self, data: bytes | memoryview) -> None:
        """Write all of `data`."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None and self._durable:
                os.fsync(self._descriptor)
            os.close(self._descriptor)
            if kind is None:
                self._part.replace(self._destination)
        except OSError:
            self._discard()
            raise
        if kind is not None:
            self._discard()

    def _discard(self) -> None:
        with contextlib.suppress(OSError):
            self._part.unlink()
