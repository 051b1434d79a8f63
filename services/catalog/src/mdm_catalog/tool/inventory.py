"""What keystores, metadata and dicom-srm hold, as an operator reaches them: streamed, whatever there is of it."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from uuid import UUID

from mdm_client import Client
from mdm_client.keystore.manager import CONFIRMED, KeyStatus
from mdm_service.errors import ConfigurationError
from mdm_wire import dn
from mdm_wire.errors import MdmError, NotFound

from mdm_catalog.store.bulk import Held

#: States of registrations that may still go on.
_UNFINISHED = ("RECEIVED", "KEYED", "DESCRIBED", "QUARANTINED", "FAILED", "REMOVING")


class Inventory:
    """The other services of the catalog's files. Everything raises MdmError where one of them does not answer, or not to an operator."""

    def __init__(self, config: Path, creators: Collection[str], collections: Sequence[str]) -> None:
        """Take the client configuration of an operator, the subjects that register files, and the collections of files' records."""
        self._client = Client.load(config)
        self._creators = frozenset(map(dn.canonical, creators))
        self._collections = tuple(collections)

    def keys(self) -> Iterator[Held]:
        """Give every key that any keystore holds; whole, where enough of them hold it to read."""
        operator = self._client.keystore_operator
        for name in operator.names:
            next(operator.witnessed_heads(name), None)  # to others than operators a listing shows a part, which would pass for all
        for status in self._client.keys.list_keys():
            away = next((part for part in status.parts.values() if isinstance(part, MdmError) and not isinstance(part, NotFound)), None)
            if away is not None:
                raise away
            yield self._held(status)

    def records(self) -> Iterator[Held]:
        """Give every record of a file."""
        for path in self._collections:
            for key in self._client.metadata.entries.keys(path):
                try:
                    yield Held(UUID(key))
                except ValueError:
                    raise ConfigurationError(f"{path}: a key is no GUID, so this is no collection of files") from None

    def unfinished(self) -> Iterator[UUID]:
        """Give the GUIDs of files whose registration may still go on, at every site."""
        for site in self._client.config.srm:
            for state in _UNFINISHED:
                yield from (UUID(item.guid) for item in self._client.srm(site).registrations(state))

    def destroy_keys(self, guids: Sequence[UUID]) -> Mapping[UUID, str]:
        """Destroy keys on every keystore; return why, of those that a keystore still holds."""
        results = self._client.keys.unregister(guids)
        return {
            result.guid: result.error.reason for result in results if result.error is not None and not isinstance(result.error, NotFound)
        }

    def delete_records(self, guids: Sequence[UUID]) -> Mapping[UUID, str]:
        """Delete records wherever they are; return why, of those that are still there."""
        failed: dict[UUID, str] = {}
        for path in self._collections:
            errors = self._client.metadata.entries.delete(path, [str(guid) for guid in guids])
            for guid, error in zip(guids, errors, strict=True):
                if error is not None and not isinstance(error, NotFound):
                    failed[guid] = error.reason
        return failed

    def close(self) -> None:
        """Close every channel."""
        self._client.close()

    def _held(self, status: KeyStatus) -> Held:
        facts = list(status.known.values())
        readable = [item for item in facts if item.state == CONFIRMED]
        whole = bool(readable) and len(readable) >= readable[0].threshold
        return Held(status.guid, max(item.created for item in facts), whole, all(item.creator in self._creators for item in facts))
