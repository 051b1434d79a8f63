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
from mdm_wire.errors import Code, Conflict, Forbidden, Invalid, Unavailable, make_error
from mdm_wire.permission import Permission

GUID, ACL = uuid.uuid4(), uuid.uuid4()
OK, EXISTS = ItemStatus(), ItemStatus(code=6, reason="ACL_EXISTS", message="there already")
TAKEN = ItemStatus(code=6, reason="ACL_TAKEN", message="another owner")
ABSENT, FULL = ItemStatus(code=5, reason="NOT_FOUND", message="absent"), ItemStatus(code=9, reason="DIRECTORY_NOT_EMPTY", message="full")
DENIED, WRONG = ItemStatus(code=7, reason="DENIED", message="no"), ItemStatus(code=3, reason="WRONG", message="bad")


class Server(acl_pb2_grpc.AclServiceServicer, catalog_pb2_grpc.CatalogServiceServicer, metadata_pb2_grpc.MetadataServiceServicer):
    """Answers every item with the next of `statuses`, and remembers the request."""

    def __init__(self) -> None:
        self.statuses: list[ItemStatus] = [OK]
        self.request: Any = None
        self.requests: list[Any] = []
        self.entries: dict[str, catalog_pb2.Entry] = {}
        self.collections: list[metadata_pb2.Collection] = []

    def _answer(self, request: Any, items: Any, response: Any) -> Any:
        self.request = request
        self.requests.append(request)
        return response(statuses=[self.statuses[min(n, len(self.statuses) - 1)] for n in range(len(items))])

    def ListCollections(self, request: Any, context: Any) -> Any:
        return metadata_pb2.ListCollectionsResponse(collections=self.collections)

    def AlterCollection(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        return metadata_pb2.AlterCollectionResponse()

    def CreateAcls(self, request: Any, context: Any) -> Any:
        return self._answer(request, request.acls, acl_pb2.CreateAclsResponse)

    def MakeDirectories(self, request: Any, context: Any) -> Any:
        return self._answer(request, request.directories, catalog_pb2.MakeDirectoriesResponse)

    def RegisterFiles(self, request: Any, context: Any) -> Any:
        return self._answer(request, request.files, catalog_pb2.RegisterFilesResponse)

    def CreateCollections(self, request: Any, context: Any) -> Any:
        return self._answer(request, request.collections, metadata_pb2.CreateCollectionsResponse)

    def Stat(self, request: Any, context: Any) -> Any:
        results = [
            catalog_pb2.EntryResult(status=OK, entry=self.entries[target.guid])
            if target.guid in self.entries
            else catalog_pb2.EntryResult(status=ABSENT)
            for target in request.targets
        ]
        return catalog_pb2.StatResponse(results=results)

    def Rename(self, request: Any, context: Any) -> Any:
        return self._answer(request, request.renamings, catalog_pb2.RenameResponse)

    def AssignAcls(self, request: Any, context: Any) -> Any:
        return self._answer(request, request.assignments, catalog_pb2.AssignAclsResponse)

    def SetFileAttributes(self, request: Any, context: Any) -> Any:
        return self._answer(request, request.attributes, catalog_pb2.SetFileAttributesResponse)

    def Remove(self, request: Any, context: Any) -> Any:
        return self._answer(request, request.targets, catalog_pb2.RemoveResponse)

    def DeleteEntries(self, request: Any, context: Any) -> Any:
        return self._answer(request, request.keys, metadata_pb2.DeleteEntriesResponse)

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
    outcomes = catalog.register([File(GUID, "/a/b", "srm://here/1", ACL, 5), File(ACL, "/a/c", "srm://here/2", ACL, None)])
    assert outcomes[0] is None
    assert isinstance(outcomes[1], Invalid) and outcomes[1].reason == "WRONG"
    assert [(file.HasField("size"), file.size) for file in servicer.request.files] == [(True, 5), (False, 0)]
    (replica,) = servicer.request.files[0].replicas
    assert (replica.surl, replica.host, replica.status) == ("srm://here/1", "here", catalog_pb2.REPLICA_STATUS_AVAILABLE)


def test_a_file_that_is_elsewhere_gets_its_name_and_size_and_in_another_study_its_acl(server: tuple[Server, grpc.Channel]) -> None:
    servicer, channel = server
    servicer.entries = {str(GUID): catalog_pb2.Entry(lfn="/v/s/p/study/series/0001-x", size=4)}
    catalog = GridCatalog(channel, "here")
    assert catalog.replace([File(GUID, "/v/s/p/study/series/0002-x", "srm://here/1", ACL, 5)]) == [None]
    kinds = [type(request).__name__ for request in servicer.requests]
    assert kinds == ["RenameRequest", "SetFileAttributesRequest", "RegisterFilesRequest"]
    assert (servicer.requests[0].renamings[0].source.guid, servicer.requests[0].renamings[0].lfn) == (
        str(GUID),
        "/v/s/p/study/series/0002-x",
    )
    assert servicer.requests[1].attributes[0].size == 5
    servicer.requests.clear()
    assert catalog.replace([File(GUID, "/v/s/p/other/series/0001-x", "srm://here/1", ACL, 4)]) == [None]
    assert [type(request).__name__ for request in servicer.requests] == ["RenameRequest", "AssignAclsRequest", "RegisterFilesRequest"]
    assert servicer.requests[1].assignments[0].acl_id == str(ACL)


def test_a_file_that_cannot_be_renamed_is_not_registered_elsewhere(server: tuple[Server, grpc.Channel]) -> None:
    servicer, channel = server
    servicer.entries = {str(GUID): catalog_pb2.Entry(lfn="/v/s/p/study/series/0001-x", size=4)}
    servicer.statuses = [DENIED]
    [error] = GridCatalog(channel, "here").replace([File(GUID, "/v/s/p/study/series/0002-x", "srm://here/1", ACL, 4)])
    assert isinstance(error, Forbidden)
    assert [type(request).__name__ for request in servicer.requests] == ["RenameRequest"]


def test_what_is_absent_is_removed_and_what_is_full_is_left(server: tuple[Server, grpc.Channel]) -> None:
    servicer, channel = server
    catalog = GridCatalog(channel, "here")
    servicer.statuses = [OK, ABSENT]
    catalog.remove([GUID, ACL])
    servicer.statuses = [FULL, ABSENT]
    catalog.prune(["/a/b", "/a/b/c", "/a/b/d"])
    assert [[target.lfn for target in request.targets] for request in servicer.requests[1:]] == [["/a/b/c", "/a/b/d"], ["/a/b"]]
    assert catalog.lfns([GUID]) == {}
    servicer.statuses = [OK, ABSENT]
    GridMetadata(channel).remove("/c", ["a", "b"])
    catalog.set_sizes({GUID: 1, ACL: 2})
    servicer.statuses = [DENIED]
    for remove in (lambda: catalog.remove([GUID]), lambda: catalog.prune(["/a"]), lambda: GridMetadata(channel).remove("/c", ["k"])):
        with pytest.raises(Forbidden):
            remove()


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


def test_attributes_that_a_later_configuration_adds_are_added(server: tuple[Server, grpc.Channel]) -> None:
    servicer, channel = server
    servicer.statuses = [EXISTS]
    rows = metadata_pb2.Attribute(name="Rows", type=metadata_pb2.ATTRIBUTE_TYPE_INT)
    servicer.collections = [metadata_pb2.Collection(path="/biomed/x/images", attributes=[rows])]
    wanted = (Attribute("Rows", "int"), Attribute("KVP", "float"))
    GridMetadata(channel).ensure_collections([Collection("/biomed/x/images", wanted, ACL, ACL)])
    assert servicer.requests[-1].add_attribute.name == "KVP"
    with pytest.raises(Conflict):
        GridMetadata(channel).ensure_collections([Collection("/biomed/x/images", (Attribute("Rows", "float"), *wanted[1:]), ACL, ACL)])


def test_a_service_that_is_down_is_unavailable() -> None:
    with grpc.insecure_channel("127.0.0.1:1") as channel, pytest.raises(Unavailable):
        GridCatalog(channel, "here", timeout=5).register([File(GUID, "/a/b", "srm://here/1", ACL, 5)])


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
    GridKeys(FakeKeystoreClient(make_error(Code.ALREADY_EXISTS, "ACL_EXISTS", "x"))).ensure_acls(acl)  # type: ignore[arg-type]
    with pytest.raises(Unavailable):
        GridKeys(FakeKeystoreClient(make_error(Code.UNAVAILABLE, "X", "x"))).ensure_acls(acl)  # type: ignore[arg-type]


def test_keys_that_fail_say_why() -> None:
    keys = GridKeys(FakeKeystoreClient(make_error(Code.DEADLINE_EXCEEDED, "LATE", "late")))  # type: ignore[arg-type]
    (error,) = keys.create_keys([GUID], ACL).values()
    assert isinstance(error, Unavailable) and error.reason == "LATE"


class HeldKeys:
    """Keystores that hold of each GUID what they were given."""

    def __init__(self, **held: object) -> None:
        self.held = held

    def key_attributes(self, guids: Any) -> Any:
        return {name: dict.fromkeys(guids, answer) for name, answer in self.held.items()}

    def assign_acls(self, guids: Any, acl_id: Any) -> Any:
        return self.key_attributes(guids)

    def delete_keys(self, guids: Any) -> Any:
        return dict.fromkeys(guids, self.held["a"])


NO_KEY, DOWN, REFUSED = (
    make_error(Code.NOT_FOUND, "KEY_NOT_FOUND", "no such key"),
    make_error(Code.UNAVAILABLE, "DOWN", "down"),
    make_error(Code.PERMISSION_DENIED, "NO", "no"),
)


def test_a_key_is_missing_only_where_every_keystore_says_so() -> None:
    assert GridKeys(HeldKeys(a=NO_KEY, b=NO_KEY)).missing([GUID]) == {GUID}  # type: ignore[arg-type]
    assert GridKeys(HeldKeys(a=NO_KEY, b=object())).missing([GUID]) == set()  # type: ignore[arg-type]
    assert GridKeys(HeldKeys(a=DOWN, b=object())).missing([GUID]) == set()  # type: ignore[arg-type]
    with pytest.raises(Unavailable):
        GridKeys(HeldKeys(a=NO_KEY, b=DOWN)).missing([GUID])  # type: ignore[arg-type]


def test_a_key_that_is_gone_is_destroyed_and_one_that_cannot_be_is_told() -> None:
    assert GridKeys(HeldKeys(a=NO_KEY)).destroy([GUID]) == {GUID: None}  # type: ignore[arg-type]
    assert isinstance(GridKeys(HeldKeys(a=DOWN)).destroy([GUID])[GUID], Unavailable)  # type: ignore[arg-type]
    assert isinstance(GridKeys(HeldKeys(a=None, b=REFUSED)).move([GUID], ACL)[GUID], Forbidden)  # type: ignore[arg-type]
