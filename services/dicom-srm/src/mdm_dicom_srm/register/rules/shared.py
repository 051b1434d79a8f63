"""Writes the metadata entries of patients, studies and series, which many instances share."""

from collections.abc import Iterable

from mdm_dicom_srm.register.rules.description import INSTANCES
from mdm_dicom_srm.register.rules.names import Names
from mdm_dicom_srm.register.rules.port import Entry, Metadata, Statements
from mdm_dicom_srm.register.rules.statement import SERIES, Key, SharedEntry, Statement, merge


class SharedEntries:
    """Brings shared entries to what all instances together state. Safe for several threads and processes; every step may be repeated."""

    def __init__(self, store: Statements, metadata: Metadata, names: Names) -> None:
        self._store = store
        self._metadata = metadata
        self._names = names

    def write(self, keys: Iterable[Key]) -> None:
        """Write entries that are to be written; one that no instance shares any more is removed.

        Raises:
            MdmError: the metadata service is away or refuses one; the others behind it are not written yet.
        """
        for level, key in sorted(keys):
            # The turn keeps others from writing what they gathered earlier after what is gathered here.
            with self._store.turn(level, key) as entry:
                if entry is not None and entry.count == 0:
                    self._metadata.remove(self._names.collection(level), [key])
                    entry.save(b"", ())
                elif entry is not None and entry.statements:
                    self._write(level, key, entry)
                elif entry is not None:
                    entry.save(entry.written or b"", ())  # all that is left are instances that state nothing

    def write_left(self) -> None:
        """Write what a process that ended has left to be written; see `write`."""
        self.write(self._store.left())

    def _write(self, level: str, key: str, entry: SharedEntry) -> None:
        merged = merge(entry.statements)
        values = dict(merged.values)
        if entry.earlier:
            # What instances say that have stated nothing is in the entry already: silence of the others does not remove it.
            values = {name: value for name, value in values.items() if value is not None}
        if level == SERIES:
            values[INSTANCES] = entry.count
        digest = self._names.statement_digest(Statement(level, key, merged.acl_id, values).encode())
        if digest != entry.written:
            for error in self._metadata.upsert(self._names.collection(level), [Entry(key, merged.acl_id, values)]):
                if error is not None:
                    raise error
        entry.save(digest, merged.conflicts)
