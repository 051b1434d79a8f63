"""Messages to catalog, metadata and keystores, and what their answers mean, over gRPC in this process."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from mdm.acl.v1 import acl_pb2, acl_pb2_grpc
from mdm.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from mdm.common.v1.common_pb2 import ItemStatus
from mdm.metadata.v1 import metadata_pb2, metadata_pb2_grpc
from mdm_dicom_srm.grid.catalog import GridCatalog
from mdm_dicom_srm.grid.keystore import GridKeys
from mdm_dicom_srm.grid.metadata import GridMetadata
from mdm_dicom_srm.register.rules.port import Attribute, Collection, Directory, Entry, File
from mdm_service.access.acl import Acl, AclEntry
from mdm_wire.errors import Conflict, Forbidden, Invalid, Unavailable, make_error
from mdm_wire.permission import Permission

GUID, ACL = uuid.uuid4(), uuid.uuid4()
OK, EXISTS = ItemStatus(), ItemStatus(code=6, reason="ACL_EXISTS", message="there already")
TAKEN = ItemStatus(code=6, reason="ACL_TAKEN", message="another owner")
DENIED, WRONG = ItemStatus(code=7, reason="DENIED", message="no"), ItemStatus(code=3, reason="WRONG", message="bad")


class Server(acl_pb2_grpc.AclServiceServicer, catalog_pb2_grpc.CatalogServiceServicer, metadata_pb2_grpc.MetadataServiceServicer):
    """Answers every item with the next of `statuses`, and remembers the request."""

    def __init__(self) -> None:
        self.statuses: list[ItemStatus] = [OK]
        self.request: Any = None

    def _answer(self, request: Any, items: Any, response: Any) -> Any:
        self.request = request
        return response(statuses=[self.statuses[min(n, len(self.statuses) - 1)] for n in range(len(items))])

    def CreateAcls(self, request: Any, context: Any) -> Any:
        return self._answer(request, request.acls, acl_pb2.CreateAclsResponse)

    def MakeDirectories(self, request: Any, context: Any) -> Any:
        return self._answer(request, request.directories, catalog_pb2.MakeDirectoriesResponse)

    def RegisterFiles(self, request: Any, context: Any) -> Any:
        return self._answer(request, request.files, catalog_pb2.RegisterFilesResponse)

    def CreateCollections(self, request: Any, context: Any) -> Any:
        return self._answer(request, request.collections, metadata_pb2.CreateCollectionsResponse)

    def UpsertEntries(self, request: Any, context: Any) -> Any:
        return self._answer(request, request.entries, metadata_pb2.UpsertEntriesResponse)


@pytest.fixture
def server() -> Iterator[tuple[Server, grpc.Channel]]:
    servicer = Server()
    with ThreadPoolExecutor(2) as executor:
        listener = grpc.server(executor)
        acl_pb2_grpc.add_AclServiceServicer_to_server(servicer, listener)
        catalog_pb2_grpc.add_CatalogServiceServicer_to_server(servicer, listener)
        metadata_pb2_grpc.add_MetadataServiceServicer_to_server(servicer, listener)
        port = listener.add_insecure_port("127.0.0.1:0")
        listener.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield servicer, channel
        listener.stop(None).wait()


def test_an_acl_that_exists_already_is_left_as_it_is(server: tuple[Server, grpc.Channel]) -> None:
    servicer, channel = server
    servicer.statuses = [OK, EXISTS]
    GridCatalog(channel, "here").ensure_acls([Acl(ACL, "", (AclEntry("authenticated", Permission.READ),)), Acl(GUID, "")])
    sent = servicer.request.acls[0]
    assert (sent.id, sent.owner, sent.entries[0].principal, sent.entries[0].permissions) == (str(ACL), "", "authenticated", 4)


def test_an_acl_that_somebody_else_made_under_our_id_is_an_error(server: tuple[Server, grpc.Channel]) -> None:
    servicer, channel = server
    servicer.statuses = [EXISTS, TAKEN]
    with pytest.raises(Conflict, match="another owner"):
        GridMetadata(channel).ensure_acls([Acl(ACL, ""), Acl(GUID, "")])


def test_an_acl_that_is_refused_is_an_error(server: tuple[Server, grpc.Channel]) -> None:
    servicer, channel = server
    servicer.statuses = [OK, DENIED]
    with pytest.raises(Forbidden, match="no"):
        GridMetadata(channel).ensure_acls([Acl(ACL, ""), Acl(GUID, "")])


def test_files_are_registered_with_one_available_replica(server: tuple[Server, grpc.Channel]) -> None:
    servicer, channel = server
    servicer.statuses = [OK, WRONG]
    catalog = GridCatalog(channel, "here")
    outcomes = catalog.register([File(GUID, "/a/b", "srm://here/1"), File(ACL, "/a/c", "srm://here/2")])
    assert outcomes[0] is None
    assert isinstance(outcomes[1], Invalid) and outcomes[1].reason == "WRONG"
    (replica,) = servicer.request.files[0].replicas
    assert (replica.surl, replica.host, replica.status) == ("srm://here/1", "here", catalog_pb2.REPLICA_STATUS_AVAILABLE)


def test_directories_are_made_with_what_is_missing_above(server: tuple[Server, grpc.Channel]) -> None:
    servicer, channel = server
    GridCatalog(channel, "here").ensure_directories([Directory("/a", ACL), Directory("/a/b")])
    assert servicer.request.parents
    assert [(item.lfn, item.acl_id) for item in servicer.request.directories] == [("/a", str(ACL)), ("/a/b", "")]
    servicer.statuses = [DENIED]
    with pytest.raises(Forbidden):
        GridCatalog(channel, "here").ensure_directories([Directory("/a", ACL)])


def test_values_travel_in_their_types(server: tuple[Server, grpc.Channel]) -> None:
    servicer, channel = server
    values = {"a": None, "b": 3, "c": 1.5, "d": "x", "e": True}
    assert GridMetadata(channel).upsert("/c", [Entry("k", ACL, values)]) == [None]
    sent = servicer.request.entries[0].values
    assert [sent[name].WhichOneof("kind") for name in "abcde"] == [None, "int", "float", "text", "bool"]


def test_a_collection_of_another_site_above_ours_is_no_error_but_one_of_ours_is(server: tuple[Server, grpc.Channel]) -> None:
    servicer, channel = server
    servicer.statuses = [EXISTS]
    metadata = GridMetadata(channel)
    metadata.ensure_collections([Collection("/biomed", (), ACL, ACL)])
    with pytest.raises(Conflict):
        metadata.ensure_collections([Collection("/biomed/x/images", (Attribute("Rows", "int"),), ACL, ACL)])


def test_a_service_that_is_down_is_unavailable() -> None:
    with grpc.insecure_channel("127.0.0.1:1") as channel, pytest.raises(Unavailable):
        GridCatalog(channel, "here", timeout=5).register([File(GUID, "/a/b", "srm://here/1")])


class FakeKeystoreClient:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def create_acls(self, acls: Any) -> Any:
        return {"a": {ACL: None}, "b": {ACL: self.answer}}

    def create_keys(self, guids: Any, acl_id: Any) -> Any:
        return dict.fromkeys(guids, self.answer)


def test_every_keystore_must_have_the_acl() -> None:
    acl = [Acl(ACL, "")]
    GridKeys(FakeKeystoreClient(None)).ensure_acls(acl)  # type: ignore[arg-type]
    GridKeys(FakeKeystoreClient(make_error(grpc.StatusCode.ALREADY_EXISTS, "ACL_EXISTS", "x"))).ensure_acls(acl)  # type: ignore[arg-type]
    with pytest.raises(Unavailable):
        GridKeys(FakeKeystoreClient(make_error(grpc.StatusCode.UNAVAILABLE, "X", "x"))).ensure_acls(acl)  # type: ignore[arg-type]


def test_keys_that_fail_say_why() -> None:
    keys = GridKeys(FakeKeystoreClient(make_error(grpc.StatusCode.DEADLINE_EXCEEDED, "LATE", "late")))  # type: ignore[arg-type]
    (error,) = keys.create_keys([GUID], ACL).values()
    assert isinstance(error, Unavailable) and error.reason == "LATE"
