"""Making another site known: who is let in, who is not, what users get."""

import tomllib
from pathlib import Path

import pytest
from mdm_client.config import ClientConfig
from mdm_metadata.config import MetadataSettings
from mdm_service import settings
from mdm_site.containers import ContainerSite
from mdm_site.site import SiteError
from mdm_site.upkeep import add_site


def make(root: Path, name: str, organisation: str = "") -> ContainerSite:
    made = ContainerSite(root)
    made.make(demonstration=True, hosts=[f"mdm.{name}.example"], ports={}, project="", name=name, organisation=organisation)
    return made


@pytest.fixture
def sites(tmp_path: Path) -> tuple[ContainerSite, ContainerSite]:
    """Two sites, each with a name of its own."""
    return make(tmp_path / "a", "hospital-a"), make(tmp_path / "b", "hospital-b")


def files(site: ContainerSite) -> tuple[Path, Path]:
    return site.root / "trust" / "ca.crt", site.root / "trust" / "ca.crl"


def test_a_site_has_its_name_in_paths_groups_subjects_and_addresses(sites):
    a, b = sites
    assert [site.environment()["COMPOSE_PROJECT_NAME"] for site in (a, b)] == ["mdm", "mdm-hospital-b"]
    assert (b.name, b.organisation) == ("hospital-b", "hospital-b")
    assert '"/biomed/hospital-b/physicians" = ["CN=carol,O=hospital-b"]' in (b.root / "trust" / "groups.toml").read_text()
    assert 'site = "hospital-b"' in (b.root / "dicom-srm" / "service.toml").read_text()
    assert list(ClientConfig.load(b.client("alice")).srm) == ["hospital-b"]


def test_another_site_is_let_in_by_the_section_and_by_nothing_before(sites):
    a, b = sites
    before = {path: path.read_bytes() for path in a.root.rglob("service.toml")}
    section = add_site(a, "hospital-b", *files(b), ["mdm.hospital-b.example:7002"])
    assert {path: path.read_bytes() for path in before} == before
    with (a.root / "metadata" / "service.toml").open("a") as file:
        file.write(section)
    loaded = settings.load(MetadataSettings, "metadata", a.root / "metadata" / "service.toml")
    assert [authority.namespaces for authority in loaded.trust.ca] == [("O=MDM Site",), ("O=hospital-b",)]
    assert loaded.tls.ca == Path("/etc/mdm/trust/authorities.crt")
    assert (a.root / "trust" / "authorities.crt").read_bytes().count(b"BEGIN CERTIFICATE") == 2
    assert (a.root / "trust" / "ca.crt").read_bytes().count(b"BEGIN CERTIFICATE") == 1, "services among themselves trust their own only"


def test_users_are_told_where_both_sites_are_and_keep_it_when_certificates_are_renewed(sites):
    a, b = sites
    add_site(a, "hospital-b", *files(b), ["mdm.hospital-b.example:7002"])
    a.make(demonstration=True, hosts=["other"], ports={}, project="p")
    config = ClientConfig.load(a.client("alice"))
    assert config.metadata_sites == {"hospital-a": ("mdm.hospital-a.example:7002",), "hospital-b": ("mdm.hospital-b.example:7002",)}
    assert config.tls.ca.read_bytes() == (a.root / "trust" / "authorities.crt").read_bytes()


def test_a_new_revocation_list_replaces_the_old_one_and_nothing_else(sites):
    a, b = sites
    section = add_site(a, "hospital-b", *files(b), ["mdm.hospital-b.example:7002"])
    known = a.others_file.read_text()
    b.ca.revoke([b.root / "ca" / "alice.crt"])
    b.publish_revocations()
    assert add_site(a, "hospital-b", *files(b)) == section
    assert a.others_file.read_text() == known
    assert (a.root / "trust" / "sites" / "hospital-b.crl").read_bytes() == (b.root / "ca" / "ca.crl").read_bytes()


def test_what_would_mix_up_two_sites_is_refused(sites, tmp_path):
    a, b = sites
    certificate, crl = files(b)
    twin = make(tmp_path / "twin", "hospital-c", "MDM Site")
    third = make(tmp_path / "third", "hospital-d", "hospital-b")
    add_site(a, "hospital-b", certificate, crl)
    for name, given, message in (
        ("hospital-a", (certificate, crl), "a name and an organisation of its own"),
        ("hospital-c", files(twin), "a name and an organisation of its own"),
        ("hospital-d", files(third), "a name and an organisation of its own"),
        ("../x", (certificate, crl), "lower-case letters"),
        ("hospital-e", (certificate, files(a)[1]), "not signed by the authority"),
        ("hospital-e", (crl, crl), "not an authority's certificate"),
        ("hospital-e", (certificate, certificate), "not a CRL"),
        ("hospital-e", (b.root / "ca" / "alice.crt", crl), "not that of an authority"),
        ("hospital-e", (tmp_path / "none", crl), "not an authority's certificate"),
    ):
        with pytest.raises(SiteError, match=message):
            add_site(a, name, *given)
    assert list(tomllib.loads(a.others_file.read_text())) == ["hospital-b"]
    with pytest.raises(SiteError, match="lower-case letters"):
        make(tmp_path / "bad", "Hospital B")
    with pytest.raises(SiteError, match="organisation"):
        make(tmp_path / "bad", "hospital-b", "B, CN=operator")


def test_a_site_of_an_earlier_version_goes_on_under_the_name_it_had(sites):
    a, b = sites
    lines = a.environment_file.read_text().splitlines()
    a.environment_file.write_text("\n".join(line for line in lines if not line.startswith(("MDM_SITE_NAME", "MDM_ORGANISATION"))) + "\n")
    (a.root / "trust" / "authorities.crt").unlink()
    subject = a.ca.certificate_file.read_bytes()
    a.make(demonstration=True, hosts=["other"], ports={}, project="")
    assert (a.name, a.organisation, a.ca.certificate_file.read_bytes()) == ("hospital-a", "MDM Site", subject)
    assert 'namespaces = ["O=hospital-b"]' in add_site(a, "hospital-b", *files(b))
