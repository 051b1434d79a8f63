"""The file catalog: names and replicas for registration, the rights of users for staging."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from uuid import UUID

import grpc
from mdm.catalog.v1 import catalog_pb2 as pb
from mdm.catalog.v1 import catalog_pb2_grpc
from mdm_wire.errors import FailedPrecondition, Forbidden, MdmError, NotFound, Unavailable
from mdm_wire.permission import Permission
from mdm_wire.retry import is_transient
from mdm_wire.status import from_rpc_error
from mdm_wire.url import surl

from mdm_dicom_srm.grid.call import GridService, calling, outcomes, refuse_but
from mdm_dicom_srm.register.rules.port import Directory, File
from mdm_dicom_srm.stage.rules.port import CatalogEntry, PathKind

_log = logging.getLogger(__name__)
# A listing that takes longer than this is broken off.
_LISTING_SECONDS = 300.0
# Why the catalog refuses this service itself, whatever the user may.
_NO_ROLE = frozenset({"METHOD_FORBIDDEN"})
# What an operator does about a refusal that does not pass.
_HINTS = {"METHOD_FORBIDDEN": "give our subject the role service.dicom-srm in the catalog's configuration"}
_KINDS = {
    pb.ENTRY_KIND_FILE: PathKind.FILE,
    pb.ENTRY_KIND_DIRECTORY: PathKind.DIRECTORY,
    pb.ENTRY_KIND_SYMLINK: PathKind.LINK,
}


class GridCatalog(GridService):
    """Publishes directories and files; see `Catalog` for each method. `host` is the host that replicas name."""

    def __init__(self, channel: grpc.Channel, host: str, timeout: float = 30.0) -> None:
        super().__init__("catalog", channel, timeout)
        self._catalog = catalog_pb2_grpc.CatalogServiceStub(channel)
        self._host = host

    def ensure_directories(self, directories: Sequence[Directory]) -> None:
        """Make the directories that are missing."""
        wanted = [pb.NewDirectory(lfn=item.lfn, acl_id=str(item.acl_id) if item.acl_id else "") for item in directories]
        response = self.call(self._catalog.MakeDirectories, pb.MakeDirectoriesRequest(directories=wanted, parents=True))
        refuse_but(outcomes(response.statuses), ())

    def register(self, files: Sequence[File]) -> list[MdmError | None]:
        """Register files with their replica."""
        request = pb.RegisterFilesRequest(files=[self._file(item) for item in files])
        response = self.call(self._catalog.RegisterFiles, request)
        return outcomes(response.statuses)

    def replace(self, files: Sequence[File]) -> list[MdmError | None]:
        """Register files, and bring those that exist to their name, ACL and size."""
        known = self._entries([file.guid for file in files])
        errors: dict[UUID, MdmError | None] = dict.fromkeys((file.guid for file in files), None)
        here = [file for file in files if file.guid in known]
        renamed = [file for file in here if known[file.guid].lfn != file.lfn]
        self._rename(renamed, errors)
        self._assign([file for file in renamed if _study(known[file.guid].lfn) != _study(file.lfn)], errors)
        resized = {file.guid: file.size for file in here if errors[file.guid] is None and file.size is not None}
        self.set_sizes({guid: size for guid, size in resized.items() if size != _size(known[guid])})
        # Registering again what is there puts a lost replica back.
        good = [file for file in files if errors[file.guid] is None]
        errors.update(zip([file.guid for file in good], self.register(good) if good else [], strict=True))
        return [errors[file.guid] for file in files]

    def lfns(self, guids: Sequence[UUID]) -> dict[UUID, str]:
        """Return the names of files."""
        return {guid: entry.lfn for guid, entry in self._entries(guids).items()}

    def remove(self, guids: Sequence[UUID]) -> None:
        """Remove files."""
        self._remove([_by_guid(guid) for guid in guids], NotFound)

    def prune(self, directories: Sequence[str]) -> None:
        """Remove directories that are empty."""
        for depth in sorted({path.count("/") for path in directories}, reverse=True):
            level = [pb.Target(lfn=path) for path in directories if path.count("/") == depth]
            self._remove(level, (NotFound, FailedPrecondition))

    def set_sizes(self, sizes: Mapping[UUID, int]) -> None:
        """Set the sizes of files."""
        if not sizes:
            return
        wanted = [pb.FileAttributes(target=_by_guid(guid), size=size) for guid, size in sizes.items()]
        response = self.call(self._catalog.SetFileAttributes, pb.SetFileAttributesRequest(attributes=wanted))
        refuse_but(outcomes(response.statuses), NotFound)

    def on_host(self) -> Iterator[UUID]:
        """Yield the GUIDs of files with a replica of this site, in order of GUID."""
        with calling("catalog"):
            for response in self._catalog.FindReplicas(pb.FindReplicasRequest(host=self._host)):
                for found in response.replicas:
                    if found.replica.surl == surl(self._host, UUID(found.guid)):
                        yield UUID(found.guid)

    def stat(self, guids: Sequence[UUID]) -> dict[UUID, tuple[str, int | None, UUID | None]]:
        """Return name, size and ACL of files; those that do not exist are left out."""
        return {
            guid: (entry.lfn, _size(entry), UUID(entry.acl_id) if entry.acl_id else None) for guid, entry in self._entries(guids).items()
        }

    def _remove(self, targets: Sequence[pb.Target], accepted: type[MdmError] | tuple[type[MdmError], ...]) -> None:
        if targets:
            response = self.call(self._catalog.Remove, pb.RemoveRequest(targets=targets))
            refuse_but(outcomes(response.statuses), accepted)

    def _entries(self, guids: Sequence[UUID]) -> dict[UUID, pb.Entry]:
        """Return the entries of files; those that do not exist are left out."""
        if not guids:
            return {}
        response = self.call(self._catalog.Stat, pb.StatRequest(targets=[_by_guid(guid) for guid in guids]))
        refuse_but(outcomes(result.status for result in response.results), NotFound)
        return {guid: result.entry for guid, result in zip(guids, response.results, strict=True) if result.status.code == 0}

    def _rename(self, files: Sequence[File], errors: dict[UUID, MdmError | None]) -> None:
        if files:
            renamings = [pb.Renaming(source=_by_guid(file.guid), lfn=file.lfn) for file in files]
            response = self.call(self._catalog.Rename, pb.RenameRequest(renamings=renamings))
            errors.update(zip([file.guid for file in files], outcomes(response.statuses), strict=True))

    def _assign(self, files: Sequence[File], errors: dict[UUID, MdmError | None]) -> None:
        moved = [file for file in files if errors[file.guid] is None]
        if moved:
            assignments = [pb.AclAssignment(target=_by_guid(file.guid), acl_id=str(file.acl_id)) for file in moved]
            response = self.call(self._catalog.AssignAcls, pb.AssignAclsRequest(assignments=assignments))
            errors.update(zip([file.guid for file in moved], outcomes(response.statuses), strict=True))

    def _file(self, item: File) -> pb.NewFile:
        replica = pb.Replica(surl=item.surl, status=pb.REPLICA_STATUS_AVAILABLE, host=self._host)
        return pb.NewFile(lfn=item.lfn, guid=str(item.guid), size=item.size, replicas=[replica])


class CatalogAccess:
    """Asks the catalog on behalf of a user; this service's certificate must have the role service.dicom-srm there."""

    def __init__(self, channel: grpc.Channel, timeout: float = 10.0) -> None:
        self._stub = catalog_pb2_grpc.CatalogServiceStub(channel)
        self._timeout = timeout

    def readable(self, subject: str, guids: Sequence[UUID]) -> set[UUID]:
        """Return which files `subject` may read.

        Raises:
            Unavailable: the catalog cannot check it now.
        """
        request = pb.CheckAccessRequest(
            subject=subject,
            targets=[_by_guid(guid) for guid in guids],
            permissions=int(Permission.READ),
        )
        with _asking():
            response = self._stub.CheckAccess(request, timeout=self._timeout)
        return {guid for guid, result in zip(guids, response.results, strict=True) if result.status.code == 0}

    def stat(self, subject: str, targets: Sequence[UUID | str]) -> list[CatalogEntry | None]:
        """Return what files and paths name; see `Catalog` in `stage.rules.port`."""
        named = [_by_guid(target) if isinstance(target, UUID) else pb.Target(lfn=target) for target in targets]
        with _asking():
            response = self._stub.StatFor(pb.StatForRequest(subject=subject, targets=named), timeout=self._timeout)
        return [None if result.status.code else _catalog_entry(result.entry) for result in response.results]

    def below(self, subject: str, lfn: str, levels: int, limit: int = 0) -> Iterator[CatalogEntry]:
        """Yield what is in a directory; see `Catalog` in `stage.rules.port`."""
        call = self._stub.ListFor(pb.ListForRequest(subject=subject, lfn=lfn, levels=levels, limit=limit), timeout=_LISTING_SECONDS)
        try:
            with _asking():
                for response in call:
                    yield from map(_catalog_entry, response.entries)
        finally:
            call.cancel()


