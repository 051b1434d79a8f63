"""The keystores together, for registration."""

from collections.abc import Sequence
from uuid import UUID

from mdm_client.keystore.client import KeystoreClient
from mdm_service.access.acl import Acl
from mdm_wire.errors import MdmError

from mdm_dicom_srm.grid.acl import refuse, to_messages
from mdm_dicom_srm.grid.error import calling, from_client


class GridKeys:
    """Creates keys and their ACLs on every keystore; see `register.port.Keys`."""

    def __init__(self, client: KeystoreClient) -> None:
        self._client = client

    def ensure_acls(self, acls: Sequence[Acl]) -> None:
        """Create the ACLs that are missing, on every keystore."""
        with calling("keystores"):
            found = self._client.create_acls(to_messages(acls))
        refuse(None if error is None else from_client(error) for by_id in found.values() for error in by_id.values())

    def create_keys(self, guids: Sequence[UUID], acl_id: UUID) -> dict[UUID, MdmError | None]:
        """Create the keys that are missing."""
        with calling("keystores"):
            found = self._client.create_keys(guids, acl_id)
        return {guid: None if error is None else from_client(error) for guid, error in found.items()}
