"""Rights of users, as the catalog answers over mutual TLS."""

from uuid import UUID, uuid4

import pytest
from mdm.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from mdm.common.v1 import common_pb2
from mdm_dicom_srm.grid.catalog import CatalogAccess
from mdm_dicom_srm.stage.rules.port import PathKind
from mdm_testing import server as testing
from mdm_wire.errors import FailedPrecondition, NotFound, Unavailable
from mdm_wire.permission import Permission
from mdm_wire.retry import is_transient

pytestmark = pytest.mark.integration


class FakeCatalog(catalog_pb2_grpc.CatalogServiceServicer):
    """Lets the subject `CN=reader` read what is in `readable`; remembers what was asked."""

    def __init__(self):
        self.readable, self.asked = set(), []

    def CheckAccess(self, request, context):
        self.asked.append((request.subject, request.permissions))
        results = []
        for target in request.targets:
            allowed = request.subject == "CN=reader" and target.guid in self.readable
            results.append(catalog_pb2.AccessResult(status=common_pb2.ItemStatus(code=0 if allowed else 5), guid=target.guid))
        return catalog_pb2.CheckAccessResponse(results=results)

    def StatFor(self, request, context):
        entries = {"/vo/a": catalog_pb2.Entry(lfn="/vo/a", kind=catalog_pb2.ENTRY_KIND_DIRECTORY, permissions=32)}
        results = [
            catalog_pb2.EntryResult(entry=entries[target.lfn])
            if target.lfn in entries
            else catalog_pb2.EntryResult(status=common_pb2.ItemStatus(code=5))
            for target in request.targets
        ]
        return catalog_pb2.StatForResponse(results=results)

    def ListFor(self, request, context):
        if request.subject != "CN=reader":
            raise NotFound("ENTRY_NOT_FOUND", "none")
        for number in range(request.levels):
            entry = catalog_pb2.Entry(lfn=f"/vo/a/{number}", kind=catalog_pb2.ENTRY_KIND_FILE, guid=str(UUID(int=number)), size=7)
            yield catalog_pb2.ListForResponse(entries=[entry])


def serve(pki, catalog, roles):
    return testing.serve_in_process(
        pki.issue(pki.subject("catalog")),
        lambda server, _: catalog_pb2_grpc.add_CatalogServiceServicer_to_server(catalog, server.grpc),
        namespaces=(pki.namespace,),
        roles=roles,
    )


def test_only_what_the_user_may_read_is_returned(pki):
    catalog, good, bad = FakeCatalog(), uuid4(), uuid4()
    catalog.readable = {str(good)}
    identity = pki.issue(pki.subject("srm"))
    with (
        serve(pki, catalog, {"service.dicom-srm": (pki.subject("srm"),)}) as running,
        testing.channel(running.address, identity) as channel,
    ):
        access = CatalogAccess(channel)
        assert access.readable("CN=reader", [bad, good]) == {good}
        assert access.readable("CN=other", [bad, good]) == set()
    assert set(catalog.asked) == {("CN=reader", 4), ("CN=other", 4)}


def test_names_are_looked_up_on_behalf_of_the_user(pki):
    identity = pki.issue(pki.subject("srm"))
    with (
        serve(pki, FakeCatalog(), {"service.dicom-srm": (pki.subject("srm"),)}) as running,
        testing.channel(running.address, identity) as channel,
    ):
        access = CatalogAccess(channel)
        directory, none = access.stat("CN=reader", ["/vo/a", UUID(int=1)])
        assert (directory.kind, directory.permissions, directory.guid, none) == (PathKind.DIRECTORY, Permission.LIST, None, None)
        below = list(access.below("CN=reader", "/vo/a", 2))
        assert [(entry.lfn, entry.guid, entry.size) for entry in below] == [(f"/vo/a/{n}", UUID(int=n), 7) for n in range(2)]
        with pytest.raises(NotFound):
            list(access.below("CN=other", "/vo/a", 2))


def test_without_the_catalog_nothing_is_allowed_for_now(pki):
    with testing.channel("127.0.0.1:1", pki.issue(pki.subject("srm"))) as channel, pytest.raises(Unavailable, match="try again later"):
        CatalogAccess(channel, timeout=2).readable("CN=reader", [uuid4()])


def test_without_the_role_nothing_is_allowed_and_the_operator_learns_what_to_do(pki, caplog):
    asks = (lambda access: access.readable("CN=reader", [uuid4()]), lambda access: list(access.below("CN=reader", "/vo/a", 1)))
    with serve(pki, FakeCatalog(), {}) as running, testing.channel(running.address, pki.issue(pki.subject("srm"))) as channel:
        for ask in asks:
            with pytest.raises(FailedPrecondition, match="its operator has to mend that") as found:
                ask(CatalogAccess(channel))
            assert found.value.reason == "CATALOG_REFUSES" and not is_transient(found.value)
    assert [record.levelname for record in caplog.records if "role service.dicom-srm" in record.getMessage()] == ["ERROR"] * len(asks)
