"""The site's de-identifier: made in worker processes, named by its rules."""

import pickle
import re
import shutil
from functools import partial
from pathlib import Path

import mdm_deid
import pydicom
import pytest
from mdm_deid import Outcome, PatientIdRule, Profile
from mdm_deid.pixels.rule import PixelRules
from mdm_deid.rules.table import revision
from mdm_dicom_srm.judgement import generation, make_deidentifier

SECRET = b"0123456789abcdef0123456789abcdef"
CT_SMALL = Path(pydicom.__file__).parent / "data/test_files/CT_small.dcm"


@pytest.mark.parametrize("check", [True, False])
def test_a_worker_makes_the_de_identifier_from_what_it_is_sent(check: bool) -> None:
    make = partial(make_deidentifier, Profile.shipped("basic"), SECRET, PixelRules.load("shipped"), check)
    result = pickle.loads(pickle.dumps(make))().deidentify(CT_SMALL.read_bytes())
    assert (result.outcome, result.checked) == (Outcome.RELEASED, check)


def test_the_spool_is_emptied_when_profile_pixel_rules_check_patient_ids_or_secret_change() -> None:
    basic, research = Profile.shipped("basic"), Profile.shipped("research")
    none, shipped = PixelRules(), PixelRules.load("shipped")
    made = [
        generation(basic, SECRET, none, check=True),
        generation(research, SECRET, none, check=True),
        generation(basic, SECRET, shipped, check=True),
        generation(basic, SECRET[::-1], none, check=True),
        generation(basic, SECRET, none, check=False),
        generation(basic, SECRET, none, check=True, patient_ids=PatientIdRule(ignored=frozenset({"case"}))),
        generation(basic, SECRET, none, check=True, patient_ids=PatientIdRule(in_study=frozenset({"case"}))),
    ]
    assert len(set(made)) == 7
    assert generation(basic, SECRET, PixelRules.load("shipped"), check=True) == made[2]


def test_the_revision_is_of_the_packages_own_files(monkeypatch: pytest.MonkeyPatch) -> None:
    before = generation(Profile.shipped("basic"), SECRET, PixelRules(), check=True)
    assert re.fullmatch("[0-9a-f]{16}", revision())
    monkeypatch.setattr("mdm_dicom_srm.judgement.revision", lambda: "another")
    assert generation(Profile.shipped("basic"), SECRET, PixelRules(), check=True) != before


@pytest.mark.parametrize("name", ["rules/element_pass.py", "pixels/jpeg.py", "data/words.txt"])
def test_the_revision_changes_with_every_file_of_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    package = tmp_path / "deid"
    shutil.copytree(Path(mdm_deid.__file__).parent, package)
    monkeypatch.setattr("mdm_deid.rules.table.resources.files", lambda _: package)
    before = revision.__wrapped__()
    with (package / name).open("a") as file:
        file.write("# another")
    assert revision.__wrapped__() != before
