"""A grid of fakes: the generated servicers over real mutual TLS, with contents and faults that a test chooses."""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import grpc
from mdm.acl.v1 import acl_pb2, acl_pb2_grpc
from mdm.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from mdm.common.v1.common_pb2 import ItemStatus
from mdm.keystore.v1 import keystore_pb2, keystore_pb2_grpc
from mdm.metadata.v1 import metadata_pb2, metadata_pb2_grpc
from mdm.srm.v1 import registration_pb2, registration_pb2_grpc, srm_pb2, srm_pb2_grpc, transfer_pb2, transfer_pb2_grpc
from mdm_crypto import shamir, stream
from mdm_service import policy
from mdm_testing.server import serve_in_process
from mdm_wire import dn
from mdm_wire.errors import Invalid, NotFound
from mdm_wire.permission import canonical_principal

SITE = "hospital-a"
CHUNK = 64 * 1024
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


class FakeCatalog(catalog_pb2_grpc.CatalogServiceServicer):
    def __init__(self) -> None:
        self.images: dict[str, Image] = {}
        self._by_guid: dict[str, Image] = {}
        self.subtree = catalog_pb2.ListSubtreeAclsResponse()

    def find(self, target: catalog_pb2.Target) -> Image | None:
        if target.lfn:
            return self.images.get(target.lfn)
        if len(self._by_guid) != len(self.images):
            self._by_guid = {str(image.guid): image for image in self.images.values()}
        if target.guid:
            return self._by_guid.get(target.guid)
        return self._by_guid.get(target.surl.rpartition("/")[2])

    def directories(self) -> set[str]:
        found = {"/"}
        for lfn in self.images:
            parts = lfn.split("/")
            found |= {"/".join(parts[:n]) for n in range(2, len(parts))}
        return found

    def entry(self, image: Image, replicas: bool) -> catalog_pb2.Entry:
        entry = catalog_pb2.Entry(
            lfn=image.lfn, kind=catalog_pb2.ENTRY_KIND_FILE, guid=str(image.guid), owner="CN=dicom-srm", permissions=0b1110100
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
            elif target.lfn in self.directories():
                entry = catalog_pb2.Entry(lfn=target.lfn, kind=catalog_pb2.ENTRY_KIND_DIRECTORY, permissions=112)
                response.results.append(catalog_pb2.EntryResult(entry=entry))
            else:
                response.results.append(catalog_pb2.EntryResult(status=NOT_FOUND))
        return response

    def Resolve(self, request, context):
        response = catalog_pb2.ResolveResponse()
        for target in request.targets:
            image = self.find(target)
            if image is None or not image.readable:
                response.results.append(catalog_pb2.ResolveResult(status=NOT_FOUND))
            else:
                response.results.append(catalog_pb2.ResolveResult(guid=str(image.guid), lfn=image.lfn, surls=[image.surl]))
        return response

    def List(self, request, context):
        if request.lfn not in self.directories():
            raise NotFound("NOT_FOUND", "No such directory, or it is not for you.")
        prefix = request.lfn.rstrip("/") + "/"
        entries = [self.entry(image, request.with_replicas) for image in self.images.values()]
        entries += [catalog_pb2.Entry(lfn=lfn, kind=catalog_pb2.ENTRY_KIND_DIRECTORY) for lfn in self.directories()]
        below = [e for e in entries if e.lfn.startswith(prefix) and e.lfn != "/" and e.lfn > request.after]
        if not request.recursive:
            below = [e for e in below if "/" not in e.lfn.removeprefix(prefix)]
        for entry in sorted(below, key=lambda e: e.lfn):
            yield catalog_pb2.ListResponse(entries=[entry])

    def ListSubtreeAcls(self, request, context):
        return self.subtree

    def ModifySubtreeAcls(self, request, context):
        response = catalog_pb2.ModifySubtreeAclsResponse(hidden=self.subtree.hidden)
        for item in self.subtree.acls:
            result = response.results.add(subtree_acl=item)
            if item.shared_outside and not request.include_shared:
                result.status.CopyFrom(ItemStatus(code=9, reason="ACL_SHARED", message="It guards something outside too."))
                continue
            changed = self.acls.ModifyAcls(acl_pb2.ModifyAclsRequest(ids=[item.acl_id], changes=request.changes), context)
            result.status.CopyFrom(changed.results[0].status)
            result.acl.CopyFrom(changed.results[0].acl)
        return response


class FakeSrm(srm_pb2_grpc.SrmServiceServicer, transfer_pb2_grpc.TransferServiceServicer):
    def __init__(self, catalog: FakeCatalog) -> None:
        self.catalog = catalog
        self.requests: dict[str, list[str]] = {}
        self.asked: dict[str, int] = {}
        self.released: list[str] = []
        self.aborted: list[str] = []
        self.offsets: list[int] = []
        self.hold = threading.Event()

    def image(self, surl: str) -> Image | None:
        return self.catalog.find(catalog_pb2.Target(surl=surl))

    def PrepareToGet(self, request, context):
        token = uuid4().hex
        self.requests[token] = list(request.surls)
        response = srm_pb2.PrepareToGetResponse(token=token, status=srm_pb2.STATUS_CODE_REQUEST_QUEUED)
        for surl in request.surls:
            self.asked[surl] = self.asked.get(surl, 0) + 1
            response.files.append(srm_pb2.FileStatus(surl=surl, status=srm_pb2.STATUS_CODE_REQUEST_QUEUED))
        return response

    def WatchGetRequest(self, request, context):
        surls = self.requests[request.token]
        queued = [srm_pb2.FileStatus(surl=s, status=srm_pb2.STATUS_CODE_REQUEST_QUEUED) for s in surls]
        yield srm_pb2.WatchGetRequestResponse(files=queued)
        for surl in sorted(surls, key=lambda surl: self.image(surl).held):
            image = self.image(surl)
            while image.held and not self.hold.wait(0.05):
                if not context.is_active():
                    return
            state = image.states[min(self.asked[surl], len(image.states)) - 1]
            turl = f"mdm+grpc://{SITE}/{request.token}/{image.guid}" if state == PINNED else ""
            status = srm_pb2.FileStatus(surl=surl, status=state, turl=turl, size=len(image.ciphertext), guid=str(image.guid))
            yield srm_pb2.WatchGetRequestResponse(files=[status])

    def ReleaseFiles(self, request, context):
        self.released.append(request.token)
        return srm_pb2.ReleaseFilesResponse()

    def AbortRequest(self, request, context):
        self.aborted.append(request.token)
        return srm_pb2.AbortRequestResponse()

    def Read(self, request, context):
        image = self.catalog.find(catalog_pb2.Target(guid=request.turl.rpartition("/")[2]))
        if image.read_failures:
            raise image.read_failures.pop(0)
        self.offsets.append(request.offset)
        stop = image.breaks.pop(0) if image.breaks else None
        for start in range(request.offset, len(image.ciphertext), CHUNK):
            if stop is not None and start >= stop:
                context.abort(grpc.StatusCode.UNAVAILABLE, "Connection reset by peer")
            yield transfer_pb2.ReadResponse(data=image.ciphertext[start : start + CHUNK])


class FakeRegistration(registration_pb2_grpc.RegistrationServiceServicer):
    def __init__(self) -> None:
        self.counts = [{4: 7, 1: 3}, {4: 10}]
        self.watched: set[str] = set()

    def RegisterStudies(self, request, context):
        return registration_pb2.RegisterStudiesResponse(
            results=[registration_pb2.StudyResult(queued=3, known=1) for _ in request.study_instance_uids]
        )

    def GetRegistrationSummary(self, request, context):
        self.watched |= set(request.study_instance_uids)
        counts = self.counts.pop(0) if len(self.counts) > 1 else self.counts[0]
        return registration_pb2.GetRegistrationSummaryResponse(
            counts=[registration_pb2.StateCount(state=state, count=count) for state, count in counts.items()]
        )


class FakeKeystore(keystore_pb2_grpc.KeystoreServiceServicer):
    def __init__(self, name: str, index: int) -> None:
        self.name, self.index = name, index
        self.shares: dict[str, shamir.Share] = {}

    def GetServerInfo(self, request, context):
        return keystore_pb2.GetServerInfoResponse(name=self.name, share_index=self.index)

    def GetShares(self, request, context):
        response = keystore_pb2.GetSharesResponse()
        for guid in request.guids:
            share = self.shares.get(guid)
            if share is None:
                status = ItemStatus(code=5, reason="KEY_NOT_FOUND", message="No such key, or it is not for you.")
                response.results.append(keystore_pb2.ShareResult(status=status))
                continue
            message = keystore_pb2.Share(
                guid=guid,
                epoch=share.epoch,
                x=share.x,
                value=share.value,
                commitments=share.commitments,
                threshold=share.threshold,
                total=share.total,
            )
            response.results.append(keystore_pb2.ShareResult(share=message))
        return response


class FakeAcls(acl_pb2_grpc.AclServiceServicer):
    def __init__(self) -> None:
        self.acls: dict[str, dict[str, int]] = {}
        self.owners: dict[str, str] = {}
        self.failing = 0

    def _result(self, acl_id: str) -> acl_pb2.AclResult:
        if acl_id not in self.acls:
            return acl_pb2.AclResult(status=ItemStatus(code=5, reason="ACL_NOT_FOUND", message="No such ACL."))
        entries = [acl_pb2.AclEntry(principal=p, permissions=b) for p, b in self.acls[acl_id].items()]
        return acl_pb2.AclResult(acl=acl_pb2.Acl(id=acl_id, owner=self.owners.get(acl_id, "CN=dicom-srm"), entries=entries))

    def GetAcls(self, request, context):
        return acl_pb2.GetAclsResponse(results=[self._result(acl_id) for acl_id in request.ids])

    def ModifyAcls(self, request, context):
        if self.failing:
            self.failing -= 1
            raise RuntimeError("a defect")
        for acl_id in request.ids:
            for change in request.changes:
                entries = self.acls.get(acl_id, {})
                principal, bits = canonical_principal(change.entry.principal), change.entry.permissions
                granted = entries.get(principal, 0)
                entries[principal] = {1: granted | bits, 2: granted & ~bits, 3: bits, 4: granted}[change.action]
                if change.action == acl_pb2.AclChange.ACTION_SET_OWNER:
                    self.owners[acl_id] = principal.removeprefix("dn:")
        return acl_pb2.ModifyAclsResponse(results=[self._result(acl_id) for acl_id in request.ids])


class FakeMetadata(metadata_pb2_grpc.MetadataServiceServicer):
    def __init__(self) -> None:
        self.columns: list[tuple[str, int, str]] = []
        self.batches: list[metadata_pb2.RowBatch] = []
        self.headerless = False

    def Query(self, request, context):
        if not request.sql.upper().startswith("SELECT"):
            raise Invalid("SQL_NOT_SELECT", "Only one SELECT is accepted.")
        columns = [metadata_pb2.ResultColumn(name=n, type=t, unit=u) for n, t, u in self.columns]
        if not self.headerless:
            yield metadata_pb2.QueryResponse(header=metadata_pb2.QueryHeader(columns=columns))
        for batch in self.batches:
            yield metadata_pb2.QueryResponse(rows=batch)


class FakeGrid:
    """Everything a client talks to."""

    def __init__(self, pki, folder: Path) -> None:
        self.pki, self.folder = pki, folder
        self.catalog = FakeCatalog()
        self.srm = FakeSrm(self.catalog)
        self.registration = FakeRegistration()
        self.metadata = FakeMetadata()
        self.keystores = [FakeKeystore(name, index) for index, name in enumerate("abc", 1)]
        self.acls = {place: FakeAcls() for place in ("catalog", "metadata", "a", "b", "c")}
        self.catalog.acls = self.acls["catalog"]
        self.addresses: dict[str, str] = {}
        self.alice = pki.issue(pki.subject("alice"))

    def add(self, lfn: str, plaintext: bytes, **changes) -> Image:
        """Put an image everywhere; changes are applied last."""
        image = Image(lfn, plaintext)
        shares = shamir.split(None, 2, 3, image.guid)
        for keystore, share in zip(self.keystores, shares, strict=True):
            keystore.shares[str(image.guid)] = share
        key = shamir.file_key(shamir.combine(shares[:2]), image.guid, shares[0].epoch)
        image.ciphertext = stream.encrypt(key, image.guid.bytes, [plaintext])
        image.surl = f"srm://{SITE}/{image.guid}"
        for name, value in changes.items():
            setattr(image, name, value)
        self.catalog.images[lfn] = image
        return image

    def config(self, identity=None, **changes: str) -> Path:
        """Write a client configuration and return its path."""
        tls = identity or self.alice
        addresses = {**self.addresses, **changes}
        keystores = "".join(
            f'[[keystores]]\nname = "{name}"\nindex = {index}\naddresses = ["{addresses[name]}"]\n' for index, name in enumerate("abc", 1)
        )
        file = self.folder / f"client-{uuid4().hex[:6]}.toml"
        file.write_text(
            f'certificate = "{tls.certificate}"\nkey = "{tls.key}"\nca = "{changes.get("ca", tls.ca)}"\n'
            f'catalog = ["{addresses["catalog"]}"]\nmetadata = ["{addresses["metadata"]}"]\nthreshold = 2\n'
            f'{keystores}[srm]\n{SITE} = ["{addresses["catalog"]}"]\n'
        )
        return file

    @contextlib.contextmanager
    def serving(self) -> Iterator["FakeGrid"]:
        identity = self.pki.issue(self.pki.subject("fake-server"))
        with contextlib.ExitStack() as stack, ThreadPoolExecutor(1):
            for place in self.acls:
                running = stack.enter_context(
                    serve_in_process(
                        identity,
                        lambda server, _, place=place: self._register(server.grpc, place),
                        namespaces=(self.pki.namespace,),
                        roles={policy.OPERATOR: (dn.canonical(self.pki.subject("operator")),)},
                    )
                )
                self.addresses[place] = running.address
            yield self

    def _register(self, server: grpc.Server, place: str) -> None:
        acl_pb2_grpc.add_AclServiceServicer_to_server(self.acls[place], server)
        if place == "catalog":
            catalog_pb2_grpc.add_CatalogServiceServicer_to_server(self.catalog, server)
            srm_pb2_grpc.add_SrmServiceServicer_to_server(self.srm, server)
            transfer_pb2_grpc.add_TransferServiceServicer_to_server(self.srm, server)
            registration_pb2_grpc.add_RegistrationServiceServicer_to_server(self.registration, server)
        elif place == "metadata":
            metadata_pb2_grpc.add_MetadataServiceServicer_to_server(self.metadata, server)
        else:
            keystore = next(k for k in self.keystores if k.name == place)
            keystore_pb2_grpc.add_KeystoreServiceServicer_to_server(keystore, server)
