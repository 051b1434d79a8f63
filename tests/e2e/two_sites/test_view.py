"""Studies of two whole sites, each with a grid of its own, in one list of `mdm view`."""

from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from mdm_testing.image import Image, make_image
from mdm_testing.local_stack import LocalStack
from mdm_testing.process import eventually
from mdm_testing.stack import Mdm, Stack
from mdm_testing.viewer import Running, viewer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]
OTHER = "hospital-c"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A second whole site, with users, an authority, keystores and a PACS of its own."""
    whole = LocalStack(tmp_path_factory.mktemp("whole"), OTHER)
    try:
        whole.up()
        yield whole
    finally:
        whole.down()


def _released(stack: Stack, folder: Path, name: str) -> tuple[Image, str]:
    """Store an image; return it and the UID of its study, once it is registered."""
    image = make_image(folder / f"{name}.dcm", "CT_small.dcm")
    stack.store(image.path)
    mdm, base = Mdm(stack, folder), f"/biomed/{stack.name}"
    tables = f'"{base}/images" i JOIN "{base}/patients" p ON p.patient = i.patient'

    def study() -> str | None:
        rows = mdm.query("carol", f"SELECT i.study FROM {tables} WHERE p.PatientID = '{image.patient_id}'")
        return str(rows[0]["study"]) if rows else None

    found = eventually(study, timeout=90)
    assert found
    return image, found


def _listed(running: Running) -> set[str]:
    return {found["0020000D"]["Value"][0] for found in running.studies()}


def test_studies_of_two_sites_stand_in_one_list_and_a_site_that_is_away_is_reported(stack: Stack, other: LocalStack, tmp_path: Path):
    (here, near), (there, far) = _released(stack, tmp_path, "here"), _released(other, tmp_path, "there")
    config = stack.client_config("alice")
    both = config.with_name("both.toml")
    both.write_text(f'{config.read_text()}\n[sites]\n{OTHER} = "{other.client_config("alice")}"\n')
    try:
        with viewer(stack, "alice", tmp_path, config=both) as running:
            assert {near, far} <= _listed(running)
            for image, study in ((here, near), (there, far)):
                [header] = running.http.get(f"{running.root}/studies/{study}/metadata").json()
                address = header["00081190"]["Value"][0]
                frame = running.http.get(f"{address}/frames/1", headers={"Accept": "application/octet-stream; transfer-syntax=*"})
                assert frame.content == pydicom.dcmread(image.path).PixelData
            found = running.http.post(f"{running.origin}/api/counts", json={"name": "site", "filters": {}}).json()
            assert {"hospital-a", OTHER} <= {item["value"] for item in found}
        other.stop("metadata")
        with viewer(stack, "alice", tmp_path, config=both) as running:
            answer = running.http.get(f"{running.root}/studies")
            assert near in answer.text and far not in answer.text
            assert OTHER in answer.headers["Warning"]
            found = running.http.post(f"{running.origin}/api/search", json={"filters": {}}).json()
            assert set(found["failures"]) == {OTHER} and found["total"] > 0
    finally:
        both.unlink()
