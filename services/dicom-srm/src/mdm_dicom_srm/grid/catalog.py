"""The file catalog, for registration."""

from collections.abc import Sequence

import grpc
from mdm.catalog.v1 import catalog_pb2 as pb
from mdm.catalog.v1 import catalog_pb2_grpc
from mdm_wire.errors import MdmError

from mdm_dicom_srm.grid.acl import GrpcAcls, outcomes
from mdm_dicom_srm.grid.error import calling
from mdm_dicom_srm.register.rules.port import Directory, File


class GridCatalog(GrpcAcls):
    """Publishes directories and files; see `register.port.Catalog`. `host` is what replicas name as theirs."""

    def __init__(self, channel: grpc.Channel, host: str, timeout: float = 30.0) -> None:
        super().__init__("catalog", channel, timeout)
        self._catalog = catalog_pb2_grpc.CatalogServiceStub(channel)
        self._host = host

    def ensure_directories(self, directories: Sequence[Directory]) -> None:
        """Make the directories that are missing.

        Raises:
            MdmError: one cannot be made.
        """
        wanted = [pb.NewDirectory(lfn=item.lfn, acl_id=str(item.acl_id) if item.acl_id else "") for item in directories]
        with calling(self.place):
            response = self._catalog.MakeDirectories(pb.MakeDirectoriesRequest(directories=wanted, parents=True), timeout=self.timeout)
        for error in outcomes(response.statuses):
            if error is not None:
                raise error

    def register(self, files: Sequence[File]) -> list[MdmError | None]:
        """Register files with their replica."""
        request = pb.RegisterFilesRequest(files=[self._file(item) for item in files])
        with calling(self.place):
            response = self._catalog.RegisterFiles(request, timeout=self.timeout)
        return outcomes(response.statuses)

    def _file(self, item: File) -> pb.NewFile:
        replica = pb.Replica(surl=item.surl, status=pb.REPLICA_STATUS_AVAILABLE, host=self._host)
        return pb.NewFile(lfn=item.lfn, guid=str(item.guid), replicas=[replica])
