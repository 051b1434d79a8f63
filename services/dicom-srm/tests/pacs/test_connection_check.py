"""`check-config --connect` of dicom-srm: every adapter, service and keystore is asked what it will be asked when serving."""

import grpc
import pytest
from mdm.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from mdm.keystore.v1 import keystore_pb2, keystore_pb2_grpc
from mdm_dicom_srm import connection_check
from mdm_dicom_srm.config import GridSettings, PacsSettings
from mdm_dicom_srm.pacs.c_move import MoveDestination
from mdm_service.policy import DICOM_SRM
from mdm_service.process.target import Answer, Target, try_all
from mdm_testing.process import free_port
from mdm_testing.server import serve_in_process

from .conftest import RunningPacs

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:Exception ignored in. <.*ocket:pytest.PytestUnraisableExceptionWarning"),
]


def settings(running: RunningPacs, **changes: object) -> PacsSettings:
    given = {"ae_title": running.ae_title, "host": "127.0.0.1", "port": running.port, "calling_ae_title": "MDM", "retrieve": ("c-get",)}
    if running.dicomweb_url:
        given |= {"dicomweb_url": running.dicomweb_url, "retrieve": ("wado-rs", "c-move", "c-get")}
    return PacsSettings(**(given | changes))


def pacs_targets(running: RunningPacs, **changes: object) -> list[Target]:
    return connection_check._pacs([settings(running, **changes)], MoveDestination("MDM"), 5)


def outcome(answers: list[Answer]) -> dict[str, str]:
    return {answer.name: "ok" if answer.ok else answer.text.partition(":")[0] for answer in answers}


def test_each_adapter_of_a_pacs_answers_for_itself(orthanc: RunningPacs) -> None:
    names = ("pacs QIDO-RS", "pacs WADO-RS", "pacs C-ECHO", "pacs C-FIND", "pacs C-MOVE", "pacs C-GET")
    assert outcome(try_all(pacs_targets(orthanc), 20)) == dict.fromkeys(names, "ok")


def test_a_pacs_that_is_away_half_says_which_half(orthanc: RunningPacs) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}/dicom-web"
    found = outcome(try_all(pacs_targets(orthanc, dicomweb_url=nowhere), 20))
    assert found == {
        "pacs QIDO-RS": "PACS_UNAVAILABLE",
        "pacs WADO-RS": "PACS_UNAVAILABLE",
        "pacs C-ECHO": "ok",
        "pacs C-FIND": "ok",
        "pacs C-MOVE": "ok",
        "pacs C-GET": "ok",
    }


def test_a_pacs_that_does_not_know_our_storage_scp_says_so(small_pacs: RunningPacs) -> None:
    """Orthanc looks for the study first, so it does not find fault with the destination."""
    targets = connection_check._pacs([settings(small_pacs, retrieve=("c-move",), name="main")], MoveDestination("NOBODY"), 5)
    assert outcome(try_all(targets, 20)) == {"pacs C-ECHO": "ok", "pacs C-FIND": "ok", "pacs C-MOVE": "PACS_REFUSED"}


def test_several_pacs_answer_by_name(orthanc: RunningPacs, small_pacs: RunningPacs) -> None:
    tables = [settings(orthanc, name="main", retrieve=("c-get",)), settings(small_pacs, name="small")]
    found = outcome(try_all(connection_check._pacs(tables, MoveDestination("MDM"), 5), 20))
    assert found == {f"pacs.{name} {operation}": "ok" for name in ("main", "small") for operation in ("C-ECHO", "C-FIND", "C-GET")}


class Catalog(catalog_pb2_grpc.CatalogServiceServicer):
    def CheckAccess(self, request: catalog_pb2.CheckAccessRequest, context: grpc.ServicerContext) -> catalog_pb2.CheckAccessResponse:
        return catalog_pb2.CheckAccessResponse()


class Keystore(keystore_pb2_grpc.KeystoreServiceServicer):
    def GetServerInfo(
        self, request: keystore_pb2.GetServerInfoRequest, context: grpc.ServicerContext
    ) -> keystore_pb2.GetServerInfoResponse:
        return keystore_pb2.GetServerInfoResponse(name="a", share_index=1)


def test_the_grid_is_asked_by_address_and_a_wrong_share_or_role_is_found(pki) -> None:
    def register(server, _) -> None:
        catalog_pb2_grpc.add_CatalogServiceServicer_to_server(Catalog(), server.grpc)
        keystore_pb2_grpc.add_KeystoreServiceServicer_to_server(Keystore(), server.grpc)

    ours, user = pki.issue(pki.subject("dicom-srm")), pki.issue(pki.subject("a-user"))
    roles = {DICOM_SRM: (pki.subject("dicom-srm"),)}
    away = f"127.0.0.1:{free_port()}"
    with serve_in_process(pki.issue(pki.subject("grid")), register, namespaces=(pki.namespace,), roles=roles) as served:

        def asked(files) -> dict[str, str]:
            grid = GridSettings(
                certificate=files.certificate,
                key=files.key,
                ca=files.ca,
                catalog=(served.address, away),
                metadata=(away,),
                keystores=(
                    {"name": "a", "index": 1, "addresses": (served.address,)},
                    {"name": "b", "index": 2, "addresses": (served.address,)},
                ),
            )
            found = outcome(try_all(connection_check._grid_targets(grid, "biomed", 5), 20))
            return {name.replace(served.address, "HERE").replace(away, "AWAY"): text for name, text in found.items()}

        assert asked(ours) == {
            "catalog HERE": "ok",
            "catalog AWAY": "UNAVAILABLE",
            "metadata AWAY": "UNAVAILABLE",
            "keystore a HERE": "ok",
            "keystore b HERE": "WRONG_INDEX",
        }
        assert asked(user)["catalog HERE"] == "METHOD_FORBIDDEN"
