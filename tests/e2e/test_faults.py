"""Killed processes and absent parts: a clear error or a later success, nothing lost, nothing half-visible."""

import time
from pathlib import Path

import pytest
from mdm_testing.image import make_image
from mdm_testing.process import eventually
from mdm_testing.stack import Mdm, Stack

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("delay", [0.0, 0.15, 0.4, 0.8])
def test_a_registration_survives_kill_9_at_any_moment(delay, stack: Stack, mdm: Mdm, tmp_path):
    first = make_image(tmp_path / "0.dcm", "CT_small.dcm", number=0)
    images = [first, *(make_image(tmp_path / f"{n}.dcm", "CT_small.dcm", of=first, number=n) for n in range(1, 8))]
    stack.store(*(image.path for image in images))
    time.sleep(delay)
    stack.kill("dicom-srm")
    stack.start("dicom-srm")
    rows = mdm.registered(first.patient_id, 8)
    result, files = mdm.get("alice", *(row["lfn"] for row in rows))
    assert result.code == 0, result.err
    assert len(files) == 8, "what is visible can be fetched"


@pytest.mark.parametrize("victim", ["keystore-a", "catalog", "metadata"])
def test_a_registration_waits_for_a_service_that_is_away(victim, stack: Stack, mdm: Mdm, tmp_path):
    stack.stop(victim)
    image = make_image(tmp_path / "image.dcm", "CT_small.dcm")
    stack.store(image.path)
    time.sleep(2)
    stack.start(victim)
    rows = mdm.registered(image.patient_id)
    result, files = mdm.get("alice", rows[0]["lfn"])
    assert (result.code, len(files)) == (0, 1), result.err


def test_without_the_pacs_a_fetch_fails_clearly_and_works_again_after_it_is_back(stack: Stack, mdm: Mdm, tmp_path):
    image = make_image(tmp_path / "image.dcm", "CT_small.dcm")
    stack.store(image.path)
    rows = mdm.registered(image.patient_id)
    stack.stop("pacs")
    try:
        result = mdm("alice", "get", rows[0]["lfn"], "-o", str(tmp_path / "out"), "--timeout", "5")
        assert result.code != 0
        assert len(result.err.strip().splitlines()) <= 3
        assert not list((tmp_path / "out").rglob("*.dcm"))
    finally:
        stack.start("pacs")

    def fetched() -> list[Path]:
        result, files = mdm.get("alice", rows[0]["lfn"])
        return files if result.code == 0 else []

    assert len(eventually(fetched)) == 1


def test_a_fetch_survives_a_restart_of_dicom_srm(stack: Stack, mdm: Mdm, tmp_path):
    image = make_image(tmp_path / "image.dcm", "CT_small.dcm")
    stack.store(image.path)
    rows = mdm.registered(image.patient_id)
    mdm.get("alice", rows[0]["lfn"])
    stack.kill("dicom-srm")
    stack.start("dicom-srm")
    result, files = mdm.get("alice", rows[0]["lfn"])
    assert (result.code, len(files)) == (0, 1), result.err


def test_storing_the_same_image_twice_registers_it_once(stack: Stack, mdm: Mdm, tmp_path):
    image = make_image(tmp_path / "image.dcm", "CT_small.dcm")
    stack.store(image.path)
    before = mdm.registered(image.patient_id)
    stack.store(image.path)
    time.sleep(3)
    assert mdm.images_of(image.patient_id) == before