@contextmanager
def _asking() -> Iterator[None]:
    """Translate what goes wrong while the catalog is asked on behalf of a user.

    Raises:
        NotFound, Forbidden: the catalog refuses the user.
        Unavailable: it cannot answer now.
        FailedPrecondition: it refuses this service, or does not understand it, until an operator changes something.
    """
    try:
        yield
    except grpc.RpcError as error:
        failure = from_rpc_error(error, "catalog")
        if isinstance(failure, NotFound | Forbidden) and failure.reason not in _NO_ROLE:
            raise failure from None
        facts = {"code": failure.code.name, "reason": failure.reason}
        if is_transient(failure):
            _log.warning("the catalog cannot check rights now", extra=facts)
            raise Unavailable("CATALOG_UNAVAILABLE", "The catalog cannot check rights now; try again later.") from error
        hint = _HINTS.get(failure.reason, "see `check-config --connect`")
        _log.error("the catalog refuses this service: %s", hint, extra=facts)
        raise FailedPrecondition(
            "CATALOG_REFUSES", "The catalog does not let this site check rights; its operator has to mend that."
        ) from error


def _catalog_entry(entry: pb.Entry) -> CatalogEntry:
    return CatalogEntry(
        lfn=entry.lfn,
        kind=_KINDS[entry.kind],
        guid=UUID(entry.guid) if entry.guid else None,
        size=_size(entry),
        permissions=Permission(entry.permissions),
        owner=entry.owner,
        created=entry.create_time.seconds,
        modified=entry.modify_time.seconds,
        sha256=entry.sha256,
    )


def _by_guid(guid: UUID) -> pb.Target:
    return pb.Target(guid=str(guid))


def _study(lfn: str) -> str:
    """Return the directory of the study that a file is in."""
    return lfn.rsplit("/", 2)[0]


def _size(entry: pb.Entry) -> int | None:
    return entry.size if entry.HasField("size") else None
