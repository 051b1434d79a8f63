"""Rights as the catalog tells them over mutual TLS."""

from uuid import uuid4

import pytest
from mdm.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from mdm.common.v1 import common_pb2
from mdm_dicom_srm.grid.access import CatalogAccess
from mdm_testing import server as testing
from mdm_wire.errors import Unavailable

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


def test_without_the_role_or_the_catalog_nothing_is_allowed(pki):
    identity = pki.issue(pki.subject("srm"))
    with serve(pki, FakeCatalog(), {}) as running, testing.channel(running.address, identity) as channel, pytest.raises(Unavailable):
        CatalogAccess(channel).readable("CN=reader", [uuid4()])
    with testing.channel("127.0.0.1:1", identity) as channel, pytest.raises(Unavailable):
        CatalogAccess(channel, timeout=2).readable("CN=reader", [uuid4()])
