"""The grid follows the PACS, through storescu, Orthanc and the `mdm` command: corrections, derived objects, losses, sizes."""

import os
import signal
import subprocess
from pathlib import Path

import psycopg
import pydicom
import pytest
from mdm_testing.image import Image, make_image
from mdm_testing.local_stack import LocalStack
from mdm_testing.process import eventually, require_program
from mdm_testing.stack import Mdm, Stack
from pydicom.uid import generate_uid

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]
ROOT = "/biomed/hospital-a"


def rewrite(image: Image, path: Path, **changes: object) -> Path:
    """Write an image again with other values; None deletes an attribute."""
    dataset = image.read()
    for keyword, value in changes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path)
    return path


def registered(mdm: Mdm, patient_name: str, count: int = 1) -> list[dict]:
    return mdm.registered(patient_name, count, "PatientName")


def study(mdm: Mdm, row: dict) -> dict:
    sql = f"SELECT StudyDate, StudyDescription, PatientSex, PatientAge FROM \"{ROOT}/studies\" WHERE study = '{row['study']}'"
    [found] = mdm.query("carol", sql)
    return found


def test_a_derived_object_that_says_nothing_erases_nothing(stack: Stack, mdm: Mdm, tmp_path: Path):
    image = make_image(tmp_path / "ct.dcm", "CT_small.dcm")
    original = rewrite(
        image, tmp_path / "original.dcm", PatientSex="F", PatientAge="060Y", StudyDescription="CT HEAD", StudyDate="20210317"
    )
    stack.store(original)
    [row] = registered(mdm, image.patient_name)
    before = study(mdm, row)
    assert all(before.values())
    silent = {"PatientSex": "", "StudyDate": "", "PatientName": "", "PatientBirthDate": "", "PatientAge": None, "StudyDescription": None}
    stack.store(
        rewrite(
            image, tmp_path / "derived.dcm", **silent, SeriesInstanceUID=generate_uid(), SOPInstanceUID=generate_uid(), InstanceNumber=-3
        )
    )
    rows = registered(mdm, image.patient_name, 2)
    assert study(mdm, row) == before
    stack.store(rewrite(image, tmp_path / "other.dcm", PatientName=image.patient_name, PatientAge="061Y", SOPInstanceUID=generate_uid()))
    registered(mdm, image.patient_name, 3)
    listed = mdm("operator", "--json", "conflicts").rows()
    assert any("PatientAge" in item["attributes"] for item in listed if item["key"] == row["study"])
    assert sorted(row["lfn"].rpartition("/")[2].partition("-")[0] for row in rows) == ["0000", "0001"]


def test_a_patient_corrected_in_the_pacs_is_corrected_in_the_grid(stack: Stack, mdm: Mdm, tmp_path: Path, delete_in_pacs):
    image = make_image(tmp_path / "wrong.dcm", "CT_small.dcm")
    stack.store(image.path)
    [old] = registered(mdm, image.patient_name)
    result, files = mdm.get("alice", old["lfn"])
    assert result.code == 0 and len(files) == 1
    right = {"PatientID": f"{image.patient_id}R", "PatientName": f"RIGHT{image.patient_id}^PERSON", "PatientSex": "F", "PatientAge": "033Y"}
    stack.store(rewrite(image, tmp_path / "right.dcm", **right))
    delete_in_pacs(image.patient_id)
    [new] = registered(mdm, right["PatientName"])
    assert new["guid"] != old["guid"] and new["patient"] != old["patient"]
    assert (study(mdm, new)["PatientSex"], study(mdm, new)["PatientAge"]) == ("F", "033Y")
    result, [file] = mdm.get("alice", new["lfn"])
    assert result.code == 0, result.err
    dataset = pydicom.dcmread(file)
    assert (dataset.PatientID, dataset.PatientSex, dataset.PatientAge) == (new["patient"], "F", "033Y")
    # Everything of the wrong patient is gone.
    assert eventually(lambda: mdm("operator", "key", "stat", old["guid"]).code != 0)
    for target in (old["lfn"], old["guid"], f"{ROOT}/{old['patient']}"):
        assert mdm("alice", "stat", target).code != 0
    for collection in ("images", "series", "studies", "patients"):
        assert mdm.query("carol", f"SELECT patient FROM \"{ROOT}/{collection}\" WHERE patient = '{old['patient']}'") == []
    assert old["guid"] not in stack.staged()


def test_a_correction_is_completed_by_the_next_process_when_one_is_killed(stack: Stack, mdm: Mdm, tmp_path: Path):
    image = make_image(tmp_path / "wrong.dcm", "CT_small.dcm")
    stack.store(image.path)
    [old] = registered(mdm, image.patient_name)
    right = {"PatientID": f"{image.patient_id}R", "PatientName": f"RIGHT{image.patient_id}^PERSON"}
    # Without a keystore neither the old key can be destroyed nor the new one made: the kill comes in the middle of both.
    stack.kill("keystore-b")
    try:
        stack.store(rewrite(image, tmp_path / "right.dcm", **right))
        assert eventually(lambda: mdm("alice", "stat", old["guid"]).code != 0)
        stack.kill("dicom-srm")
    finally:
        stack.start("keystore-b")
        stack.start("dicom-srm")
    [new] = registered(mdm, right["PatientName"])
    assert new["guid"] != old["guid"]
    assert eventually(lambda: mdm("operator", "key", "stat", old["guid"]).code != 0)
    assert mdm.query("carol", f"SELECT patient FROM \"{ROOT}/patients\" WHERE patient = '{old['patient']}'") == []


