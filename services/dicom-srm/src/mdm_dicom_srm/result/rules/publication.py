"""How results become visible and how they go: each step may be repeated, so that a process killed anywhere leaves nothing half done."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

from mdm_wire.errors import Conflict, MdmError, NotFound, Unavailable

from mdm_dicom_srm.result.rules.model import Record, State
from mdm_dicom_srm.result.rules.port import Forget, Grid, Records, Space, Users

_log = logging.getLogger(__name__)
_PAGE = 1_000


class Publisher:
    """Publishes results, withdraws uploads, removes results; what fails for now is done by `tick`."""

    def __init__(
        self,
        records: Records,
        space: Space,
        grid: Grid,
        users: Users,
        forget: Forget,
        gone_after: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`forget` removes staged copies; a result that the catalog has not named for `gone_after` seconds is removed."""
        self._records = records
        self._space = space
        self._grid = grid
        self._users = users
        self._forget = forget
        self._gone_after = gone_after
        self._clock = clock

    def publish(self, record: Record) -> Record:
        """Publish a stored result and return it.

        Raises:
            Unavailable: it stays stored and is tried again. MdmError: it can never be published as it is, and was given up.
        """
        try:
            self._grid.publish(record)
        except Unavailable:
            raise
        except MdmError as error:
            # Its GUID was in no catalog when it was reserved: so it was published before a crash, and has been renamed since.
            if not (isinstance(error, Conflict) and self._grid.named([record.guid])):
                self.give_up(record)
                raise
        published = replace(record, state=State.PUBLISHED)
        if not self._records.change(published, (State.STORED, State.PUBLISHED)):
            self._grid.withdraw([record.guid])
            raise NotFound("REQUEST_UNKNOWN", "The file was withdrawn meanwhile.")
        return published

    def give_up(self, record: Record) -> bool:
        """Remove a result that is not published, with what there is of it; return whether it was there."""
        removing = replace(record, state=State.REMOVING)
        if not self._records.change(removing, (State.UPLOADING, State.STORED)):
            return False
        try:
            self._finish_removal(removing)
        except MdmError as error:
            _log.warning("a withdrawn result is not removed yet", extra={"guid": str(record.guid), "reason": error.reason})
        return True

    def remove(self, record: Record) -> MdmError | None:
        """Remove a published result; return why its name is still there, if it is."""
        removing = replace(record, state=State.REMOVING)
        self._records.change(removing, (State.PUBLISHED, State.REMOVING))
        try:
            self._finish_removal(removing)
        except MdmError as error:
            _log.warning("a result is not removed yet", extra={"guid": str(record.guid), "reason": error.reason})
            return error
        return None

    def tick(self) -> None:
        """Publish what is stored, end abandoned uploads, go on with removals."""
        for record in self._records.pending(self._clock(), _PAGE):
            try:
                if record.state is State.STORED:
                    self.publish(record)
                elif record.state is State.UPLOADING:
                    self.give_up(record)
                else:
                    self._finish_removal(record)
            except MdmError as error:
                _log.warning("a result waits", extra={"guid": str(record.guid), "state": record.state.value, "reason": error.reason})

    def sweep(self) -> None:
        """Remove published results whose names have been gone from the catalog for long.

        An entry that this service may not see looks as if it were gone: the owner must not see it either.
        """
        after: UUID | None = None
        while page := self._records.published(after, _PAGE):
            after = page[-1].guid
            named = self._grid.named([record.guid for record in page])
            unseen = [record for record in page if record.guid not in named]
            gone = [record for record in unseen if self._users.stat(record.owner, [record.guid]) == [None]]
            self._records.note_named([record.guid for record in page if record not in gone])
            since = self._records.missing([record.guid for record in gone], self._clock())
            for record in gone:
                if self._clock() - since.get(record.guid, self._clock()) >= self._gone_after:
                    self.remove(record)

    def _finish_removal(self, record: Record) -> None:
        self._grid.withdraw([record.guid])
        self._forget([record.guid])
        self._space.remove(record.guid, record.place)
        self._records.remove(record.guid)
