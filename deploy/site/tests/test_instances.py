"""Several instances of dicom-srm at a site: what each has of its own, and who knows of it."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from mdm_client.config import ClientConfig
from mdm_dicom_srm.config import Settings
from mdm_service import settings
from mdm_site.containers import ContainerSite
from mdm_site.instance import ae_title


@pytest.fixture
def site(tmp_path: Path) -> ContainerSite:
    made = ContainerSite(tmp_path / "site")
    made.make(demonstration=True, hosts=["mdm.example"], ports={}, project="test")
    return made


def load(site: ContainerSite, number: int) -> Settings:
    file = "service.toml" if number == 1 else f"instance-{number}.toml"
    return settings.load(Settings, "dicom-srm", site.root / "dicom-srm" / file)


def test_each_instance_has_a_name_an_ae_title_and_listeners_of_its_own_and_nothing_else(site):
    file = site.root / "dicom-srm" / "service.toml"
    file.write_text(file.read_text().replace('profile = "research"', 'profile = "basic"'))
    site.set_instances(3, {})
    first, *others = (load(site, number) for number in (1, 2, 3))
    assert [(one.instance, one.scp.ae_title, one.scp.host, one.curator.host) for one in others] == [
        (f"dicom-srm-{number}", f"MDM{number}", f"dicom-srm-{number}-scp", f"dicom-srm-{number}-scp") for number in (2, 3)
    ]
    for one in others:
        own = {"instance": first.instance, "scp": first.scp, "curator": first.curator}
        assert one.model_copy(update=own).model_dump() == first.model_dump(), "a change of the first one is everybody's"


@pytest.mark.parametrize(
    ("first", "number", "title"), [("MDM", 1, "MDM"), ("MDM", 2, "MDM2"), ("SIXTEEN_LETTERS_", 12, "SIXTEEN_LETTER12")]
)
def test_ae_titles_follow_from_that_of_the_first(first, number, title):
    assert ae_title(first, number) == title


def test_users_and_curators_know_every_instance(site):
    site.set_instances(2, {"MDM_PORT_DICOM_SRM_2": 27106})
    assert ClientConfig.load(site.client("alice")).srm == {"hospital-a": ("mdm.example:7006", "mdm.example:27106")}
    curator = tomllib.loads(site.client("curator").read_text())
    assert curator["curator"] == {"hospital-a": ["127.0.0.1:7010", "127.0.0.1:7110"]}
    site.add_user("dora")
    assert len(ClientConfig.load(site.client("dora")).srm["hospital-a"]) == 2


def test_the_relay_and_orthanc_know_each_storage_scp(site):
    site.set_instances(2, {})
    relay = (site.root / "relay" / "instances.cfg").read_text()
    assert "bind :11212" in relay and "dicom-srm-2-scp:11112" in relay
    assert "bind :7110" in relay and "dicom-srm-2-scp:7010" in relay
    orthanc = json.loads((site.root / "pacs" / "orthanc.json").read_text())
    assert orthanc["DicomModalities"]["mdm-2"] == {"AET": "MDM2", "Host": "dicom-srm-2-scp", "Port": 11112}


def test_an_upgrade_follows_the_first_and_a_smaller_count_removes_instances(site):
    before = {path: path.read_bytes() for path in site.root.rglob("*") if path.is_file()}
    site.set_instances(3, {})
    file = site.root / "dicom-srm" / "service.toml"
    file.write_text(file.read_text().replace('profile = "research"', 'profile = "strict"'))
    site.make(demonstration=True, hosts=["mdm.example"], ports={}, project="test")
    assert load(site, 3).deid.profile == "strict"
    file.write_text(file.read_text().replace('profile = "strict"', 'profile = "research"'))
    site.set_instances(1, {})
    after = {path: path.read_bytes() for path in site.root.rglob("*") if path.is_file()}
    assert after.pop(site.environment_file).replace(b"MDM_SRM_INSTANCES=1\n", b"").startswith(before.pop(site.environment_file))
    assert after == before


def command(site: ContainerSite, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "mdm_site", *arguments, "--site", str(site.root)]
    return subprocess.run(program, capture_output=True, text=True, env={**os.environ}, check=False)


def test_the_command_says_what_the_pacs_needs(site):
    done = command(site, "instances", "2", "--port", "scp-2=21112")
    assert done.returncode == 0, done.stderr
    assert "destination at the PACS: MDM2 at 127.0.0.1:21112" in done.stdout.splitlines()[1]
    assert "MDM_PORT_SCP_2=21112" in site.environment_file.read_text()


@pytest.mark.parametrize("arguments", [("0",), ("2", "--port", "scp=1"), ("2", "--port", "nothing-2=7"), ("2", "--port", "scp-2=70000")])
def test_bad_arguments_give_one_line_and_change_nothing(arguments, site):
    before = site.environment_file.read_bytes()
    done = command(site, "instances", *arguments)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert site.environment_file.read_bytes() == before
