"""The keystores together, for registration."""

from collections.abc import Iterable, Sequence
from uuid import UUID

from mdm_client.keystore.client import KeystoreClient
from mdm_service.access.acl import Acl
from mdm_wire.errors import MdmError, NotFound

from mdm_dicom_srm.grid.call import calling, classified, refuse_acls, to_messages


class GridKeys:
    """Creates and destroys keys and their ACLs on every keystore; see `Keys` for each method."""

    def __init__(self, client: KeystoreClient) -> None:
        self._client = client

    def ensure_acls(self, acls: Sequence[Acl]) -> None:
        """Create the ACLs that are missing, on every keystore."""
        with calling("keystores"):
            found = self._client.create_acls(to_messages(acls))
        refuse_acls(None if error is None else classified(error) for by_id in found.values() for error in by_id.values())

    def create_keys(self, guids: Sequence[UUID], acl_id: UUID) -> dict[UUID, MdmError | None]:
        """Create the keys that are missing."""
        with calling("keystores"):
            found = self._client.create_keys(guids, acl_id)
        return {guid: None if error is None else classified(error) for guid, error in found.items()}

    def missing(self, guids: Sequence[UUID]) -> set[UUID]:
        """Return the files whose key no keystore has."""
        with calling("keystores"):
            by_server = self._client.key_attributes(guids)
        missing: set[UUID] = set()
        for guid in guids:
            errors = [answer for answer in (found[guid] for found in by_server.values()) if isinstance(answer, MdmError)]
            if len(errors) == len(by_server):
                unanswered = next((error for error in errors if not isinstance(error, NotFound)), None)
                if unanswered is not None:
                    raise classified(unanswered)
                missing.add(guid)
        return missing

    def move(self, guids: Sequence[UUID], acl_id: UUID) -> dict[UUID, MdmError | None]:
        """Put keys under another ACL."""
        with calling("keystores"):
            by_server = self._client.assign_acls(guids, acl_id)
        return {guid: _first_error(found[guid] for found in by_server.values()) for guid in guids}

    def destroy(self, guids: Sequence[UUID]) -> dict[UUID, MdmError | None]:
        """Destroy keys; one that does not exist is destroyed already."""
        with calling("keystores"):
            found = self._client.delete_keys(guids)
        return {guid: _first_error([error]) for guid, error in found.items()}


def _first_error(errors: Iterable[MdmError | None]) -> MdmError | None:
    return next((classified(error) for error in errors if error is not None and not isinstance(error, NotFound)), None)
