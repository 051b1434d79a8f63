"""A site's directory: what the services accept, what is kept, who may read it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from mdm_catalog.config import CatalogSettings
from mdm_client.config import ClientConfig
from mdm_dicom_srm.config import Settings as DicomSrmSettings
from mdm_keystore.config import KeystoreSettings
from mdm_metadata.config import MetadataSettings
from mdm_service import settings
from mdm_site.containers import SCP_HOST, SERVICE_PORT, ContainerSite
from mdm_site.description import describe
from mdm_site.site import BY_NAME, SiteError
from mdm_site.upkeep import add_key_encryption_key, lend, revoke

SETTINGS = {"catalog": CatalogSettings, "metadata": MetadataSettings, "dicom-srm": DicomSrmSettings} | {
    f"keystore-{letter}": KeystoreSettings for letter in "abc"
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> ContainerSite:
    made = ContainerSite(tmp_path_factory.mktemp("site"))
    made.make(demonstration=True, hosts=["mdm.example", "10.0.0.1"], ports={"catalog": 27001}, project="test")
    return made


def contents(site: ContainerSite) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in site.root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_service_accepts_its_configuration(name, site):
    loaded = settings.load(SETTINGS[name], name, site.root / name / "service.toml")
    assert loaded.listen.port == SERVICE_PORT[name]
    assert loaded.database.password_file == Path("/etc/mdm/service/database-password")
    assert f"host={name}-db " in loaded.database.conninfo
    assert "sslmode=verify-full" in loaded.database.conninfo


def test_the_storage_scp_listens_under_a_name_of_the_hospitals_network_only(site):
    loaded = settings.load(DicomSrmSettings, "dicom-srm", site.root / "dicom-srm" / "service.toml")
    assert loaded.scp.host == SCP_HOST
    assert loaded.grid.catalog == ("catalog:7001",)


@pytest.mark.parametrize("user", ["alice", "carol", "mallory", "operator", "monitor"])
def test_users_reach_the_services_under_the_sites_first_name(user, site):
    config = ClientConfig.load(site.client(user))
    assert config.catalog == ("mdm.example:27001",)
    assert config.tls.certificate.is_file()


def test_certificates_carry_the_names_under_which_a_service_is_reached(site):
    certificate = x509.load_pem_x509_certificate((site.root / "catalog" / "tls.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"catalog", "mdm.example", "localhost"}
    assert {str(address) for address in names.get_values_for_type(x509.IPAddress)} == {"10.0.0.1", "127.0.0.1"}


def test_making_a_site_again_changes_nothing(site):
    before = contents(site)
    site.make(demonstration=True, hosts=["other.example"], ports={}, project="other")
    assert contents(site) == before


def test_a_site_without_demonstration_has_no_users_but_operator_monitor_and_curator_and_empty_groups(tmp_path):
    made = ContainerSite(tmp_path / "site")
    made.make(demonstration=False, hosts=["h"], ports={}, project="p")
    assert sorted(path.name for path in (made.root / "client").iterdir()) == ["curator", "monitor", "operator"]
    assert "CN=" not in (made.root / "trust" / "groups.toml").read_text()
    assert made.environment()["COMPOSE_PROFILES"] == "real-pacs"


def test_secrets_are_readable_by_one_account_and_no_two_are_equal(site):
    secrets = [path for pattern in ("*.key", "*password", "kek", "site-secret", "orthanc.json") for path in site.root.rglob(pattern)]
    assert len(secrets) > 25
    assert [path for path in secrets if path.stat().st_mode & 0o077] == []
    keks = {path.read_bytes() for path in site.root.rglob("kek")}
    passwords = {path.read_bytes() for path in site.root.rglob("database-password")}
    assert (len(keks), len(passwords)) == (3, 6)
    for name in BY_NAME:
        assert (site.root / name / "database-password").read_bytes() == (site.root / f"{name}-db" / "password").read_bytes()


def test_the_authoritys_key_is_in_no_directory_that_a_container_sees(site):
    key = (site.root / "ca" / "ca.key").read_bytes()
    assert [path for path, content in contents(site).items() if content == key] == [site.root / "ca" / "ca.key"]


def test_containers_run_unprivileged_even_where_root_makes_the_site(site):
    uid = int(site.environment()["MDM_UID"])
    assert uid != 0
    assert (site.root / "catalog" / "tls.key").stat().st_uid == uid


def test_a_revoked_certificate_is_on_the_crl_and_may_be_issued_anew(tmp_path):
    made = ContainerSite(tmp_path / "site")
    made.make(demonstration=True, hosts=["h"], ports={}, project="p")
    first = x509.load_pem_x509_certificate((made.root / "ca" / "alice.crt").read_bytes()).serial_number
    revoke(made, "alice")
    made.add_user("alice")
    second = x509.load_pem_x509_certificate((made.root / "client" / "alice" / "alice.crt").read_bytes()).serial_number
    crl = x509.load_pem_x509_crl((made.root / "trust" / "ca.crl").read_bytes())
    assert [entry.serial_number for entry in crl] == [first]
    assert first != second
    with pytest.raises(SiteError, match="nobody"):
        revoke(made, "nobody")


def test_a_new_key_encryption_key_comes_before_the_old_ones(tmp_path):
    made = ContainerSite(tmp_path / "site")
    made.make(demonstration=False, hosts=["h"], ports={}, project="p")
    old = (made.root / "keystore-b" / "kek").read_text()
    file = add_key_encryption_key(made, "keystore-b")
    new, rest = file.read_text().split("\n", 1)
    assert (len(new), rest, file.stat().st_mode & 0o077) == (64, old, 0)
    with pytest.raises(SiteError, match="keystore-z"):
        add_key_encryption_key(made, "keystore-z")


def test_a_site_with_certificates_of_its_own_is_left_alone(tmp_path):
    made = ContainerSite(tmp_path / "site")
    made.make(demonstration=False, hosts=["h"], ports={}, project="p")
    with made.environment_file.open("a") as file:
        file.write("MDM_CERTIFICATES=own\n")
    (made.root / "catalog" / "tls.crt").write_text("of another authority")
    assert made.renew() == []
    assert (made.root / "catalog" / "tls.crt").read_text() == "of another authority"


def test_a_site_describes_itself_for_programs(site):
    found = json.loads(describe(site))
    assert found["client_config"]["alice"] == str(site.client("alice"))
    assert found["pacs"]["aet"] == "ORTHANC"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("renew",), "no site here"),
        (("init", "--port", "catalog=x"), "NAME=PORT"),
        (("init", "--port", "nothing=7"), "NAME=PORT"),
        (("init", "--port", "catalog=70000"), "NAME=PORT"),
    ],
)
def test_bad_arguments_give_one_line(arguments, message, tmp_path):
    command = [sys.executable, "-m", "mdm_site", *arguments, "--site", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ}, check=False)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_identity_is_lent_to_a_command_in_a_container(site, tmp_path):
    config = ClientConfig.load(lend(site, "operator", tmp_path / "lent"))
    assert (config.catalog, config.keystores[0].addresses) == (("catalog:7001",), (f"keystore-a:{SERVICE_PORT['keystore-a']}",))
    assert config.tls.key.read_bytes() == (site.client("operator").parent / "operator.key").read_bytes()
    assert [oct(path.stat().st_mode & 0o777) for path in (tmp_path / "lent", config.tls.key)] == ["0o700", "0o600"]
    with pytest.raises(SiteError, match="is nobody a user"):
        lend(site, "nobody", tmp_path / "none")
