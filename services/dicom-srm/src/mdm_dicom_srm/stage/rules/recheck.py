"""Whether the catalog still lets callers read what is staged for them."""

import time
from collections.abc import Callable, Iterable
from uuid import UUID

from mdm_wire.errors import FailedPrecondition, Forbidden, Unavailable

from mdm_dicom_srm.stage.rules.model import ReadRights
from mdm_dicom_srm.stage.rules.port import AccessChecker, Clock


class Rechecker:
    """Lets a file be read only while the catalog has confirmed the right to it less than `seconds` ago.

    It is asked again once half of that time has passed, for all files of a request at once, so that a short absence of the catalog
    interrupts nobody.
    """

    def __init__(self, access: AccessChecker, seconds: float, clock: Clock = time.monotonic) -> None:
        self._access = access
        self._seconds = seconds
        self._clock = clock

    def ask(self, owner: str, guids: Iterable[UUID], rights: ReadRights) -> set[UUID]:
        """Return which files `owner` may read now, and remember it.

        Raises:
            Unavailable: rights cannot be checked now.
            FailedPrecondition: they cannot be checked until an operator has changed something.
        """
        asked, begun = list(guids), self._clock()
        readable = self._access.readable(owner, asked) if asked else set()
        rights.answers.update({guid: (begun, guid in readable) for guid in asked})
        return readable

    def confirm(self, owner: str, guid: UUID, rights: ReadRights, beside: Callable[[], Iterable[UUID]]) -> None:
        """Return if `owner` may read a file; if the catalog has to be asked, ask it about the files `beside` it, too.

        Raises:
            Forbidden: not any more.
            Unavailable, FailedPrecondition: the catalog cannot say, now or at all, and what it said is too old.
        """
        age, allowed = self._last(rights, guid)
        if age >= self._seconds / 2:
            with rights.lock:  # the readers of one request share one question
                age, allowed = self._last(rights, guid)
                if age >= self._seconds / 2:
                    try:
                        self.ask(owner, {*beside(), guid}, rights)
                    except (Unavailable, FailedPrecondition):
                        if age >= self._seconds:
                            raise
                age, allowed = self._last(rights, guid)
        if not allowed:
            raise Forbidden("READ_REVOKED", "You may no longer read this file: access to it was taken back.")

    def _last(self, rights: ReadRights, guid: UUID) -> tuple[float, bool]:
        begun, allowed = rights.answers.get(guid, (float("-inf"), False))
        return self._clock() - begun, allowed
