"""Each recipe of docs/user/recipes.md, as it stands there, on a stack with a CT series."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from mdm_client.mount.place import mounted_kind, unmount
from mdm_testing.derived import ct_series
from mdm_testing.process import BIN, require_fuse, require_program
from mdm_testing.repository import ROOT
from mdm_testing.stack import Mdm, Stack
from nbclient import NotebookClient

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

PAGE = (ROOT / "docs/user/recipes.md").read_text(encoding="utf-8")
RECIPE = re.compile(r"<!-- recipe(: notebook)? -->\n```(\w+)\n(.*?)```", re.DOTALL)
SECTIONS = [section.partition("\n") for section in PAGE.split("\n## ")[1:]]
RECIPES = {title: found.groups() for title, _, text in SECTIONS if (found := RECIPE.search(text))}
SLICES = 11
#: What each prints, or leaves in the directory that it runs in.
PRINTED = {
    "One image in pydicom": "CT (128, 128)",
    "A whole series at once": f"{SLICES} slices from",
    "A data frame of what there is": "dtype: int64",
    "dask: many images, computed in parallel": f"{SLICES} slices, brightest",
    "A volume for nibabel": f"(128, 128, {SLICES})",
    "A directory for programs that only know files": ".nii",
    "Tools of DICOM on the same directory": "(0008,0060) CS [CT]",
    "For an archive that uses Crypt4GH": ".dcm.c4gh: OK",
    "asyncio": f"{SLICES} files,",
}


@pytest.fixture(scope="module")
def series(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The directory of a series that every recipe reads."""
    folder = tmp_path_factory.mktemp("series")
    images = ct_series(folder, SLICES)
    stack.store(*(image.path for image in images))
    return str(Mdm(stack, folder).registered(images[0].patient_id, SLICES)[0]["lfn"]).rpartition("/")[0]


@pytest.fixture
def environment(stack: Stack, series: str, tmp_path: Path) -> dict[str, str]:
    """What the page says is set."""
    names = {"MDM_CONFIG": str(stack.client_config("alice")), "SERIES": series, "IPYTHONDIR": str(tmp_path / "ipython")}
    return {**os.environ, **names, "PATH": f"{BIN}:{os.environ['PATH']}"}


def test_the_page_has_ten_recipes_and_each_is_run():
    assert len(RECIPES) == PAGE.count("\n## ") == PAGE.count("<!-- recipe") == 10
    assert set(PRINTED) == {title for title, (kind, _, _) in RECIPES.items() if not kind}


@pytest.mark.parametrize("title", PRINTED)
def test_a_recipe_does_what_it_says(title: str, environment: dict[str, str], tmp_path: Path):
    _, language, text = RECIPES[title]
    if "mdm mount" in text:
        require_fuse()
        require_program("dcm2niix", "dcm2niix")
        require_program("dcmdump", "dcmtk")
    command = [sys.executable, "-W", "error", "-c", text] if language == "python" else ["bash", "-euo", "pipefail", "-c", text]
    try:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False)
    finally:
        for directory in (tmp_path / "images", tmp_path / "one-series"):
            if mounted_kind(directory):
                unmount(directory)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert PRINTED[title] in done.stdout


def test_the_cell_of_a_notebook_shows_a_picture(environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("MDM_CONFIG", "SERIES", "IPYTHONDIR"):
        monkeypatch.setenv(name, environment[name])
    [cell] = [text for kind, _, text in RECIPES.values() if kind]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert [list(output.data) for output in notebook.cells[0].outputs] == [["image/png", "text/plain"]]
