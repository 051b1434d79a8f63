"""What catalog, metadata and keystores hold of a site, listed for reconciliation."""

from collections.abc import Iterator, Mapping, Sequence
from uuid import UUID

from mdm_client.keystore.manager import CONFIRMED, KeyManager, KeyStatus
from mdm_wire.errors import MdmError, NotFound

from mdm_dicom_srm.grid.call import calling, classified
from mdm_dicom_srm.grid.catalog import GridCatalog
from mdm_dicom_srm.grid.keystore import GridKeys
from mdm_dicom_srm.grid.metadata import GridMetadata
from mdm_dicom_srm.reconcile.rules.model import HeldKey, Name
from mdm_dicom_srm.register.rules.names import Names

_STAT = 1000


class GridInventory:
    """See `reconcile.rules.model.Grid` for each method."""

    def __init__(
        self, catalog: GridCatalog, metadata: GridMetadata, keys: GridKeys, manager: KeyManager, names: Names, caller: str
    ) -> None:
        """`caller` is this service's own subject, by which keys are known that it made."""
        self._catalog, self._metadata, self._keys = catalog, metadata, keys
        self._manager = manager
        self._names = names
        self._caller = caller

    def listed_names(self) -> Iterator[UUID]:
        """Yield the files of this site."""
        return self._catalog.on_host()

    def names(self, guids: Sequence[UUID]) -> dict[UUID, Name]:
        """Return files as the catalog has them."""
        found: dict[UUID, Name] = {}
        for start in range(0, len(guids), _STAT):
            found |= {guid: Name(*facts) for guid, facts in self._catalog.stat(guids[start : start + _STAT]).items()}
        return found

    def entry_keys(self, collection: str) -> Iterator[str]:
        """Yield the keys of a collection."""
        return self._metadata.keys(collection)

    def keys(self) -> Iterator[HeldKey]:
        """Yield the keys that any keystore holds."""
        with calling("keystores"):
            for status in self._manager.list_keys():
                yield self._held(status)

    def set_sizes(self, sizes: Mapping[UUID, int]) -> None:
        """Set the sizes of files."""
        self._catalog.set_sizes(sizes)

    def remove_names(self, names: Mapping[UUID, str]) -> None:
        """Remove files, and the directories above them that are empty then."""
        self._catalog.remove(list(names))
        self._catalog.prune(list(dict.fromkeys(path for lfn in names.values() for path in self._names.directories_above(lfn))))

    def remove_entries(self, collection: str, keys: Sequence[str]) -> None:
        """Remove entries."""
        if keys:
            self._metadata.remove(collection, keys)

    def destroy_keys(self, guids: Sequence[UUID]) -> dict[UUID, MdmError | None]:
        """Destroy keys on every keystore."""
        return self._keys.destroy(guids) if guids else {}

    def _held(self, status: KeyStatus) -> HeldKey:
        away = [part for part in status.parts.values() if isinstance(part, MdmError) and not isinstance(part, NotFound)]
        if away:
            raise classified(away[0])
        facts = list(status.known.values())
        whole = len(facts) == len(status.parts) and all(item.state == CONFIRMED for item in facts)
        return HeldKey(status.guid, whole, all(item.creator == self._caller for item in facts), max(item.created for item in facts))
