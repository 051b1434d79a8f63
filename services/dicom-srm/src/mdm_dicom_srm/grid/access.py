"""Rights of users on files, as the catalog knows them."""

import logging
from collections.abc import Sequence
from uuid import UUID

import grpc
from mdm.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from mdm_wire.errors import Unavailable
from mdm_wire.permission import Permission

_log = logging.getLogger(__name__)


class CatalogAccess:
    """Asks the catalog on behalf of a user; this service's certificate must have the role service.dicom-srm there."""

    def __init__(self, channel: grpc.Channel, timeout: float = 10.0) -> None:
        self._stub = catalog_pb2_grpc.CatalogServiceStub(channel)
        self._timeout = timeout

    def readable(self, subject: str, guids: Sequence[UUID]) -> set[UUID]:
        """Return which files `subject` may read.

        Raises:
            Unavailable: the catalog cannot tell now.
        """
        request = catalog_pb2.CheckAccessRequest(
            subject=subject,
            targets=[catalog_pb2.Target(guid=str(guid)) for guid in guids],
            permissions=int(Permission.READ),
        )
        try:
            response = self._stub.CheckAccess(request, timeout=self._timeout)
        except grpc.RpcError as error:
            code = error.code().name if isinstance(error, grpc.Call) else "UNKNOWN"
            _log.warning("the catalog did not check rights: %s", code)
            raise Unavailable("CATALOG_UNAVAILABLE", "The catalog cannot check rights now; try again later.") from error
        return {guid for guid, result in zip(guids, response.results, strict=True) if result.status.code == 0}
