"""Fakes of a keystore, of access control lists and of metadata."""

from mdm.acl.v1 import acl_pb2, acl_pb2_grpc
from mdm.common.v1.common_pb2 import ItemStatus
from mdm.keystore.v1 import keystore_pb2, keystore_pb2_grpc
from mdm.metadata.v1 import metadata_pb2, metadata_pb2_grpc
from mdm_crypto import shamir
from mdm_wire.errors import Invalid
from mdm_wire.permission import canonical_principal


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
