"""The grid follows the PACS: scans, corrections, deletions, unregistering."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from mdm_testing.image import Image, make_image
from mdm_testing.process import eventually
from mdm_testing.stack import Mdm, Stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
ROOT = "/biomed/hospital-a"


def rows(stack: Stack, service: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(stack.database(service)) as connection:
        return connection.execute(sql).fetchall()


def look_again(stack: Stack) -> None:
    """Let the pause before an instance counts as gone be over."""
    with psycopg.connect(stack.database("dicom-srm")) as connection:
        connection.execute("UPDATE registration SET missing_since = now() - interval '1 h' WHERE missing_since IS NOT NULL")
        connection.execute("UPDATE inspection SET due_at = now() WHERE outcome = ''")


def test_what_is_deleted_in_the_pacs_is_removed_by_a_scan(
    stack: Stack, mdm: Mdm, image: Image, delete_in_pacs: Callable[[str], None]
) -> None:
    stack.store(image.path)
    [row] = mdm.registered(image.patient_name, 1, "PatientName")
    assert mdm.get("alice", row["lfn"])[0].code == 0
    equal = mdm("operator", "register", "--patient", image.patient_id)
    assert equal.code == 0 and "1 listed, 1 equal" in equal.out, equal.err + equal.out
    delete_in_pacs(image.patient_id)
    dry = mdm("operator", "register", "--patient", image.patient_id, "--dry-run")
    assert "1 gone, dry run" in dry.out
    assert "1 missing" in mdm("operator", "register", "--patient", image.patient_id).out
    assert mdm("alice", "stat", row["lfn"]).code == 0, "one answer of the PACS removes nothing"
    look_again(stack)
    assert eventually(lambda: mdm("operator", "key", "stat", row["guid"]).code != 0)
    for target in (row["lfn"], row["guid"], f"{ROOT}/{row['patient']}"):
        assert mdm("alice", "stat", target).code != 0
    assert mdm.images_of(image.patient_name, "PatientName") == [] and row["guid"] not in stack.staged()
    stack.store(image.path)
    [new] = mdm.registered(image.patient_name, 1, "PatientName")
    assert new["guid"] != row["guid"]
    assert mdm.get("alice", new["lfn"])[0].code == 0


def test_a_correction_in_orthanc_is_followed_by_a_scan(stack: Stack, mdm: Mdm, image: Image, ask_pacs: Callable[..., Any]) -> None:
    stack.store(image.path)
    [row] = mdm.registered(image.patient_name, 1, "PatientName")
    [found] = ask_pacs("POST", "/tools/find", {"Level": "Patient", "Query": {"PatientID": image.patient_id}})
    corrected = f"CORRECTED{image.patient_id}^NAME"
    # As Orthanc does it where instances may not be overwritten: they get other UIDs.
    replace = {"PatientID": image.patient_id, "PatientName": corrected}
    ask_pacs("POST", f"/patients/{found}/modify", {"Replace": replace, "Force": True, "KeepSource": False, "Synchronous": True})
    scan = mdm("operator", "register", "--patient", image.patient_id, "--wait")
    assert scan.code == 0, scan.err
    look_again(stack)
    [new] = mdm.registered(corrected, 1, "PatientName")
    assert new["guid"] != row["guid"] and new["patient"] == row["patient"]
    assert eventually(lambda: mdm("operator", "key", "stat", row["guid"]).code != 0)
    assert mdm.get("alice", new["lfn"])[0].code == 0


def test_a_retrieval_that_finds_an_image_gone_has_it_removed(
    stack: Stack, mdm: Mdm, image: Image, delete_in_pacs: Callable[[str], None]
) -> None:
    stack.store(image.path)
    [row] = mdm.registered(image.patient_name, 1, "PatientName")
    delete_in_pacs(image.patient_id)
    assert mdm.get("alice", row["lfn"])[0].code != 0
    missing = "SELECT 1 FROM registration WHERE missing_since IS NOT NULL AND guid = '{}'".format(row["guid"])
    assert eventually(lambda: rows(stack, "dicom-srm", missing))
    look_again(stack)
    assert eventually(lambda: mdm("alice", "stat", row["lfn"]).code != 0)


def test_a_directory_is_unregistered_and_comes_back_when_it_is_registered(stack: Stack, mdm: Mdm, image: Image, tmp_path: Path) -> None:
    second = make_image(tmp_path / "second.dcm", "CT_small.dcm", of=image, number=2)
    stack.store(image.path, second.path)
    found = mdm.registered(image.patient_name, 2, "PatientName")
    directory = f"{ROOT}/{found[0]['patient']}"
    assert mdm("alice", "unregister", directory, "--yes").code == 3, "for operators only"
    dry = mdm("operator", "unregister", directory, "--dry-run")
    assert dry.code == 0 and "2 images would go" in dry.out
    done = mdm("operator", "unregister", directory, "--reason", "withdrawn", "--yes")
    assert done.code == 0 and "2 images are being removed" in done.out
    for row in found:
        assert eventually(lambda row=row: mdm("operator", "key", "stat", row["guid"]).code != 0)
    assert mdm("alice", "stat", directory).code != 0
    listed = mdm("operator", "--json", "registrations", "--study", image.study_uid).rows()
    assert {(item["state"], item["reason"]) for item in listed} == {("removed", "UNREGISTERED")}
    back = mdm("operator", "register", "--patient", image.patient_id, "--wait")
    assert back.code == 0, back.err
    new = mdm.registered(image.patient_name, 2, "PatientName")
    assert {row["guid"] for row in new}.isdisjoint(row["guid"] for row in found)
