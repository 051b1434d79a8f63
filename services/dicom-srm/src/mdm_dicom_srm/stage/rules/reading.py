"""The reading of one request's files: which may be read now, and each as it is pinned."""

import threading
from collections.abc import Collection, Iterator, Sequence
from typing import BinaryIO
from uuid import UUID

from mdm_wire.errors import Unavailable

from mdm_dicom_srm.stage.rules.held import HELD
from mdm_dicom_srm.stage.rules.model import PENDING, StagedFile
from mdm_dicom_srm.stage.rules.recheck import Rechecker
from mdm_dicom_srm.stage.rules.request import Requests

_WAIT_SECONDS = 1.0


class Reading:
    """Reads files of a caller's request. Every method raises NotFound once there is no such request of this caller."""

    def __init__(self, owner: str, token: str, requests: Requests, rechecker: Rechecker) -> None:
        self._owner = owner
        self._token = token
        self._requests = requests
        self._rechecker = rechecker
        self._active = requests.find(owner, token)

    def open(self, guid: UUID) -> tuple[StagedFile, BinaryIO]:
        """Return a pinned file and its ciphertext, opened; the caller closes it.

        Raises:
            NotFound: the file is not pinned by the request.
            Forbidden: the caller may not read it any more.
            FailedPrecondition: another instance has it, on another machine.
            Unavailable: the spool has lost the file, so it has to be asked for again; or rights cannot be checked now.
        """
        self._active = self._requests.find(self._owner, self._token)
        return self._requests.open(self._active, guid, lambda: self.check(guid))

    def check(self, guid: UUID) -> None:
        """Check the right to read a file, before each part of it is sent; see `Rechecker.confirm`."""
        active = self._active
        self._rechecker.confirm(self._owner, guid, active.rights, lambda: self._requests.all_pinned(active))

    def unknown(self, guids: Collection[UUID]) -> list[UUID]:
        """Return which files are not of the request."""
        return [guid for guid in guids if guid not in self._active.request.positions]

    def is_at_another(self, file: StagedFile) -> bool:
        """Return whether an instance holds a file whose spool cannot be read here; workers of one instance read each other's."""
        return file.state in HELD and _name(file.holder) != _name(self._requests.instance)

    def follow(
        self, wanted: Collection[UUID], waits: threading.Semaphore, stopping: threading.Event, disconnected: threading.Event
    ) -> Iterator[tuple[float, Sequence[StagedFile]]]:
        """Yield the time and files, each once: when it is pinned, or has ended otherwise, or at once where another instance holds it.

        `wanted` are GUIDs of files, none: all; those that are not of the request do not count. Ends when no file is left, or the caller has
        disconnected; also when files would have to be waited for while `waits` is taken by others who wait.

        Raises:
            Unavailable: the service is being stopped.
        """
        left = set(self._active.request.positions)
        if wanted:
            left.intersection_update(wanted)
        status = self._requests.status(self._active)
        while not disconnected.is_set():
            come = [file for file in status.files if file.guid in left and (file.state not in PENDING or self.is_at_another(file))]
            left.difference_update(file.guid for file in come if file.guid is not None)
            if come:
                yield status.now, come
            if not left:
                return
            if stopping.is_set():
                raise Unavailable("STOPPING", "The service is being stopped; the request goes on when it is back.")
            if not waits.acquire(blocking=False):
                return
            try:
                status = self._requests.changes(self._active, status.seen, _WAIT_SECONDS)
            finally:
                waits.release()


def _name(instance: str) -> str:
    """Return the name of an instance without the number of its worker."""
    return instance.partition(".")[0]
