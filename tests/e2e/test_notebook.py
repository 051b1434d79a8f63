"""The notebook of the user's guide, executed as it stands, against a stack with a CT series."""

import os
from pathlib import Path

import nbformat
import numpy as np
import pytest
from mdm_client import Client
from mdm_testing.derived import ct_series
from mdm_testing.repository import ROOT
from mdm_testing.stack import Mdm, Stack
from nbclient import NotebookClient

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]
NOTEBOOK = ROOT / "docs/user/notebook.ipynb"
COLUMNS = ("series:text:index", "what:text", "volume_ml:float", "key:uuid", "made:timestamp")


@pytest.fixture
def collection(stack: Stack, mdm: Mdm) -> str:
    """A collection for results, as the notebook asks an operator for it."""
    name = f"/results-{os.urandom(4).hex()}"
    subject = mdm("alice", "--json", "whoami").rows()[0]["dn"]
    made = mdm("operator", "meta", "acl", "create", f"dn:{subject}=rwlxgs")
    assert made.code == 0, made.err
    guards = made.out.split()[-1]
    done = mdm("operator", "meta", "mkdir", name, *COLUMNS, "--acl", guards, "--default-acl", guards)
    assert done.code == 0, done.err
    return name


def longest(mdm: Mdm) -> int:
    """Return the images of the longest CT series, 11 at least: the notebook takes that one."""
    rows = mdm.query("alice", "SELECT MAX(NumberOfSeriesRelatedInstances) AS most FROM \"/biomed/hospital-a/series\" WHERE Modality = 'CT'")
    return max(int(rows[0]["most"] or 0), 11)


def run(stack: Stack, folder: Path, monkeypatch: pytest.MonkeyPatch, collection: str) -> nbformat.NotebookNode:
    """Execute the notebook in a folder and return it with its outputs."""
    for name, value in {
        "MDM_CONFIG": str(stack.client_config("alice")),
        "MDM_RESULTS": collection,
        "IPYTHONDIR": str(folder / "i"),
    }.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    folder.mkdir(exist_ok=True)
    NotebookClient(notebook, timeout=180, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def outputs(notebook: nbformat.NotebookNode) -> tuple[str, int]:
    """Return all that was printed or shown as text, and the number of pictures."""
    found = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in found]
    return "\n".join(texts), sum("image/png" in output.get("data", {}) for output in found)


def test_the_notebook_finds_shows_segments_and_stores(stack, mdm, collection, tmp_path, monkeypatch):
    count = longest(mdm) + 1
    images = ct_series(tmp_path, count)
    stack.store(*(image.path for image in images))
    series = mdm.registered(images[0].patient_id, count)[0]["series"]
    work = tmp_path / "work"
    text, pictures = outputs(run(stack, work, monkeypatch, collection))
    assert pictures == 2
    assert f"(128, 128, {count}) voxels of [0.66 0.66 5.  ] mm" in text
    assert "Segmentation Storage" in text and "\nstored" in text
    [record] = mdm.query("alice", f'SELECT series, volume_ml, key FROM "{collection}"')
    assert record["series"] == series
    with Client.load(stack.client_config("alice")) as client:
        volume = client.volume(series)
    whole = volume.array.size * abs(np.linalg.det(volume.affine[:3, :3])) / 1000
    assert 0.001 * whole < record["volume_ml"] < 0.5 * whole
    [file] = [path for path in work.iterdir() if path.is_file()]
    assert file.name == f"{record['key']}.dcm.mdm" and b"DICM" not in file.read_bytes()
    opened = tmp_path / "opened.dcm"
    assert mdm("alice", "decrypt", str(file), str(opened)).code == 0
    assert mdm("mallory", "decrypt", str(file), str(tmp_path / "no.dcm")).code != 0
    assert opened.read_bytes()[128:132] == b"DICM"


def test_without_a_collection_it_says_so_and_goes_on(stack, mdm, tmp_path, monkeypatch):
    count = longest(mdm) + 1
    images = ct_series(tmp_path, count)
    stack.store(*(image.path for image in images))
    mdm.registered(images[0].patient_id, count)
    text, _ = outputs(run(stack, tmp_path / "work", monkeypatch, "/nowhere"))
    assert "no record was stored: " in text and "as it was stored" in text


def test_the_notebook_is_kept_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook.cells)
