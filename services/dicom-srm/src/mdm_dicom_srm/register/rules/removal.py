"""Takes back what the grid has of an instance: the end of a generation, after which its GUID and its key are dead."""

from collections.abc import Sequence
from uuid import UUID

from mdm_wire.errors import MdmError

from mdm_dicom_srm.register.rules.description import IMAGES
from mdm_dicom_srm.register.rules.model import Job
from mdm_dicom_srm.register.rules.names import Names
from mdm_dicom_srm.register.rules.port import Grid, Outcomes, Queue, Statements
from mdm_dicom_srm.register.rules.shared import SharedEntries


class Removal:
    """Removes instances backwards: copies, name, metadata, key. Repeating it after a crash at any point completes it."""

    def __init__(self, queue: Queue, statements: Statements, shared: SharedEntries, names: Names, grid: Grid) -> None:
        self._queue = queue
        self._statements = statements
        self._shared = shared
        self._names = names
        self._grid = grid

    def remove(self, jobs: Sequence[Job]) -> Outcomes:
        """Remove what the grid has of instances.

        Raises:
            MdmError: a service is away; what is left is to be tried again.
        """
        guids = [job.guid for job in jobs]
        self._grid.copies.forget(guids)
        self._remove_names(jobs)
        self._grid.metadata.remove(self._names.collection(IMAGES), [str(guid) for guid in guids])
        self._shared.write(self._statements.withdraw(guids))
        return self._destroy_keys([job.guid for job in jobs if job.keyed])

    def _remove_names(self, jobs: Sequence[Job]) -> None:
        lfns = {job.guid: job.lfn for job in jobs if job.lfn}
        unknown = self._grid.catalog.lfns([job.guid for job in jobs if not job.lfn])
        self._queue.note_lfns(unknown)
        self._grid.catalog.remove([job.guid for job in jobs])
        self._grid.catalog.prune(
            list(dict.fromkeys(path for lfn in (lfns | unknown).values() for path in self._names.directories_above(lfn)))
        )

    def _destroy_keys(self, guids: Sequence[UUID]) -> Outcomes:
        errors: dict[UUID, MdmError | None] = dict(self._grid.keys.destroy(guids)) if guids else {}
        return errors
