"""A fake catalog, with contents and faults that a test chooses, and its files."""

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from uuid import UUID, uuid4

from mdm.acl.v1 import acl_pb2
from mdm.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from mdm.common.v1.common_pb2 import ItemStatus
from mdm.srm.v1 import srm_pb2
from mdm_wire.errors import NotFound

SITE = "hospital-a"
NOT_FOUND = ItemStatus(code=5, reason="NOT_FOUND", message="No such file, or it is not for you.")
PINNED = srm_pb2.STATUS_CODE_FILE_PINNED


@dataclass
class Image:
    """A file of the fake grid."""

    lfn: str
    plaintext: bytes
    guid: UUID = field(default_factory=uuid4)
    ciphertext: bytes = b""
    surl: str = ""
    states: list[int] = field(default_factory=lambda: [PINNED])  # one per request that asks for it; the last one stays
    breaks: list[int] = field(default_factory=list)  # offsets at which successive reads break
    read_failures: list[Exception] = field(default_factory=list)  # what successive reads answer instead
    readable: bool = True
    held: bool = False  # stays in progress until the site's `hold` is set
    size: int | None = None  # what the catalog knows
    sha256: bytes = b""


class FakeCatalog(catalog_pb2_grpc.CatalogServiceServicer):
    def __init__(self) -> None:
        self.images: dict[str, Image] = {}
        self.links: dict[str, str] = {}  # absolute targets; a target is no link itself
        self._by_guid: dict[str, Image] = {}
        self.subtree = catalog_pb2.ListSubtreeAclsResponse()

    def find(self, target: catalog_pb2.Target) -> Image | None:
        if target.lfn:
            return self.images.get(self.real(target.lfn))
        if len(self._by_guid) != len(self.images):
            self._by_guid = {str(image.guid): image for image in self.images.values()}
        if target.guid:
            return self._by_guid.get(target.guid)
        return self._by_guid.get(target.surl.rpartition("/")[2])

    def real(self, lfn: str) -> str:
        """Return a path with the first link on it followed."""
        for link, target in self.links.items():
            if lfn == link or lfn.startswith(f"{link}/"):
                return target + lfn.removeprefix(link)
        return lfn

    def directories(self) -> set[str]:
        found = {"/"}
        for lfn in (*self.images, *self.links):
            parts = lfn.split("/")
            found |= {"/".join(parts[:n]) for n in range(2, len(parts))}
        return found

    def entry(self, image: Image, replicas: bool) -> catalog_pb2.Entry:
        entry = catalog_pb2.Entry(
            lfn=image.lfn,
            kind=catalog_pb2.ENTRY_KIND_FILE,
            guid=str(image.guid),
            owner="CN=dicom-srm",
            permissions=0b1110100,
            size=image.size,
            sha256=image.sha256,
        )
        if replicas:
            entry.replicas.append(catalog_pb2.Replica(surl=image.surl))
        return entry

    def Stat(self, request, context):
        response = catalog_pb2.StatResponse()
        for target in request.targets:
            image = self.find(target)
            if image:
                response.results.append(catalog_pb2.EntryResult(entry=self.entry(image, request.with_replicas)))
            elif self.real(target.lfn) in self.directories():
                entry = catalog_pb2.Entry(lfn=self.real(target.lfn), kind=catalog_pb2.ENTRY_KIND_DIRECTORY, permissions=112)
                response.results.append(catalog_pb2.EntryResult(entry=entry))
            else:
                response.results.append(catalog_pb2.EntryResult(status=NOT_FOUND))
        return response

    def Resolve(self, request, context):
        response = catalog_pb2.ResolveResponse()
        for target in request.targets:
            image = self.find(target)
            if target.lfn and self.real(target.lfn) in self.directories():
                status = ItemStatus(code=9, reason="NOT_A_FILE", message="This is not a file.")
                response.results.append(catalog_pb2.ResolveResult(status=status))
            elif image is None or not image.readable:
                response.results.append(catalog_pb2.ResolveResult(status=NOT_FOUND))
            else:
                response.results.append(catalog_pb2.ResolveResult(guid=str(image.guid), lfn=image.lfn, surls=[image.surl]))
        return response

    def List(self, request, context):
        yield from (catalog_pb2.ListResponse(entries=[e]) for e in self._below(request, request.recursive))

    def Find(self, request, context):
        depth = request.max_depth + request.lfn.rstrip("/").count("/")
        for entry in self._below(request, recursive=True):
            name = entry.lfn.rpartition("/")[2]
            if fnmatchcase(name, request.name_pattern or "*") and (not request.max_depth or entry.lfn.count("/") <= depth):
                yield catalog_pb2.FindResponse(entries=[entry])

    def _below(self, request, recursive: bool) -> list[catalog_pb2.Entry]:
        real = self.real(request.lfn)
        if real not in self.directories():
            raise NotFound("NOT_FOUND", "No such directory, or it is not for you.")
        prefix, asked = real.rstrip("/") + "/", request.lfn.rstrip("/") + "/"
        entries = [self.entry(image, request.with_replicas) for image in self.images.values()]
        entries += [catalog_pb2.Entry(lfn=lfn, kind=catalog_pb2.ENTRY_KIND_SYMLINK) for lfn in self.links]
        entries += [catalog_pb2.Entry(lfn=lfn, kind=catalog_pb2.ENTRY_KIND_DIRECTORY) for lfn in self.directories()]
        below = [e for e in entries if e.lfn.startswith(prefix) and e.lfn != "/"]
        if not recursive:
            below = [e for e in below if "/" not in e.lfn.removeprefix(prefix)]
        for entry in below:
            entry.lfn = asked + entry.lfn.removeprefix(prefix)
        return sorted((e for e in below if e.lfn > request.after), key=lambda e: e.lfn)

    def ListSubtreeAcls(self, request, context):
        return self.subtree

    def ModifySubtreeAcls(self, request, context):
        response = catalog_pb2.ModifySubtreeAclsResponse(hidden=self.subtree.hidden)
        for item in self.subtree.acls:
            result = response.results.add(subtree_acl=item)
            if item.outside and not request.shared:
                result.status.CopyFrom(
                    ItemStatus(code=9, reason="ACL_SHARED", message="This list guards 1 other object too: --own, --shared.")
                )
                continue
            changed = self.acls.ModifyAcls(acl_pb2.ModifyAclsRequest(ids=[item.acl_id], changes=request.changes), context)
            result.status.CopyFrom(changed.results[0].status)
            result.acl.CopyFrom(changed.results[0].acl)
        return response
