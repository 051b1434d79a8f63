"""The method policy covers exactly the methods that exist."""

import importlib

import pytest
from mdm_service import policy

CONTRACTS = [
    "mdm.acl.v1.acl_pb2",
    "mdm.delegation.v1.delegation_pb2",
    "mdm.keystore.v1.keystore_pb2",
    "mdm.keystore.v1.admin_pb2",
    "mdm.keystore.v1.peer_pb2",
    "mdm.catalog.v1.catalog_pb2",
    "mdm.metadata.v1.metadata_pb2",
    "mdm.metadata.v1.feed_pb2",
    "mdm.srm.v1.srm_pb2",
    "mdm.srm.v1.transfer_pb2",
    "mdm.srm.v1.registration_pb2",
    "mdm.srm.v1.curator_pb2",
    "mdm.srm.v1.site_pb2",
    "mdm.srm.v1.result_pb2",
    "grpc_health.v1.health_pb2",
    "grpc_reflection.v1alpha.reflection_pb2",
]


def methods_of(contract: str) -> set[str]:
    file = importlib.import_module(contract).DESCRIPTOR
    return {f"/{service.full_name}/{method.name}" for service in file.services_by_name.values() for method in service.methods}


def test_every_method_has_a_row_and_every_row_a_method():
    assert set().union(*(methods_of(contract) for contract in CONTRACTS)) == set(policy.POLICY)


def test_a_method_without_a_row_is_denied_to_everyone():
    assert not policy.allows("/mdm.catalog.v1.CatalogService/Invented", policy.ROLES | {policy.USER})


@pytest.mark.parametrize("method", ["CheckAccess", "StatFor", "ListFor"])
@pytest.mark.parametrize("role", sorted(policy.ROLES | {policy.USER}))
def test_asking_on_behalf_of_others_is_for_dicom_srm_only(role, method):
    assert policy.allows(f"/mdm.catalog.v1.CatalogService/{method}", frozenset({role})) == (role == policy.DICOM_SRM)


def test_operators_and_peers_never_read_shares():
    method = "/mdm.keystore.v1.KeystoreService/GetShares"
    assert not policy.allows(method, frozenset({policy.OPERATOR, policy.KEYSTORE_PEER}))


def test_only_keystores_speak_to_keystores():
    methods = [method for method in policy.POLICY if method.startswith("/mdm.keystore.v1.KeystorePeerService/")]
    assert methods
    for method in methods:
        assert not policy.allows(method, (policy.ROLES | {policy.USER}) - {policy.KEYSTORE_PEER})
