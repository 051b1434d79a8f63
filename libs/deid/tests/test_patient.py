"""Of whom files are: how Patient IDs are compared, and one patient for each study."""

import itertools
from pathlib import Path
from typing import Any

import pydicom
import pytest
from click.testing import CliRunner
from mdm_deid import Deidentifier, Outcome, Patient, PatientIdRule, Profile, Pseudonymiser
from mdm_deid.cli.command import deid
from mdm_deid.rules.patient import IN_STUDY, PatientIdError, load_rule, patient_of

SECRET = b"0123456789abcdef0123456789abcdef"
STUDY = "1.2.3"
STRICT = PatientIdRule(in_study=frozenset())


@pytest.mark.parametrize(
    ("first", "second", "difference"),
    [
        (Patient("0004711", ""), Patient("4711", ""), "leading-zeros"),
        (Patient("AB 12", ""), Patient("AB12", ""), "blanks"),
        (Patient("ab12", ""), Patient("AB12", ""), "case"),
        (Patient("12", "JMS"), Patient("12", ""), "absent-issuer"),
        (Patient("12", "JMS"), Patient("12", "KHB"), "issuer"),
        (Patient("12", ""), Patient("", "study:1.2.3"), "absent-id"),
    ],
)
def test_each_difference_counts_or_not_as_the_site_says(first: Patient, second: Patient, difference: str) -> None:
    assert not STRICT.same(first, second)
    assert not PatientIdRule(in_study=frozenset(IN_STUDY) - {difference, "issuer"}).same(first, second)
    for one, other in ((first, second), (second, first)):
        assert PatientIdRule(in_study=frozenset({difference})).same(one, other)


def test_other_ids_are_other_patients_and_issuers_that_differ_too() -> None:
    rule = PatientIdRule()
    assert not rule.same(Patient("12", ""), Patient("13", ""))
    assert not rule.same(Patient("12", "JMS"), Patient("12", "KHB"))
    assert not rule.same(Patient("0", ""), Patient("00000001", ""))
    assert rule.same(Patient("0", ""), Patient("000", ""))


def test_what_is_ignored_everywhere_does_not_change_the_pseudonym() -> None:
    rule = PatientIdRule(ignored=frozenset({"leading-zeros", "issuer", "case", "blanks"}))
    spellings = [Patient("00aB 1", "JMS"), Patient("AB1", ""), Patient("ab1", "KHB")]
    assert len({rule.canonical(patient) for patient in spellings}) == 1
    assert PatientIdRule().canonical(spellings[0]) == spellings[0]
    assert rule.canonical(Patient("", "study:1.2")) == Patient("", "study:1.2")


def test_a_study_is_of_whom_most_files_are_in_the_fullest_spelling_whatever_their_order() -> None:
    said = [Patient("4711", ""), Patient("0004711", "JMS"), Patient("0004711", ""), Patient("", "study:1"), Patient("OTHER", "")]
    assert {PatientIdRule().majority(order) for order in itertools.permutations(said)} == {Patient("0004711", "JMS")}


def test_a_file_of_another_patient_than_its_study_is_held_back(ct_small: bytes) -> None:
    deidentifier = Deidentifier(Profile.shipped("basic"), Pseudonymiser(SECRET))
    found = patient_of(ct_small)
    assert found is not None and found[1].id == "1CT1"
    assert deidentifier.deidentify(ct_small, found[1]).outcome is Outcome.RELEASED
    held = deidentifier.deidentify(ct_small, Patient("SOMEBODY", ""))
    assert (held.outcome, held.reason, held.data) == (Outcome.QUARANTINED, "patient_conflict", None)
    assert patient_of(b"not dicom") is None


def write(folder: Path, base: bytes, number: int, **changes: object) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / f"{number}.dcm"
    path.write_bytes(base)
    dataset = pydicom.dcmread(path)
    dataset.StudyInstanceUID, dataset.StudyDate = STUDY, "20210317"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)


def run(tmp_path: Path, *options: object) -> tuple[Any, list[pydicom.FileDataset]]:
    (tmp_path / "secret").write_bytes(SECRET)
    out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
    arguments = [tmp_path / "in", "-o", out, "--secret-file", tmp_path / "secret", "--profile", "research", *options]
    result = CliRunner().invoke(deid, [str(argument) for argument in arguments], standalone_mode=False)
    return result, [pydicom.dcmread(path) for path in out.rglob("*.dcm")]


@pytest.mark.integration
@pytest.mark.parametrize("jobs", [1, 3])
def test_a_study_in_one_run_keeps_one_patient_and_one_offset(tmp_path: Path, ct_small: bytes, jobs: int) -> None:
    ids = [{"PatientID": "0004711", "IssuerOfPatientID": "JMS"}, {"PatientID": "0004711"}, {"PatientID": "4711"}, {"PatientID": ""}]
    for number, said in enumerate(ids, 1):
        write(tmp_path / "in", ct_small, number, **said)
    _, files = run(tmp_path, "-j", jobs)
    assert len(files) == 4
    assert {file.PatientID for file in files} == {Pseudonymiser(SECRET).patient("0004711", "JMS")}
    assert len({file.StudyDate for file in files}) == 1


@pytest.mark.integration
def test_a_run_compares_patient_ids_as_the_sites_configuration_says(tmp_path: Path, ct_small: bytes) -> None:
    for number, said in enumerate(("0004711", "0004711", "4711"), 1):
        write(tmp_path / "in", ct_small, number, PatientID=said)
    configuration = tmp_path / "dicom-srm.toml"
    configuration.write_text('site = "x"\n[patient_id]\nignored_in_study = []\n')
    result, files = run(tmp_path, "--patient-ids", configuration)
    assert len(files) == 2 and "patient_conflict" in result.output
    configuration.write_text('[patient_id]\nignored = ["leading-zeros"]\n')
    _, files = run(tmp_path, "--patient-ids", configuration)
    assert {file.PatientID for file in files} == {Pseudonymiser(SECRET).patient("4711")}


@pytest.mark.parametrize(
    "text", ["[patient_id]\nignored = ['accents']", "[patient_id]\nignore = []", "[patient_id", "[patient_id]\nignored = ['absent-id']"]
)
def test_settings_that_name_something_unknown_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "patient.toml"
    path.write_text(text)
    with pytest.raises(PatientIdError):
        load_rule(path)
