"""What `mdm-site init` changes at a site of an earlier version, and what it leaves alone."""

import re
from pathlib import Path

import pytest
from cryptography import x509
from mdm_dicom_srm.config import Settings
from mdm_service import settings
from mdm_service.settings import ConfigurationError
from mdm_site.containers import ContainerSite
from mdm_site.site import SiteError

GRID_SRM = 'srm = { hospital-a = ["dicom-srm:7006"] }\n'
ROLE = 'curator = ["CN=curator,O=MDM Site"]\n'
SECTION = re.compile(r"\n\[curator\]\nhost = .*\nport = .*\n")


def make(root: Path) -> ContainerSite:
    made = ContainerSite(root)
    made.make(demonstration=False, hosts=["h"], ports={}, project="p")
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The configuration of dicom-srm, with a comment of the operator's."""
    found = make(tmp_path / "site").root / "dicom-srm" / "service.toml"
    found.write_text("# of our own\n" + found.read_text())
    return found


def again(file: Path) -> str:
    make(file.parents[1])
    return file.read_text()


def test_a_setting_that_is_refused_now_is_removed_and_changes_by_hand_stay(file):
    written = file.read_text()
    assert "srm = {" not in written
    file.write_text(written.replace("threshold = 2\n", "threshold = 2\n" + GRID_SRM))
    with pytest.raises(ConfigurationError, match=r"grid\.srm"):
        settings.load(Settings, "dicom-srm", file)
    assert again(file) == written
    file.write_text(written + "\n[grid.srm]\nhospital-a = []\n")
    with pytest.raises(SiteError, match="remove `srm`"):
        again(file)


def test_a_site_without_curators_gets_their_listener_and_role(file):
    old = SECTION.sub("", file.read_text().replace(ROLE, ""))
    file.write_text(old)
    assert settings.load(Settings, "dicom-srm", file).curator is None
    assert again(file).startswith("# of our own\n")
    upgraded = settings.load(Settings, "dicom-srm", file)
    assert (upgraded.curator.host, upgraded.curator.port) == ("dicom-srm-scp", 7010)
    assert upgraded.roles["curator"] == ("CN=curator,O=MDM Site",)
    assert again(file) == file.read_text()


def test_a_site_that_wants_no_curators_gets_none(file):
    wanted = SECTION.sub("", file.read_text().replace(ROLE, "curator = []\n"))
    file.write_text(wanted)
    assert again(file) == wanted


def test_roles_in_another_form_are_left_to_the_operator(file):
    roles = re.search(r"\[roles\]\n(.*?)\n\n", file.read_text(), re.DOTALL)
    inline = "roles = { " + ", ".join(line for line in roles[1].splitlines() if "curator" not in line) + " }\n"
    wanted = inline + SECTION.sub("", file.read_text().replace(roles[0], ""))
    file.write_text(wanted)
    with pytest.raises(SiteError, match=r"add the role `curator`"):
        again(file)
    assert file.read_text() == wanted


def test_a_certificate_that_lacks_a_name_is_issued_again(file):
    site = ContainerSite(file.parents[1])
    names = site.environment_file.read_text()
    site.environment_file.write_text(names.replace("MDM_HOSPITAL_ADDRESS=127.0.0.1", "MDM_HOSPITAL_ADDRESS=10.0.0.7"))
    assert "dicom-srm" in site.renew()
    certificate = x509.load_pem_x509_certificate((site.root / "dicom-srm" / "tls.crt").read_bytes())
    assert "10.0.0.7" in str(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    assert site.renew() == []
