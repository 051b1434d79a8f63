"""DICOM TLS in both directions, and the credentials of DICOMweb."""

import base64
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from mdm_dicom_srm.config import ClientTlsSettings, PacsSettings, ServerTlsSettings
from mdm_dicom_srm.pacs.c_move import MoveDestination
from mdm_dicom_srm.pacs.pacs_set import open_adapter, open_dicomweb, open_pool
from mdm_dicom_srm.pacs.port import InstanceLocator, RetrievedInstance
from mdm_dicom_srm.pacs.tls import client_context, server_context
from mdm_dicom_srm.register.rpc.storage_scp import StorageScp
from mdm_service.settings import ConfigurationError
from mdm_site.pki import DevelopmentCa
from mdm_wire.errors import Unavailable
from mdm_wire.tls import TlsFiles

from .conftest import Image, Receiver, Registry, run_orthanc
from .scripted import ScriptedPacs, ScriptedWeb

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:Exception ignored in. <.*ocket:pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> DevelopmentCa:
    return DevelopmentCa(tmp_path_factory.mktemp("hospital"), "Hospital")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> DevelopmentCa:
    return DevelopmentCa(tmp_path_factory.mktemp("stranger"), "Stranger")


@pytest.fixture(scope="module")
def ours(hospital: DevelopmentCa) -> TlsFiles:
    return hospital.issue(hospital.subject("mdm"))


@pytest.fixture(scope="module")
def theirs(hospital: DevelopmentCa) -> TlsFiles:
    return hospital.issue(hospital.subject("pacs"))


def server(files: TlsFiles) -> ssl.SSLContext:
    return server_context(ServerTlsSettings(ca=files.ca, certificate=files.certificate, key=files.key))


def client(files: TlsFiles, **changes: object) -> ClientTlsSettings:
    return ClientTlsSettings(**({"ca": files.ca, "certificate": files.certificate, "key": files.key} | changes))


def by_dimse(port: int, tls: ClientTlsSettings, title: str = "SMALL", **changes: object) -> PacsSettings:
    return PacsSettings(ae_title=title, host="127.0.0.1", port=port, retrieve=("c-get",), tls=tls, timeout_seconds=5, **changes)


@pytest.fixture(scope="module")
def receiver_by_tls(ours: TlsFiles) -> Iterator[Receiver]:
    registry, destination = Registry(), MoveDestination("MDM")
    tls, pacs_of = server(ours), {"ORTHANC": "orthanc", "SMALL": "small"}
    scp = StorageScp(registry, "127.0.0.1", 0, "MDM", [], pacs_of=pacs_of, destination=destination, tls=tls)  # type: ignore[arg-type]
    scp.start()
    yield Receiver(scp, destination, registry)
    scp.stop()


@pytest.mark.parametrize("way", ["c-get", "c-move"])
def test_orthanc_is_asked_and_sends_to_us_by_dicom_tls(
    tmp_path: Path, images: list[Image], ours: TlsFiles, theirs: TlsFiles, receiver_by_tls: Receiver, way: str
) -> None:
    modality = {"AET": "MDM", "Host": "127.0.0.1", "Port": receiver_by_tls.scp.port, "UseDicomTls": True}
    secured = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(theirs.certificate),
        "DicomTlsPrivateKey": str(theirs.key),
        "DicomTlsTrustedCertificates": str(theirs.ca),
        "DicomModalities": {"mdm": modality},
    }
    with run_orthanc(tmp_path, images[:2], **secured) as orthanc:
        settings = by_dimse(orthanc.port, client(ours), "ORTHANC")
        assert open_pool(settings, 5).echo().startswith("TLSv1.")
        adapter = open_adapter(settings, way, 10, receiver_by_tls.destination)  # type: ignore[arg-type]
        wanted = [InstanceLocator(image.study_uid, image.series_uid, image.sop_uid) for image in images[:2]]
        got = [item for item in adapter.retrieve(wanted) if isinstance(item, RetrievedInstance)]
        assert {item.sop_uid for item in got} == {image.sop_uid for image in images[:2]}
        adapter.close()
        with pytest.raises(Unavailable, match="TLS"):
            open_pool(by_dimse(orthanc.port, ClientTlsSettings(ca=ours.ca), "ORTHANC"), 5).echo()


