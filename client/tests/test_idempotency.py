"""A call is sent as often as its method declares: every method declares it, and what is not idempotent runs once."""

import pkgutil
import socket
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import grpc
import mdm
import pytest
from google.protobuf.descriptor_pb2 import MethodOptions
from mdm.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from mdm.metadata.v1 import metadata_pb2 as pb
from mdm.metadata.v1 import metadata_pb2_grpc
from mdm_client.metadata.client import Entry, MetadataClient
from mdm_wire.channel import open_channel
from mdm_wire.errors import Unavailable
from mdm_wire.retry import RetryPolicy, is_idempotent

DEAD = "127.0.0.1:1"
POLICY = RetryPolicy(call_seconds=5, retry_seconds=2)


def _methods():
    for info in pkgutil.walk_packages(mdm.__path__, "mdm."):
        if info.name.endswith("_pb2"):
            for service in import_module(info.name).DESCRIPTOR.services_by_name.values():
                yield from service.methods


def test_every_method_declares_whether_it_may_be_repeated():
    methods = list(_methods())
    assert len(methods) > 60
    assert [method.full_name for method in methods if not method.GetOptions().HasField("idempotency_level")] == []


def test_what_only_looks_has_no_side_effects_and_what_takes_is_not_idempotent():
    level = {method.full_name: method.GetOptions().idempotency_level for method in _methods()}
    looking = ("Get", "List", "Find", "Stat", "Resolve", "Check", "Query", "Explain", "Report")
    for name, declared in level.items():
        if name.rpartition(".")[2].startswith(looking) and not name.endswith("GetShares"):  # each release of a share is audited
            assert declared == MethodOptions.NO_SIDE_EFFECTS, name
    assert not any(
        is_idempotent(f"/mdm.{name}")
        for name in (
            "metadata.v1.MetadataService/TakeNumbers",
            "metadata.v1.MetadataService/Change",
            "metadata.v1.MetadataService/UpsertEntries",
            "catalog.v1.CatalogService/Apply",
            "catalog.v1.CatalogService/Rename",
            "srm.v1.SrmService/PrepareToGet",
            "none.v1.NoService/None",
        )
    )
    assert is_idempotent("/mdm.catalog.v1.CatalogService/Stat")


class Dropping(metadata_pb2_grpc.MetadataServiceServicer, catalog_pb2_grpc.CatalogServiceServicer):
    """Does what it is asked, and then reports what a client sees of a connection that breaks before the answer."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def _done(self, method, context):
        self.done.append(method)
        context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    def TakeNumbers(self, request, context):
        self._done("TakeNumbers", context)

    def Change(self, request, context):
        self._done("Change", context)

    def UpsertEntries(self, request, context):
        self._done("UpsertEntries", context)

    def AlterCollection(self, request, context):
        self._done("AlterCollection", context)

    def CreateSequence(self, request, context):
        self._done("CreateSequence", context)

    def ListSequences(self, request, context):
        self._done("ListSequences", context)

    def Rename(self, request, context):
        self._done("Rename", context)

    def Stat(self, request, context):
        self._done("Stat", context)


@pytest.fixture
def dropping(pki):
    """A servicer, and two addresses where it listens."""
    servicer = Dropping()
    identity = pki.issue(pki.subject("metadata"))
    credentials = grpc.ssl_server_credentials(
        [(identity.key.read_bytes(), identity.certificate.read_bytes())], identity.ca.read_bytes(), require_client_auth=True
    )
    servers, addresses = [], []
    for _ in range(2):
        server = grpc.server(ThreadPoolExecutor(4))
        metadata_pb2_grpc.add_MetadataServiceServicer_to_server(servicer, server)
        catalog_pb2_grpc.add_CatalogServiceServicer_to_server(servicer, server)
        addresses.append(f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}")
        server.start()
        servers.append(server)
    yield servicer, addresses
    for server in servers:
        server.stop(0)


CALLS = {
    "TakeNumbers": lambda client: client.sequences.take("/c", "s"),
    "Change": lambda client: client.entries.change("UPDATE c SET a = a + 1 LIMIT 1"),
    "UpsertEntries": lambda client: client.entries.upsert("/c", [Entry("k", {"a": 1})]),
    "AlterCollection": lambda client: client.collections.alter("/c", min_cell=3),
    "CreateSequence": lambda client: client.sequences.create("/c", "s", 1, 1),
}


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("method", CALLS)
def test_what_is_not_idempotent_runs_once_though_its_answer_is_lost(dropping, pki, method, number):
    servicer, addresses = dropping
    with open_channel(addresses[:number], pki.issue(pki.subject("alice"))) as channel:
        with pytest.raises(Unavailable, match="it may have been done"):
            CALLS[method](MetadataClient(channel, POLICY))
        assert servicer.done == [method]


@pytest.mark.parametrize("number", [1, 2])
def test_what_is_idempotent_is_repeated(dropping, pki, number):
    servicer, addresses = dropping
    with open_channel(addresses[:number], pki.issue(pki.subject("alice"))) as channel:
        with pytest.raises(Unavailable):
            MetadataClient(channel, POLICY).sequences.of_collection("/c")
        assert len(servicer.done) > 1


def test_a_bare_stub_on_several_addresses_follows_the_same_rule(dropping, pki):
    servicer, addresses = dropping
    with open_channel(addresses, pki.issue(pki.subject("alice"))) as channel:
        stub = catalog_pb2_grpc.CatalogServiceStub(channel)
        with pytest.raises(grpc.RpcError):
            stub.Rename(catalog_pb2.RenameRequest(), timeout=5)
        assert servicer.done == ["Rename"]
        with pytest.raises(grpc.RpcError):
            stub.Stat(catalog_pb2.StatRequest(), timeout=5)
        assert servicer.done == ["Rename", "Stat", "Stat"]


def test_an_address_that_refuses_the_connection_is_passed_over_before_anything_is_sent(dropping, pki):
    servicer, addresses = dropping
    with open_channel([DEAD, addresses[0]], pki.issue(pki.subject("alice"))) as channel:
        for _ in range(3):
            with pytest.raises(Unavailable):
                MetadataClient(channel, POLICY).sequences.take("/c", "s")
        assert servicer.done == ["TakeNumbers"] * 3


def test_a_call_that_is_sent_once_waits_for_a_service_that_is_starting(pki):
    identity = pki.issue(pki.subject("metadata"))
    credentials = grpc.ssl_server_credentials(
        [(identity.key.read_bytes(), identity.certificate.read_bytes())], identity.ca.read_bytes(), require_client_auth=True
    )
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]

    class Taking(metadata_pb2_grpc.MetadataServiceServicer):
        def TakeNumbers(self, request, context):
            return pb.TakeNumbersResponse(first=7, step=1)

    with open_channel([f"127.0.0.1:{port}"], pki.issue(pki.subject("alice"))) as channel, ThreadPoolExecutor(1) as executor:
        taken = executor.submit(MetadataClient(channel, RetryPolicy(5, 8)).sequences.take, "/c", "s")
        with pytest.raises(TimeoutError):
            taken.result(timeout=0.5)
        server = grpc.server(ThreadPoolExecutor(1))
        metadata_pb2_grpc.add_MetadataServiceServicer_to_server(Taking(), server)
        assert server.add_secure_port(f"127.0.0.1:{port}", credentials) == port
        server.start()
        assert taken.result(timeout=8) == range(7, 8)
        server.stop(0)
