"""The main job: stored in the PACS, found by a query, fetched by name, de-identified; nobody else gets anything."""

import subprocess

import numpy
import pydicom
import pytest
from mdm_testing.image import Image, make_image
from mdm_testing.process import require_program
from mdm_testing.stack import Mdm, Stack

pytestmark = pytest.mark.e2e

IMAGES = "/biomed/hospital-a/images"


@pytest.fixture(scope="module")
def series(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> list[Image]:
    """Three images of one series, registered."""
    folder = tmp_path_factory.mktemp("series")
    first = make_image(folder / "1.dcm", "CT_small.dcm", number=1)
    images = [first, *(make_image(folder / f"{n}.dcm", "CT_small.dcm", of=first, number=n) for n in (2, 3))]
    stack.store(*(image.path for image in images))
    return images


@pytest.fixture
def released(series: list[Image], mdm: Mdm) -> list[dict]:
    """The rows of that series, which a physician finds by the patient's original identifier."""
    return mdm.registered(series[0].patient_id, 3)


def test_an_authorised_user_gets_a_valid_file_with_the_pixels_and_without_the_patient(series, released, mdm):
    result, files = mdm.get("alice", released[0]["lfn"])
    assert result.code == 0, result.err
    assert len(files) == 1
    original, fetched = series[0].read(), pydicom.dcmread(files[0])
    assert numpy.array_equal(original.pixel_array, fetched.pixel_array)
    assert fetched.PixelData == original.PixelData
    assert fetched.PatientIdentityRemoved == "YES"
    content = files[0].read_bytes()
    assert [secret for secret in series[0].secrets if secret.encode() in content] == []


@pytest.mark.parametrize("by", ["directory", "guid", "query"])
def test_a_whole_series_is_fetched_by(by, released, mdm):
    directory = released[0]["lfn"].rsplit("/", 1)[0]
    targets = {
        "directory": [directory],
        "guid": [row["guid"] for row in released],
        "query": ["--query", f"SELECT guid FROM \"{IMAGES}\" WHERE series = '{released[0]['series']}'"],
    }
    result, files = mdm.get("alice", *targets[by])
    assert result.code == 0, result.err
    assert sorted(pydicom.dcmread(path).InstanceNumber for path in files) == [1, 2, 3]


def test_references_stay_within_the_series(released, mdm):
    _, files = mdm.get("alice", *(row["lfn"] for row in released))
    datasets = [pydicom.dcmread(path) for path in files]
    assert {d.SeriesInstanceUID for d in datasets} == {released[0]["series"]}
    assert {d.StudyInstanceUID for d in datasets} == {released[0]["study"]}
    assert len({d.SOPInstanceUID for d in datasets}) == 3


def test_the_names_are_those_that_the_design_promises(released):
    patient, study, series, name = released[0]["lfn"].removeprefix("/biomed/hospital-a/").split("/")
    assert (study, series) == (released[0]["study"], released[0]["series"])
    assert name == f"{released[0]['InstanceNumber']:04d}-{released[0]['guid']}.dcm"
    assert patient.isalnum()


def test_mallory_sees_nothing_and_gets_nothing(released, mdm):
    sees = mdm("mallory", "--json", "query", f'SELECT guid FROM "{IMAGES}"')
    assert sees.code != 0 or sees.rows() == []
    by_name, files = mdm.get("mallory", released[0]["lfn"])
    by_guid, more = mdm.get("mallory", released[0]["guid"])
    absent, _ = mdm.get("mallory", released[0]["lfn"].replace(".dcm", "x.dcm"))
    assert files == more == []
    assert by_name.code != 0
    assert by_guid.code != 0
    assert mdm("mallory", "ls", "-l", released[0]["lfn"].rsplit("/", 1)[0]).code != 0
    forbidden = by_name.err.replace(released[0]["lfn"], "LFN")
    unknown = absent.err.replace(released[0]["lfn"].replace(".dcm", "x.dcm"), "LFN")
    assert forbidden == unknown, "a forbidden name must look like an absent one"


def test_only_physicians_read_who_a_patient_is(released, mdm):
    sql = 'SELECT PatientName FROM "/biomed/hospital-a/patients"'
    assert mdm.query("carol", sql)
    refused = mdm("alice", "--json", "query", sql)
    assert refused.code != 0 or refused.rows() == []


def test_a_grant_gives_access_in_every_service_and_a_revocation_takes_it_back(released, stack, mdm):
    lfn = released[0]["lfn"]
    study = "/".join(lfn.split("/")[:5])
    whoami = mdm("mallory", "--json", "whoami").rows()[0]
    principal = f"dn:{whoami['dn']}"
    granted = mdm("alice", "--json", "acl", "grant", study, principal, "rlxg")
    assert granted.code == 0, granted.err
    result, files = mdm.get("mallory", lfn)
    assert result.code == 0, result.err
    assert len(files) == 1
    assert len(mdm.query("mallory", f"SELECT guid FROM \"{IMAGES}\" WHERE study = '{released[0]['study']}'")) == 3
    assert mdm("alice", "acl", "revoke", study, principal, "rlxg").code == 0
    result, files = mdm.get("mallory", lfn)
    assert (result.code != 0, files) == (True, [])


def test_one_image_of_a_study_is_opened_by_a_list_of_its_own_and_the_others_stay_closed(released, mdm):
    one, other = released[0]["lfn"], released[1]["lfn"]
    study = "/".join(one.split("/")[:5])
    principal = f"dn:{mdm('mallory', '--json', 'whoami').rows()[0]['dn']}"
    refused = mdm("alice", "acl", "grant", one, principal, "rlxg")
    assert (refused.code, "--own" in refused.err, "--shared" in refused.err) == (2, True, True)
    assert mdm("alice", "acl", "grant", study, principal, "x").code == 0
    granted = mdm("alice", "--json", "acl", "grant", one, principal, "rg", "--own")
    assert granted.code == 0, granted.err
    assert {row["service"].split()[0] for row in granted.rows()} == {"catalog", "keystore", "metadata"}
    result, files = mdm.get("mallory", one)
    assert (result.code, len(files)) == (0, 1), result.err
    result, files = mdm.get("mallory", other)
    assert (result.code != 0, files) == (True, [])
    for target in (one, study):
        assert mdm("alice", "acl", "revoke", target, principal).code == 0
    result, files = mdm.get("mallory", one)
    assert (result.code != 0, files) == (True, [])
    result, files = mdm.get("alice", one)
    assert (result.code, len(files)) == (0, 1), result.err


def test_one_keystore_may_be_down(released, stack, mdm):
    stack.stop("keystore-b")
    try:
        result, files = mdm.get("alice", *(row["lfn"] for row in released))
        assert result.code == 0, result.err
        assert len(files) == 3
    finally:
        stack.start("keystore-b")


def test_two_keystores_down_give_a_clear_error_and_no_file(released, stack, mdm):
    for name in ("keystore-b", "keystore-c"):
        stack.stop(name)
    try:
        directory = mdm.scratch / "none"
        result = mdm("alice", "get", released[0]["lfn"], "-o", str(directory), "--timeout", "5")
        assert result.code != 0
        assert "keystore" in result.err
        assert [path for path in directory.rglob("*") if path.is_file()] == []
    finally:
        for name in ("keystore-b", "keystore-c"):
            stack.start(name)


@pytest.mark.parametrize("base", ["MR_small.dcm", "MR_small_jp2klossless.dcm", "emri_small.dcm", "MR_small_RLE.dcm", "CT_small.dcm"])
def test_other_kinds_of_image_come_back_with_equal_pixels(base, stack, mdm, tmp_path):
    image = make_image(tmp_path / "image.dcm", base)
    stack.store(image.path)
    rows = mdm.registered(image.patient_id)
    result, files = mdm.get("alice", rows[0]["lfn"])
    assert result.code == 0, result.err
    original, fetched = image.read(), pydicom.dcmread(files[0])
    assert fetched.PixelData == original.PixelData
    assert fetched.file_meta.TransferSyntaxUID == original.file_meta.TransferSyntaxUID
    content = files[0].read_bytes()
    assert [secret for secret in image.secrets if secret.encode() in content] == []


def test_registering_by_command_finds_what_the_trigger_missed(stack, mdm, tmp_path):
    stack.stop("dicom-srm")
    image = make_image(tmp_path / "image.dcm", "MR_small.dcm")
    stack.store(image.path)
    stack.start("dicom-srm")
    result = mdm("operator", "--json", "register", "--study", image.study_uid, "--wait")
    assert result.code == 0, result.err
    assert len(mdm.registered(image.patient_id)) == 1
    assert mdm("alice", "register", "--study", image.study_uid).code != 0, "registering is for operators"


def test_dcmtk_accepts_what_is_fetched(released, mdm):
    dciodvfy = require_program("dciodvfy", "dicom3tools")
    _, files = mdm.get("alice", released[0]["lfn"])
    printed = subprocess.run([dciodvfy, files[0]], capture_output=True, text=True, check=False).stderr
    assert "CTImage" in printed.splitlines(), printed
    assert [line for line in printed.splitlines() if line.startswith("Error")] == []