@pytest.mark.timeout(600)
def test_what_storescu_was_acknowledged_is_registered_once_though_dicom_srm_is_killed_meanwhile(stack: Stack, mdm: Mdm, tmp_path: Path):
    """The PACS has the images but forwards none of them; storescu sends them until dicom-srm is killed, twice."""
    if not isinstance(stack, LocalStack):
        pytest.skip("the Storage SCP of containers is in the hospital's network, where no test is")
    storescu = require_program("storescu", "dcmtk")
    first = make_image(tmp_path / "0.dcm", "CT_small.dcm")
    images = [first, *(make_image(tmp_path / f"{number}.dcm", "CT_small.dcm", of=first, number=number) for number in range(1, 80))]
    stack.stop("pacs-forwarder")
    try:
        stack.store(*(image.path for image in images))
        command = [storescu, "-v", "-aet", stack.pacs["aet"], "-aec", stack.scp["aet"], stack.scp["host"], str(stack.scp["port"])]
        acknowledged: set[str] = set()
        for portion in (images[:40], images[40:]):
            words, victim = [*command, *(str(image.path) for image in portion)], stack.pid("dicom-srm")
            before = len(acknowledged)
            with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as sending:
                sent = ""
                for line in sending.stdout:
                    if line.startswith("I: Sending file: "):
                        sent = line.removeprefix("I: Sending file: ").strip()
                    elif line.startswith("I: Received Store Response (Success)"):
                        acknowledged.add(sent)
                        if len(acknowledged) == before + 10:
                            os.kill(victim, signal.SIGKILL)
            stack.start("dicom-srm")
        assert 20 <= len(acknowledged) < len(images), "dicom-srm was killed in the middle of both"
        wanted = {image.sop_uid for image in images if str(image.path) in acknowledged}
        rows = eventually(
            lambda: found if len(found := mdm.images_of(first.patient_name, "PatientName")) >= len(wanted) else None, timeout=120
        )
        assert len({row["guid"] for row in rows}) == len(rows) <= len(wanted) + 2, "one that was under way at each kill may be there, too"
        with psycopg.connect(stack.database("dicom-srm")) as connection:
            sql = "SELECT count(*), count(DISTINCT instance) FROM registration WHERE state = 'PUBLISHED' AND guid = ANY(%s)"
            assert connection.execute(sql, ([row["guid"] for row in rows],)).fetchone() == (len(rows), len(rows))
        result, files = mdm.get("alice", rows[0]["lfn"].rpartition("/")[0])
        assert result.code == 0 and len(files) == len(rows)
    finally:
        stack.start("pacs-forwarder")
    assert len(mdm.registered(first.patient_name, len(images), "PatientName")) == len(images), "the PACS forwards the others"


def test_a_study_is_of_one_patient_with_or_without_issuer_and_zeros(stack: Stack, mdm: Mdm, tmp_path: Path):
    image = make_image(tmp_path / "ct.dcm", "CT_small.dcm")
    ids = [{"PatientID": "0004711", "IssuerOfPatientID": "JMS"}, {"PatientID": "0004711"}, {"PatientID": "4711"}]
    for number, said in enumerate(ids):
        said |= {"SeriesInstanceUID": generate_uid(), "SOPInstanceUID": generate_uid()}
        stack.store(rewrite(image, tmp_path / f"{number}.dcm", **said))
        rows = registered(mdm, image.patient_name, number + 1)
    assert len({row["patient"] for row in rows}) == 1
    result, files = mdm.get("alice", *(row["lfn"] for row in rows))
    assert result.code == 0, result.err
    datasets = [pydicom.dcmread(file) for file in files]
    assert {(dataset.PatientID, dataset.StudyDate) for dataset in datasets} == {(rows[0]["patient"], datasets[0].StudyDate)}


def test_the_catalog_has_the_size_that_users_get_before_a_file_is_staged(stack: Stack, mdm: Mdm, image: Image):
    stack.store(image.path)
    [row] = registered(mdm, image.patient_name)
    [entry] = mdm("alice", "--json", "stat", row["lfn"]).rows()
    _, [file] = mdm.get("alice", row["lfn"])
    assert int(entry["size"]) == file.stat().st_size


def test_what_stores_lost_comes_back_when_the_study_is_registered_again(stack: Stack, mdm: Mdm, image: Image):
    stack.store(image.path)
    [row] = registered(mdm, image.patient_name)
    with psycopg.connect(stack.database("metadata")) as connection:
        connection.execute("DELETE FROM entry WHERE key = ANY(%s)", ([row["guid"], row["study"], row["patient"]],))
    with psycopg.connect(stack.database("catalog")) as connection:
        connection.execute("DELETE FROM entry WHERE guid = %s", (row["guid"],))
    assert mdm.images_of(image.patient_id) == []
    again = mdm("operator", "register", "--study", image.study_uid, "--wait")
    assert again.code == 0, again.err
    assert registered(mdm, image.patient_name) == [row]
    assert mdm.get("alice", row["lfn"])[0].code == 0


def test_an_image_whose_key_was_destroyed_comes_back_under_a_new_guid(stack: Stack, mdm: Mdm, image: Image):
    stack.store(image.path)
    [row] = registered(mdm, image.patient_name)
    assert mdm.get("alice", row["lfn"])[0].code == 0
    assert mdm("operator", "key", "unregister", row["guid"]).code == 0
    assert mdm("operator", "register", "--study", image.study_uid, "--wait").code == 0
    [new] = registered(mdm, image.patient_name)
    assert new["guid"] != row["guid"] and new["patient"] == row["patient"]
    assert mdm("operator", "key", "stat", row["guid"]).code != 0
    assert row["guid"] not in stack.staged()
    assert mdm.get("alice", new["lfn"])[0].code == 0
