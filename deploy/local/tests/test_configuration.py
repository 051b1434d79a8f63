"""The files written for a stack are what the services and the client accept."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from mdm_catalog.config import CatalogSettings
from mdm_client.config import ClientConfig
from mdm_dicom_srm.config import Settings as DicomSrmSettings
from mdm_keystore.config import KeystoreSettings
from mdm_local.configuration import Configuration, make_credentials
from mdm_local.layout import LISTENERS, USERS, Layout
from mdm_local.pacs.kind import AE_TITLES, ARCHIVE, ORTHANC, StackPacs
from mdm_local.process import allocate_ports
from mdm_local.state import Coupling, State
from mdm_metadata.config import MetadataSettings
from mdm_service import settings
from mdm_service.identity.caller import parse_membership
from mdm_service.process import main
from mdm_site.pki import DevelopmentCa

SETTINGS = {
    "catalog": CatalogSettings,
    "metadata": MetadataSettings,
    "keystore-a": KeystoreSettings,
    "keystore-b": KeystoreSettings,
    "keystore-c": KeystoreSettings,
    "dicom-srm": DicomSrmSettings,
}


def write(root: Path, kind: str = ORTHANC, **known: Any) -> Layout:
    layout = Layout(root)
    state = State(allocate_ports(LISTENERS, State.load(layout.state_file).ports, ()), kind, **known)
    layout.make()
    make_credentials(layout, state.organisation)
    http = "http://127.0.0.1:20001" if kind == ORTHANC else ""
    dicomweb = f"{http}/dicom-web" if http else ""
    pacs = StackPacs(AE_TITLES[kind], "127.0.0.1", 20000, dicomweb, "mdm", layout.secret("pacs-password"), kind, http)
    state.save(layout.state_file)
    Configuration(layout, state, pacs, lambda name: f"dbname={name} user={name}").write()
    return layout


@pytest.mark.parametrize("kind", [ORTHANC, ARCHIVE])
@pytest.mark.parametrize("service", SETTINGS)
def test_every_service_accepts_its_configuration(service, kind, tmp_path):
    layout = write(tmp_path, kind)
    loaded = settings.load(SETTINGS[service], service, layout.config(service))
    main.check(loaded)
    assert loaded.trust.ban_list == layout.trust / "banned"
    assert loaded.database is not None
    assert loaded.database.conninfo == "dbname=mdm_{0} user=mdm_{0}".format(service.replace("-", "_"))


def test_keystores_differ_in_index_key_and_database(tmp_path):
    layout = write(tmp_path)
    loaded = [settings.load(KeystoreSettings, "keystore", layout.config(f"keystore-{letter}")) for letter in "abc"]
    assert [one.keystore.index for one in loaded] == [1, 2, 3]
    assert len({one.keystore.kek_file.read_bytes() for one in loaded}) == 3
    assert len({one.database.conninfo for one in loaded}) == 3


@pytest.mark.parametrize("user", USERS)
def test_every_user_has_a_configuration_that_the_client_accepts(user, tmp_path):
    layout = write(tmp_path)
    config = ClientConfig.load(layout.client(user))
    assert config.tls.certificate == layout.pki / f"{user}.crt"
    assert (config.threshold, len(config.keystores), list(config.srm)) == (2, 3, ["hospital-a"])


def test_mallory_has_a_certificate_and_no_group(tmp_path):
    layout = write(tmp_path)
    groups = parse_membership((layout.trust / "groups.toml").read_bytes())
    assert groups["CN=alice,O=MDM Local"] == {"/biomed/neuro", "/biomed/hospital-a/stewards"}
    assert groups["CN=carol,O=MDM Local"] == {"/biomed/hospital-a/physicians"}
    assert not [subject for subject in groups if "mallory" in subject]


def test_credentials_are_made_once(tmp_path):
    layout = write(tmp_path)
    before = {path: path.read_bytes() for folder in ("pki", "secret", "trust") for path in (layout.root / folder).iterdir()}
    banned = layout.trust / "banned"
    banned.write_text("CN=mallory,O=MDM Local\n")
    write(tmp_path)
    after = {path: path.read_bytes() for path in before if path != banned}
    assert after == {path: content for path, content in before.items() if path != banned}
    assert "mallory" in banned.read_text(), "what somebody changed is kept"


def test_secrets_and_keys_are_their_owners_only(tmp_path):
    layout = write(tmp_path)
    private = [*(layout.root / "secret").iterdir(), *layout.pki.glob("*.key")]
    assert len(private) > 10
    assert {path.stat().st_mode & 0o077 for path in private} == {0}


def test_what_expires_soon_is_renewed_and_the_revoked_stay_revoked(tmp_path):
    layout = write(tmp_path)
    ca = DevelopmentCa(layout.pki, "MDM Local")
    soon = datetime.now(UTC) + timedelta(days=1)
    ca.issue(ca.subject("alice"), hosts=(), name="alice", not_after=soon)
    ca.revoke([layout.pki / "mallory.crt"], next_update=soon)
    make_credentials(layout, "MDM Local")
    assert x509.load_pem_x509_certificate((layout.pki / "alice.crt").read_bytes()).not_valid_after_utc > soon
    crl = x509.load_pem_x509_crl(ca.crl_file.read_bytes())
    assert crl.next_update_utc > soon
    mallory = x509.load_pem_x509_certificate((layout.pki / "mallory.crt").read_bytes())
    assert [entry.serial_number for entry in crl] == [mallory.serial_number]


def metadata(layout: Layout) -> MetadataSettings:
    return settings.load(MetadataSettings, "metadata", layout.config("metadata"))


def test_coupled_stacks_know_each_others_authority_and_who_copies_what(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    write(b, name="hospital-b")
    first = write(a, others={"hospital-b": Coupling(str(b), copies_us=True)})
    second = write(b, name="hospital-b", others={"hospital-a": Coupling(str(a), copied_here=True)})
    origin, copy = metadata(first), metadata(second)
    for loaded in (origin, copy):
        main.check(loaded)
        assert {authority.namespaces for authority in loaded.trust.ca} == {("O=MDM Local",), ("O=hospital-b",)}
    assert origin.feed.subtrees_by_subject() == {"CN=metadata,O=hospital-b": {"/biomed/hospital-a"}}
    assert copy.copied() == {"hospital-a": ("/biomed/hospital-a",)}
    assert copy.replicas[0].ca == first.pki / "ca.crt"
    assert (origin.copied(), copy.feed.subscribers) == ({}, ())
    sites = [ClientConfig.load(layout.client("alice")).metadata_sites for layout in (first, second)]
    assert sites[0] == sites[1]
    assert sorted(sites[0]) == ["hospital-a", "hospital-b"]
    catalog = settings.load(CatalogSettings, "catalog", first.config("catalog"))
    assert (len(catalog.trust.ca), catalog.tls.ca) == (1, first.pki / "ca.crt"), "other services have nothing to do with the other site"


@pytest.mark.parametrize("service", SETTINGS)
def test_every_service_of_a_coupled_stack_accepts_its_configuration(service, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    write(a)
    layout = write(b, name="hospital-b", others={"hospital-a": Coupling(str(a), copied_here=True)})
    main.check(settings.load(SETTINGS[service], service, layout.config(service)))


def test_a_coupled_stack_that_is_gone_is_left_out(tmp_path):
    layout = write(tmp_path / "a", others={"hospital-b": Coupling(str(tmp_path / "gone"), copies_us=True)})
    assert len(metadata(layout).trust.ca) == 1
    assert not ClientConfig.load(layout.client("alice")).metadata_sites
