"""The file in which a forwarder of the PACS reports what waits in it."""

import json
import logging
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mdm_dicom_srm.oversight.rules.site import ForwarderStatus

_log = logging.getLogger(__name__)
_LONGEST = 64 * 1024
_MOST_REASONS = 100
_REASON = re.compile(r"[A-Za-z0-9_]{1,64}")


class ForwarderFile:
    """Reads the file anew each time. It comes from another program, so nothing in it is trusted."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def status(self) -> ForwarderStatus | None:
        """Return what was reported last, None if there is no file or it makes no sense."""
        if self._path is None:
            return None
        try:
            with self._path.open("rb") as file:
                found = json.loads(file.read(_LONGEST))
            return _parsed(found)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            _log.warning("the forwarder's report cannot be read", extra={"error": type(error).__name__})
            return None


def _parsed(found: Any) -> ForwarderStatus:
    refused = {reason: _count(count) for reason, count in list(found["refused"].items())[:_MOST_REASONS]}
    if not all(_REASON.fullmatch(reason) for reason in refused):
        raise ValueError("reason")
    oldest = found["oldest"]
    return ForwarderStatus(_count(found["waiting"]), refused, None if oldest is None else _moment(oldest), _moment(found["time"]))


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
        raise ValueError("count")
    return value


def _moment(value: Any) -> datetime:
    if not isinstance(value, int | float):
        raise TypeError("moment")
    moment = datetime.fromtimestamp(value, UTC)
    if not 1970 <= moment.year < 9999:
        raise ValueError("moment")
    return moment
