"""What waits in the forwarder, in a file that dicom-srm reads for `mdm site`: counts only, no names."""

import json
import os
import time
from dataclasses import asdict
from pathlib import Path

from mdm_forwarder.delivery import DeliveryQueue

_SECONDS = 1.0


class StatusFile:
    """Writes the file, at most once a second; a reader sees a whole one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = 0.0

    def report(self, queue: DeliveryQueue) -> None:
        """Write what waits now, unless that was just done.

        Raises:
            OSError: it cannot be written.
        """
        if time.monotonic() - self._written < _SECONDS:
            return
        part = self._path.with_name(f"{self._path.name}.part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({**asdict(queue.backlog()), "time": time.time()}, file)
        part.replace(self._path)
        self._written = time.monotonic()
