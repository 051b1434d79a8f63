"""The file catalog, for registration."""

from collections.abc import Mapping, Sequence
from uuid import UUID

import grpc
from mdm.catalog.v1 import catalog_pb2 as pb
from mdm.catalog.v1 import catalog_pb2_grpc
from mdm_wire.errors import FailedPrecondition, MdmError, NotFound

from mdm_dicom_srm.grid.acl import GrpcAcls, outcomes, refuse_but
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

    def replace(self, files: Sequence[File]) -> list[MdmError | None]:
        """Register files, and bring those that are there to their name, ACL and size; see `register.port.Catalog`."""
        known = self._entries([file.guid for file in files])
        errors: dict[UUID, MdmError | None] = dict.fromkeys((file.guid for file in files), None)
        here = [file for file in files if file.guid in known]
        elsewhere = [file for file in here if known[file.guid].lfn != file.lfn]
        self._rename(elsewhere, errors)
        self._assign([file for file in elsewhere if _study(known[file.guid].lfn) != _study(file.lfn)], errors)
        resized = {file.guid: file.size for file in here if errors[file.guid] is None and file.size is not None}
        self.set_sizes({guid: size for guid, size in resized.items() if size != _size(known[guid])})
        # Registering again what is there puts a lost replica back.
        good = [file for file in files if errors[file.guid] is None]
        errors.update(zip([file.guid for file in good], self.register(good) if good else [], strict=True))
        return [errors[file.guid] for file in files]

    def lfns(self, guids: Sequence[UUID]) -> dict[UUID, str]:
        """Return the names of files; see `register.port.Catalog`."""
        return {guid: entry.lfn for guid, entry in self._entries(guids).items()}

    def remove(self, guids: Sequence[UUID]) -> None:
        """Remove files; see `register.port.Catalog`.

        Raises:
            MdmError: one cannot be removed.
        """
        self._remove([_by_guid(guid) for guid in guids], NotFound)

    def prune(self, directories: Sequence[str]) -> None:
        """Remove directories that are empty; see `register.port.Catalog`.

        Raises:
            MdmError: one cannot be removed for another reason than that it is not empty.
        """
        for depth in sorted({path.count("/") for path in directories}, reverse=True):
            level = [pb.Target(lfn=path) for path in directories if path.count("/") == depth]
            self._remove(level, (NotFound, FailedPrecondition))

    def set_sizes(self, sizes: Mapping[UUID, int]) -> None:
        """Set the sizes of files; see `register.port.Catalog`.

        Raises:
            MdmError: one cannot be set.
        """
        if not sizes:
            return
        wanted = [pb.FileAttributes(target=_by_guid(guid), size=size) for guid, size in sizes.items()]
        with calling(self.place):
            response = self._catalog.SetFileAttributes(pb.SetFileAttributesRequest(attributes=wanted), timeout=self.timeout)
        refuse_but(outcomes(response.statuses), NotFound)

    def _remove(self, targets: Sequence[pb.Target], accepted: type[MdmError] | tuple[type[MdmError], ...]) -> None:
        if targets:
            with calling(self.place):
                response = self._catalog.Remove(pb.RemoveRequest(targets=targets), timeout=self.timeout)
            refuse_but(outcomes(response.statuses), accepted)

    def _entries(self, guids: Sequence[UUID]) -> dict[UUID, pb.Entry]:
        """Return the entries of files; those that are not there are left out."""
        if not guids:
            return {}
        with calling(self.place):
            response = self._catalog.Stat(pb.StatRequest(targets=[_by_guid(guid) for guid in guids]), timeout=self.timeout)
        refuse_but(outcomes(result.status for result in response.results), NotFound)
        return {guid: result.entry for guid, result in zip(guids, response.results, strict=True) if result.status.code == 0}

    def _rename(self, files: Sequence[File], errors: dict[UUID, MdmError | None]) -> None:
        if files:
            renamings = [pb.Renaming(source=_by_guid(file.guid), lfn=file.lfn) for file in files]
            with calling(self.place):
                response = self._catalog.Rename(pb.RenameRequest(renamings=renamings), timeout=self.timeout)
            errors.update(zip([file.guid for file in files], outcomes(response.statuses), strict=True))

    def _assign(self, files: Sequence[File], errors: dict[UUID, MdmError | None]) -> None:
        moved = [file for file in files if errors[file.guid] is None]
        if moved:
            assignments = [pb.AclAssignment(target=_by_guid(file.guid), acl_id=str(file.acl_id)) for file in moved]
            with calling(self.place):
                response = self._catalog.AssignAcls(pb.AssignAclsRequest(assignments=assignments), timeout=self.timeout)
            errors.update(zip([file.guid for file in moved], outcomes(response.statuses), strict=True))

    def _file(self, item: File) -> pb.NewFile:
        replica = pb.Replica(surl=item.surl, status=pb.REPLICA_STATUS_AVAILABLE, host=self._host)
        return pb.NewFile(lfn=item.lfn, guid=str(item.guid), size=item.size, replicas=[replica])


def _by_guid(guid: UUID) -> pb.Target:
    return pb.Target(guid=str(guid))


def _study(lfn: str) -> str:
    """Return the directory of the study that a file is in."""
    return lfn.rsplit("/", 2)[0]


def _size(entry: pb.Entry) -> int | None:
    return entry.size if entry.HasField("size") else None
