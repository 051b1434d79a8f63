"""Sites with grids of their own in one list: found together, each file fetched from the grid of its site."""

from pathlib import Path

import pytest
from mdm_client import Client
from mdm_client.config import ClientConfig
from mdm_client.dicomweb.gateway import Gateway
from mdm_client.view.finder import Finder
from mdm_wire.errors import Invalid, MdmError

from client.tests.imaging import imaging_grid, slices

ROOT = "http://127.0.0.1:1/dicom-web"
OTHER = "/biomed/hospital-b"


def coupled(config: Path, others: str) -> Path:
    """Return a configuration with sites beside its own."""
    file = config.with_name("coupled.toml")
    file.write_text(f"site_seconds = 0.5\n{config.read_text()}[sites]\n{others}")
    return file


@pytest.fixture
def grids(pki, tmp_path):
    with imaging_grid(pki, tmp_path / "a") as here, imaging_grid(pki, tmp_path / "b", base=OTHER) as there:
        yield here, there


def uids(listing) -> list[str]:
    return [found["0020000D"]["Value"][0] for found in listing.found]


def test_studies_of_two_grids_stand_in_one_list_and_files_come_from_their_own(grids):
    here, there = grids
    own, foreign = slices(2), slices(3)
    near, far = here.add_study(own, StudyDate="2001-05-06"), there.add_study(foreign, StudyDate="2011-01-01")
    config = coupled(here.config(), f'hospital-b = "{there.config()}"\n')
    with Client.load(config) as client, Gateway(client, ROOT) as gateway:
        assert uids(gateway.search_studies([])) == [far, near]
        assert len(gateway.search_instances(far, None, []).found) == 3
        for study, images in ((near, own), (far, foreign)):
            files = [instance.uid for instance, _ in gateway.instances(study)]
            assert files == [image.SOPInstanceUID for image in images]
        assert here.fetched() == {here.image_of(image.SOPInstanceUID).guid for image in own}
        assert there.fetched() == {there.image_of(image.SOPInstanceUID).guid for image in foreign}
        finder = Finder(client, gateway)
        assert [(found["study"], found["site"]) for found in finder.search({}, 0)["studies"]] == [(far, "hospital-b"), (near, "hospital-a")]
        assert {(item["value"], item["count"]) for item in finder.counts("site", {})} == {("hospital-a", 1), ("hospital-b", 1)}


@pytest.mark.parametrize(
    ("others", "reason"),
    [('hospital-b = "{folder}/away.toml"\n', "UNAVAILABLE"), ('hospital-b = "none.toml"\n', "CONFIG_NOT_FOUND")],
)
def test_a_site_that_is_away_is_reported_and_the_rest_shows(grids, tmp_path, others, reason):
    here, there = grids
    study = here.add_study(slices(1))
    address = there.addresses["metadata"]
    (tmp_path / "away.toml").write_text(there.config().read_text().replace(f'metadata = ["{address}"]', 'metadata = ["127.0.0.1:1"]'))
    with Client.load(coupled(here.config(), others.format(folder=tmp_path))) as client, Gateway(client, ROOT) as gateway:
        listing = gateway.search_studies([])
        assert uids(listing) == [study]
        assert {site: error.reason for site, error in listing.failures.items()} == {"hospital-b": reason}
        found = Finder(client, gateway).search({}, 0)
        assert found["total"] == 1 and set(found["failures"]) == {"hospital-b"}


def test_a_grid_that_gives_no_keys_gives_no_files_though_the_other_would(grids):
    here, there = grids
    [image] = slices(1)
    study = there.add_study([image])
    for keystore in there.keystores:
        keystore.shares.clear()
    config = coupled(here.config(), f'hospital-b = "{there.config()}"\n')
    with Client.load(config) as client, Gateway(client, ROOT) as gateway, pytest.raises(MdmError):
        list(gateway.instances(study))


def test_sites_are_files_relative_to_the_configuration(grids):
    here, _ = grids
    config = here.config()
    assert ClientConfig.load(coupled(config, 'b = "b/client.toml"\n')).sites == {"b": config.parent / "b/client.toml"}
    with pytest.raises(Invalid, match="sites"):
        ClientConfig.load(coupled(config, "b = 1\n"))
    with Client.load(config) as client, pytest.raises(Invalid, match="no such site"):
        client.at("b")