def test_a_pacs_whose_certificate_is_anothers_is_not_talked_to(
    hospital: DevelopmentCa, stranger: DevelopmentCa, ours: TlsFiles, theirs: TlsFiles
) -> None:
    other_site = hospital.issue(hospital.subject("other_site"), hosts=("pacs.example",))
    impostor = stranger.issue(stranger.subject("pacs"))
    with ScriptedPacs("SMALL", [], tls=server(theirs)) as good:
        assert open_pool(by_dimse(good.port, client(ours)), 5).echo()
    with ScriptedPacs("SMALL", [], tls=server(other_site)) as other_host:
        with pytest.raises(Unavailable, match="its certificate"):
            open_pool(by_dimse(other_host.port, client(ours)), 5).echo()
        assert open_pool(by_dimse(other_host.port, client(ours, check_hostname=False)), 5).echo()
    with ScriptedPacs("SMALL", [], tls=server(impostor)) as bad, pytest.raises(Unavailable, match="its certificate"):
        open_pool(by_dimse(bad.port, client(ours, check_hostname=False)), 5).echo()


def test_the_storage_scp_takes_nothing_from_callers_without_a_certificate_of_its_authority(
    images: list[Image], receiver_by_tls: Receiver, stranger: DevelopmentCa, theirs: TlsFiles
) -> None:
    port, sop_uid, registry = receiver_by_tls.scp.port, images[0].sop_uid, receiver_by_tls.registry
    impostor = stranger.issue(stranger.subject("impostor"))
    with ScriptedPacs("SMALL", [images[0].part10]) as sender:
        registry.queued.clear()
        assert sender.send(port, sop_uid) is None
        assert sender.send(port, sop_uid, client_context(ClientTlsSettings(ca=theirs.ca))) is None
        assert sender.send(port, sop_uid, client_context(client(impostor, ca=theirs.ca))) is None
        assert registry.queued == []
        assert sender.send(port, sop_uid, client_context(client(theirs))) == 0
        assert registry.queued == [(sop_uid, "small")]


def test_only_modern_tls_is_spoken(ours: TlsFiles) -> None:
    for context in (server(ours), client_context(client(ours))):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        below = [item for item in context.get_ciphers() if item["protocol"] != "TLSv1.3"]
        assert below
        assert all("ECDHE" in item["name"] and "GCM" in item["name"] for item in below)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.crt"):
        client_context(ClientTlsSettings(ca=tmp_path / "absent.crt"))


def by_web(url: str, **changes: object) -> PacsSettings:
    given = {"ae_title": "X", "host": "127.0.0.1", "port": 1, "retrieve": ("wado-rs",), "dicomweb_url": url}
    return PacsSettings(**(given | changes))


def test_dicomweb_over_tls_with_our_certificate_and_their_authority(ours: TlsFiles, theirs: TlsFiles) -> None:
    with ScriptedWeb({}, tls=server(theirs)) as web:
        assert open_dicomweb(by_web(web.url, dicomweb_tls=client(ours)), 5).ping().startswith("TLSv1.")
        for tls in (None, ClientTlsSettings(ca=ours.ca)):
            with pytest.raises(Unavailable):
                open_dicomweb(by_web(web.url, dicomweb_tls=tls), 5).ping()


def test_a_bearer_token_is_read_again_when_its_file_changes(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    with ScriptedWeb({}) as web:
        client = open_dicomweb(by_web(web.url, dicomweb_token_file=token), 5)
        web.credential = "Bearer first"
        client.ping()
        token.write_text("second\n")
        web.credential = "Bearer second"
        client.ping()
        token.unlink()
        with pytest.raises(Unavailable) as caught:
            client.ping()
        assert caught.value.reason == "PACS_TOKEN_UNREADABLE"


def test_user_and_password_are_those_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret\n")
    with ScriptedWeb({}) as web:
        web.credential = "Basic " + base64.b64encode(b"mdm:s3cret").decode()
        open_dicomweb(by_web(web.url, dicomweb_user="mdm", dicomweb_password_file=tmp_path / "password"), 5).ping()
        with pytest.raises(Unavailable, match="HTTP 401"):
            open_dicomweb(by_web(web.url), 5).ping()
