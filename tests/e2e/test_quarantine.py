"""A curator decides about quarantined images, through storescu, Orthanc and the `mdm` command; nobody else sees or decides anything."""

import tomllib
from pathlib import Path
from typing import Any

import pydicom
import pytest
from mdm_site.file import to_toml
from mdm_testing.image import Image, make_image
from mdm_testing.process import eventually
from mdm_testing.stack import Mdm, Stack
from pydicom.uid import generate_uid

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

ULTRASOUND = "1.2.840.10008.5.1.4.1.1.6.1"


@pytest.fixture
def ultrasound(stack: Stack, mdm: Mdm, tmp_path: Path) -> tuple[Image, list[str]]:
    """An ultrasound study of three images that wait, and their GUIDs."""
    image = make_image(tmp_path / "us.dcm", "CT_small.dcm")
    before = {row["series"] for row in waiting(mdm)}
    paths = []
    for number in range(3):
        dataset = image.read()
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = ULTRASOUND
        dataset.Modality, dataset.InstanceNumber = "US", number + 1
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        paths.append(tmp_path / f"us-{number}.dcm")
        dataset.save_as(paths[-1])
    stack.store(*paths)
    [group] = eventually(lambda: [row for row in waiting(mdm) if row["series"] not in before and row["count"] == 3])
    assert (group["reason"], group["releasable"]) == ("ULTRASOUND", True)
    guids = [row["guid"] for row in mdm("curator", "--json", "quarantine", "ls", group["series"]).rows()]
    assert len(guids) == 3
    return image, guids


def waiting(mdm: Mdm) -> list[dict]:
    listed = mdm("curator", "--json", "quarantine", "ls")
    assert listed.code == 0, listed.err
    return listed.rows()


def test_a_quarantined_ultrasound_is_listed_shown_released_and_fetched_and_another_dropped(
    stack: Stack, mdm: Mdm, ultrasound: tuple[Image, list[str]]
):
    image, guids = ultrasound
    table = mdm("curator", "quarantine", "ls")
    assert "ULTRASOUND" in table.out and image.patient_id not in table.out
    shown = mdm("curator", "quarantine", "show", guids[0])
    assert all(text in shown.out for text in (image.patient_id, image.study_uid, "ULTRASOUND", "may be released"))
    [facts] = mdm("curator", "--json", "quarantine", "show", guids[0]).rows()
    assert ("Modality", "US") in [(item["keyword"], item["value"]) for item in facts["suspicious"]]

    done = mdm("curator", "quarantine", "release", guids[0], "--note", "no text in the image")
    assert done.code == 0, done.err
    [row] = mdm.registered(image.patient_id)
    assert row["guid"] == guids[0]
    result, [file] = mdm.get("alice", row["lfn"])
    assert result.code == 0, result.err
    assert pydicom.dcmread(file).Modality == "US"

    assert mdm("curator", "quarantine", "drop", guids[1]).code == 0
    again = mdm("curator", "quarantine", "release", guids[1])
    assert again.code == 3 and "No such instance waits" in again.err, again.err
    assert mdm("curator", "quarantine", "show", guids[1]).code == 3
    left = mdm("curator", "--json", "quarantine", "ls", facts["series"]).rows()
    assert [item["guid"] for item in left] == [guids[2]]
    made = mdm("curator", "--json", "quarantine", "decisions", guids[0]).rows()
    assert [(item["action"], item["reason"], item["note"]) for item in made] == [("released", "ULTRASOUND", "no text in the image")]
    assert made[0]["subject"].startswith("CN=curator,")

    # Judged anew by another process, the release holds, and staging keeps to it.
    stack.kill("dicom-srm")
    stack.start("dicom-srm")
    again = mdm("operator", "register", "--study", image.study_uid, "--wait")
    assert "1 published, 2 quarantined" in again.out, "what was dropped waits again when its study is registered anew"
    assert [found["guid"] for found in mdm.registered(image.patient_id)] == [guids[0]]
    assert mdm.get("alice", row["lfn"])[0].code == 0


def test_nobody_but_a_curator_sees_or_decides_anything(stack: Stack, mdm: Mdm, ultrasound: tuple[Image, list[str]]):
    _, guids = ultrasound
    curator = tomllib.loads(stack.client_config("curator").read_text())
    for user in ("alice", "mallory", "operator"):
        own = tomllib.loads(stack.client_config(user).read_text())
        config = written(stack, user, {**own, "curator": curator["curator"]})
        for command in (["ls"], ["show", guids[0]], ["release", guids[0]], ["drop", guids[0]], ["retry", guids[0]], ["decisions"]):
            refused = mdm(user, "--json", "quarantine", *command, config=config)
            assert refused.code == 3 and "METHOD_FORBIDDEN" in refused.err and not refused.out, refused.err
    # The listener on the grid's side does not serve it, not even to a curator, and the hospital's serves nothing else.
    swapped = {**curator, "curator": curator["srm"], "srm": curator["curator"]}
    assert mdm("curator", "quarantine", "ls", config=written(stack, "curator", curator)).code == 0
    for user, command in (("curator", ["quarantine", "ls"]), ("curator", ["get", guids[0]]), ("operator", ["conflicts"])):
        own = tomllib.loads(stack.client_config(user).read_text())
        refused = mdm(
            user, "--json", *command, config=written(stack, user, {**swapped, **{key: own[key] for key in ("certificate", "key")}})
        )
        assert refused.code != 0 and not refused.out, refused.err
    assert {row["guid"] for row in mdm("curator", "--json", "quarantine", "ls", facts_series(mdm, guids[0])).rows()} == set(guids)


def facts_series(mdm: Mdm, guid: str) -> str:
    [facts] = mdm("curator", "--json", "quarantine", "show", guid).rows()
    return str(facts["series"])


def written(stack: Stack, user: str, configuration: dict[str, Any]) -> Path:
    """Write another client configuration beside a user's own."""
    path = stack.client_config(user).with_name(f"{user}-other.toml")
    path.write_text(to_toml(configuration))
    return path


def test_what_cannot_be_asked_is_one_clear_error(mdm: Mdm):
    for arguments, reason in (
        (["ls", "nonsense"], "SERIES_MALFORMED"),
        (["show", "nonsense"], "GUID_MALFORMED"),
        (["release", "0" * 32], "NOTHING_WAITS"),
        (["ls", "--site", "elsewhere"], "SITE_UNKNOWN"),
    ):
        refused = mdm("curator", "--json", "quarantine", *arguments)
        assert refused.code == 2 and reason in refused.err, refused.err
    refused = mdm("alice", "quarantine", "ls")
    assert refused.code == 2 and "[curator]" in refused.err
