"""Rights are checked again while staged files are read, so that a revocation ends reading within a bound."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from uuid import UUID

from mdm_wire.errors import Forbidden, Unavailable

from mdm_dicom_srm.stage.rules.port import AccessChecker, Clock


@dataclass
class Verdicts:
    """What the catalog last said of the files of one request, and when it was asked."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    said: dict[UUID, tuple[float, bool]] = field(default_factory=dict)


class Rechecker:
    """Lets a file be read only while the catalog has confirmed the right to it less than `seconds` ago.

    It is asked again from half of that time on, for all files of a request at once, so that a catalog away for a moment stops nobody.
    """

    def __init__(self, access: AccessChecker, seconds: float, clock: Clock = time.monotonic) -> None:
        self._access = access
        self._seconds = seconds
        self._clock = clock

    def ask(self, owner: str, guids: Iterable[UUID], verdicts: Verdicts) -> set[UUID]:
        """Return which files `owner` may read now, and remember it.

        Raises:
            Unavailable: rights cannot be checked now.
        """
        asked, begun = list(guids), self._clock()
        readable = self._access.readable(owner, asked) if asked else set()
        verdicts.said.update({guid: (begun, guid in readable) for guid in asked})
        return readable

    def confirm(self, owner: str, guid: UUID, verdicts: Verdicts, beside: Callable[[], Iterable[UUID]]) -> None:
        """Return if `owner` may read a file; where the catalog is to be asked, also about the files `beside` it.

        Raises:
            Forbidden: not any more. Unavailable: the catalog cannot tell, and what it said is too old.
        """
        age, allowed = self._last(verdicts, guid)
        if age >= self._seconds / 2:
            with verdicts.lock:  # readers of one request wait for one question
                age, allowed = self._last(verdicts, guid)
                if age >= self._seconds / 2:
                    try:
                        self.ask(owner, {*beside(), guid}, verdicts)
                    except Unavailable:
                        if age >= self._seconds:
                            raise
                age, allowed = self._last(verdicts, guid)
        if not allowed:
            raise Forbidden("READ_REVOKED", "You may no longer read this file: access to it was taken back.")

    def _last(self, verdicts: Verdicts, guid: UUID) -> tuple[float, bool]:
        begun, allowed = verdicts.said.get(guid, (float("-inf"), False))
        return self._clock() - begun, allowed
