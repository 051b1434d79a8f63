"""The grid follows the PACS, through storescu, Orthanc and the `mdm` command: corrections, derived objects, losses, sizes."""

import json
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pydicom
import pytest
from mdm_testing.wait import eventually
from pydicom.uid import generate_uid

from tests.e2e.images import Image, make_image
from tests.e2e.local_stack import LocalStack
from tests.e2e.stack import Mdm, Stack

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


def images_of(mdm: Mdm, patient_name: str) -> list[dict]:
    sql = (
        f'SELECT i.guid, i.lfn, i.patient, i.study FROM "{ROOT}/images" AS i JOIN "{ROOT}/patients" AS p ON i.patient = p.patient'
        f" WHERE p.PatientName = '{patient_name}' ORDER BY i.lfn"
    )
    return mdm.in_catalog(mdm.query("carol", sql))


def registered(mdm: Mdm, patient_name: str, count: int = 1) -> list[dict]:
    rows = eventually(lambda: found if len(found := images_of(mdm, patient_name)) == count else [], timeout=40)
    assert len(rows) == count
    return rows


def study(mdm: Mdm, row: dict) -> dict:
    sql = f"SELECT StudyDate, StudyDescription, PatientSex, PatientAge FROM \"{ROOT}/studies\" WHERE study = '{row['study']}'"
    [found] = mdm.query("carol", sql)
    return found


@pytest.fixture
def delete_in_pacs(stack: Stack) -> Iterator[Callable[[str], None]]:
    """Delete what the PACS has of a patient, as its administrator."""
    if not isinstance(stack, LocalStack) or stack.pacs["kind"] != "orthanc":
        pytest.skip("needs Orthanc's REST on this machine")
    account = json.loads(Path(stack.pacs["http_credentials_file"]).read_text())

    def ask(method: str, path: str, body: object = None) -> bytes:
        request = urllib.request.Request(stack.pacs["http"] + path, method=method, data=json.dumps(body).encode() if body else None)
        request.add_header("Authorization", "Basic " + b64encode("{username}:{password}".format(**account).encode()).decode())
        with urllib.request.urlopen(request, timeout=20) as answer:
            content: bytes = answer.read()
            return content

    def delete(patient_id: str) -> None:
        for found in json.loads(ask("POST", "/tools/find", {"Level": "Patient", "Query": {"PatientID": patient_id}})):
            ask("DELETE", f"/patients/{found}")

    yield delete


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
    assert eventually(lambda: mdm("operator", "key", "stat", old["guid"]).code != 0, timeout=20)
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
        assert eventually(lambda: mdm("alice", "stat", old["guid"]).code != 0, timeout=30)
        stack.kill("dicom-srm")
    finally:
        stack.start("keystore-b")
        stack.start("dicom-srm")
    [new] = registered(mdm, right["PatientName"])
    assert new["guid"] != old["guid"]
    assert eventually(lambda: mdm("operator", "key", "stat", old["guid"]).code != 0, timeout=60)
    assert mdm.query("carol", f"SELECT patient FROM \"{ROOT}/patients\" WHERE patient = '{old['patient']}'") == []


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


def test_sizes_are_known_before_a_file_is_staged_and_right_afterwards(stack: Stack, mdm: Mdm, image: Image):
    stack.store(image.path)
    [row] = registered(mdm, image.patient_name)

    def size() -> int:
        [entry] = mdm("alice", "--json", "stat", row["lfn"]).rows()
        return int(entry["size"])

    assert abs(size() - image.path.stat().st_size) < 512, "as the PACS holds it, which writes a file meta information of its own"
    _, [file] = mdm.get("alice", row["lfn"])
    assert eventually(lambda: size() == file.stat().st_size, timeout=20)


def test_what_stores_lost_comes_back_when_the_study_is_registered_again(stack: Stack, mdm: Mdm, image: Image):
    stack.store(image.path)
    [row] = registered(mdm, image.patient_name)
    with psycopg.connect(stack.database("metadata")) as connection:
        connection.execute("DELETE FROM entry WHERE key = ANY(%s)", ([row["guid"], row["study"], row["patient"]],))
    with psycopg.connect(stack.database("catalog")) as connection:
        connection.execute("DELETE FROM entry WHERE guid = %s", (row["guid"],))
    assert images_of(mdm, image.patient_name) == []
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
