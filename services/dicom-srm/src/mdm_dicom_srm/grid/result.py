"""Catalog, metadata and keystores as results need them."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from uuid import UUID

import grpc
from mdm.acl.v1 import acl_pb2, acl_pb2_grpc
from mdm.catalog.v1 import catalog_pb2 as pb
from mdm.catalog.v1 import catalog_pb2_grpc
from mdm_service.access.acl import Acl, AclEntry
from mdm_wire.batch import MAX_ACLS, in_batches
from mdm_wire.errors import MdmError, NotFound
from mdm_wire.permission import Permission
from mdm_wire.url import surl

from mdm_dicom_srm.grid.call import GridService, outcomes, refuse_but
from mdm_dicom_srm.grid.catalog import GridCatalog
from mdm_dicom_srm.grid.keystore import GridKeys
from mdm_dicom_srm.grid.metadata import GridMetadata
from mdm_dicom_srm.register.rules.model import Value
from mdm_dicom_srm.register.rules.names import Names
from mdm_dicom_srm.register.rules.port import Collection, Directory, Entry
from mdm_dicom_srm.result.rules.description import ATTRIBUTES, COLLECTION
from mdm_dicom_srm.result.rules.model import Record
from mdm_dicom_srm.result.rules.port import Source

_STAT = 1_000
#: What this service keeps on results: all but reading, which it has no key for either.
_OURS = Permission.ALL & ~Permission.READ


class ResultGrid(GridService):
    """See `result.rules.port.Grid` for each method. `service` is this service's own subject."""

    def __init__(
        self,
        channel: grpc.Channel,
        services: tuple[GridCatalog, GridMetadata, GridKeys],
        names: Names,
        authority: str,
        service: str,
        putters: Sequence[AclEntry],
        timeout: float = 30.0,
    ) -> None:
        """`putters` are the entries of the access list of the directory for results."""
        super().__init__("catalog", channel, timeout)
        self._stub = catalog_pb2_grpc.CatalogServiceStub(channel)
        self._lists = acl_pb2_grpc.AclServiceStub(channel)
        self._catalog, self._metadata, self._keys = services
        self._names = names
        self._authority = authority
        self.service = service
        self._putters = putters
        self._ready = False

    def ensure_place(self) -> None:
        """Make what every result needs: the directory for results, and the collection that describes them.

        Raises:
            MdmError: not all of it exists now.
        """
        if self._ready:
            return
        names = self._names
        putters, collection, private = (names.site_acl(name) for name in ("results", "collection", "private"))
        directory = names.site_acl("directory")
        self._catalog.ensure_acls([Acl(putters, "", tuple(self._putters))])
        above = [Directory(path, directory) for path in (names.vo_root, names.root)]
        self._catalog.ensure_directories([*above, Directory(f"{names.root}/{COLLECTION}", putters)])
        # Those of the site exist once something is registered; until then these are as registration makes them.
        self._metadata.ensure_collections([Collection(names.collection(COLLECTION), ATTRIBUTES, collection, private)])
        self._ready = True

    def sources(self, guids: Sequence[UUID]) -> dict[UUID, Source]:
        """Return what this service sees of files."""
        found: dict[UUID, Source] = {}
        for batch in in_batches(guids, _STAT):
            found |= {guid: Source(lfn, acl_id) for guid, (lfn, _, acl_id) in self._catalog.stat(batch).items()}
        return found

    def acls(self, ids: Sequence[UUID]) -> dict[UUID, Acl]:
        """Return the access lists that this service may see."""
        found: dict[UUID, Acl] = {}
        for batch in in_batches(ids, MAX_ACLS):
            response = self.call(self._lists.GetAcls, acl_pb2.GetAclsRequest(ids=map(str, batch)))
            for acl_id, result in zip(batch, response.results, strict=True):
                if result.status.code == 0:
                    found[acl_id] = _acl(result.acl)
        return found

    def permissions(self, lfns: Sequence[str]) -> dict[str, Permission]:
        """Return what this service may do with entries; links are followed."""
        found: dict[str, Permission] = {}
        for batch in in_batches(lfns, _STAT):
            response = self.call(self._stub.Stat, pb.StatRequest(targets=[pb.Target(lfn=lfn) for lfn in batch]))
            for lfn, result in zip(batch, response.results, strict=True):
                if result.status.code == 0:
                    found[lfn] = Permission(result.entry.permissions)
        return found

    def publish(self, record: Record) -> None:
        """Make access list, description and name; see the port."""
        about = record.about
        own = (f"dn:{self.service}", int(_OURS))
        entries = tuple(AclEntry(principal, Permission(bits)) for principal, bits in [*sorted(about.access.entries.items()), own])
        acl = Acl(about.access.id, record.owner, entries)
        self._metadata.ensure_acls([acl])
        self._catalog.ensure_acls([acl])
        values: dict[str, Value] = {
            **about.attributes,
            "guid": str(record.guid),
            "lfn": about.lfn,
            "size": about.plain_size,
            "sha256": about.plain_sha256.hex(),
            "put_on": datetime.now(UTC).date().isoformat(),
        }
        entry = Entry(str(record.guid), about.access.id, values)
        _raise_first(self._metadata.upsert(self._names.collection(COLLECTION), [entry]))
        replica = pb.Replica(surl=surl(self._authority, record.guid), status=pb.REPLICA_STATUS_AVAILABLE, host=self._authority)
        file = pb.NewFile(
            lfn=about.lfn,
            guid=str(record.guid),
            size=about.plain_size,
            sha256=about.plain_sha256,
            acl_id=str(about.access.id),
            replicas=[replica],
        )
        _raise_first(outcomes(self.call(self._stub.RegisterFiles, pb.RegisterFilesRequest(files=[file])).statuses))

    def withdraw(self, guids: Sequence[UUID]) -> None:
        """Remove names, descriptions and keys; see the port."""
        response = self.call(self._stub.Remove, pb.RemoveRequest(targets=[pb.Target(guid=str(guid)) for guid in guids]))
        refuse_but(outcomes(response.statuses), NotFound)
        self._metadata.remove(self._names.collection(COLLECTION), [str(guid) for guid in guids])
        _raise_first(self._keys.destroy(guids).values())

    def named(self, guids: Sequence[UUID]) -> set[UUID]:
        """Return the files that the catalog has."""
        return set(self.sources(guids))


def _acl(message: acl_pb2.Acl) -> Acl:
    entries = tuple(AclEntry(entry.principal, Permission(entry.permissions)) for entry in message.entries)
    return Acl(UUID(message.id), message.owner, entries, message.rev)


def _raise_first(errors: Iterable[MdmError | None]) -> None:
    for error in errors:
        if isinstance(error, MdmError):
            raise error
