"""A curator empties a quarantine of ultrasound images: in Chromium, and by commands; nobody else gets anything of the desk."""

import json
import os
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
from mdm_site.file import to_toml
from mdm_testing.browser import PROGRAM, Browser
from mdm_testing.image import Image, make_image
from mdm_testing.process import eventually
from mdm_testing.stack import Mdm, Stack
from mdm_testing.viewer import Running, desk
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont
from pydicom.uid import generate_uid

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ULTRASOUND = "1.2.840.10008.5.1.4.1.1.6.1"
ROWS, COLUMNS, LINE = 240, 320, 30
#: How many images of each model the quarantine holds; the goal is 500 of two in ten minutes.
EACH = int(os.environ.get("MDM_DESK_IMAGES", "250"))


def ultrasounds(folder: Path, model: str, count: int, top: bool) -> list[Image]:
    """Write images of one model with the patient's name burned in at the top or bottom, 25 of a patient."""
    rng = np.random.default_rng(7)
    speckle = (rng.gamma(2.0, 18.0, (ROWS, COLUMNS)).clip(0, 200)).astype(np.uint8)
    made: list[Image] = []
    for number in range(count):
        of = made[-1] if number % 25 else None
        image = make_image(folder / f"{model}-{number}.dcm", "CT_small.dcm", of=of, number=number + 1)
        dataset = image.read()
        picture = Picture.fromarray(np.roll(speckle, number, axis=1))
        place = (6, 8) if top else (6, ROWS - 22)
        ImageDraw.Draw(picture).text(place, f"{image.patient_name} 13.03.1947", fill=255, font=ImageFont.load_default(14))
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = ULTRASOUND
        dataset.Modality, dataset.Manufacturer, dataset.ManufacturerModelName = "US", "Acme", model
        dataset.Rows, dataset.Columns, dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = ROWS, COLUMNS, 8, 8, 7
        dataset.PixelRepresentation, dataset.PhotometricInterpretation = 0, "MONOCHROME2"
        for keyword in ("RescaleSlope", "RescaleIntercept", "PixelPaddingValue", "SmallestImagePixelValue", "LargestImagePixelValue"):
            if keyword in dataset:
                del dataset[keyword]
        dataset.PixelData = picture.tobytes()
        dataset.save_as(image.path)
        made.append(image)
    return made


def kinds(mdm: Mdm) -> list[dict[str, Any]]:
    listed = mdm("curator", "--json", "quarantine", "kinds")
    assert listed.code == 0, listed.err
    return listed.rows()


def count_of(mdm: Mdm, model: str) -> int:
    return sum(row["count"] for row in kinds(mdm) if row["model"] == model)


def waiting(stack: Stack, mdm: Mdm, images: list[Image], model: str) -> dict[str, Any]:
    """Store images and return their kind, once all of them wait."""
    for start in range(0, len(images), 100):
        stack.store(*(image.path for image in images[start : start + 100]))
    eventually(lambda: count_of(mdm, model) == len(images), timeout=300)
    [found] = [row for row in kinds(mdm) if row["model"] == model]
    assert (found["reason"], found["columns"], found["rows"], found["releasable"]) == ("ULTRASOUND", COLUMNS, ROWS, True)
    return found


def fetched(mdm: Mdm, image: Image, count: int) -> np.ndarray:
    row = mdm.registered(image.patient_id, count)[0]
    result, [file] = mdm.get("alice", row["lfn"])
    assert result.code == 0, result.err
    dataset = pydicom.dcmread(file)
    assert dataset.BurnedInAnnotation == "NO" and image.patient_name not in str(dataset)
    pixels: np.ndarray = dataset.pixel_array
    return pixels


def test_by_commands_a_region_becomes_a_rule_and_all_alike_leave_blanked(stack: Stack, mdm: Mdm, tmp_path: Path):
    images = ultrasounds(tmp_path, "Commander", 6, top=True)
    kind = waiting(stack, mdm, images, "Commander")
    table = mdm("curator", "quarantine", "kinds")
    assert "Acme, Commander" in table.out and "320x240" in table.out and images[0].patient_id not in table.out

    shown = tmp_path / "shown.jpg"
    assert mdm("curator", "quarantine", "picture", kind["example"], "-o", str(shown)).code == 0
    assert shown.stat().st_mode & 0o777 == 0o600
    before = np.asarray(Picture.open(shown).convert("L"))
    assert before.shape == (ROWS, COLUMNS) and before[:LINE].max() > 230
    region = f"0,0,{COLUMNS},{LINE}"
    assert mdm("curator", "quarantine", "picture", kind["example"], "-o", str(shown), "--blank", region).code == 0
    after = np.asarray(Picture.open(shown).convert("L"))
    assert after[: LINE - 2].max() < 12 and after[LINE + 8 :].max() > 60

    for bad, reason in ((f"0,0,{COLUMNS + 1},5", "REGION_OUTSIDE"), ("0,0,0,5", "REGIONS_MALFORMED"), ("a,b", "REGIONS_MALFORMED")):
        refused = mdm("curator", "--json", "quarantine", "blank", kind["example"], "--region", bad)
        assert refused.code == 2 and reason in refused.err, refused.err
    assert count_of(mdm, "Commander") == 6

    made = mdm("curator", "--json", "quarantine", "blank", kind["example"], "--region", region, "--note", "line at the top")
    assert made.code == 0, made.err
    [facts] = made.rows()
    assert (facts["queued"], facts["failed"], facts["rule"]["regions"]) == (6, 0, [[0, 0, COLUMNS, LINE]])
    pixels = fetched(mdm, images[0], 6)
    assert pixels[:LINE].max() == 0 and pixels[LINE:].max() > 0
    assert (pixels[LINE:] == images[0].read().pixel_array[LINE:]).all()

    # One that arrives later needs nobody.
    [late] = ultrasounds(tmp_path, "Commander", 1, top=True)
    stack.store(late.path)
    assert fetched(mdm, late, 1)[:LINE].max() == 0
    made_by = [row for row in mdm("curator", "--json", "quarantine", "rules").rows() if row["name"] == facts["rule"]["name"]]
    assert made_by[0]["subject"].startswith("CN=curator,") and made_by[0]["note"] == "line at the top"
    decided = mdm("curator", "--json", "quarantine", "decisions", kind["example"]).rows()
    assert decided[0]["action"] == "retried" and facts["rule"]["name"] in decided[0]["note"]

    # The rule outlives the process, and its end holds images back.
    stack.kill("dicom-srm")
    stack.start("dicom-srm")
    assert fetched(mdm, late, 1)[:LINE].max() == 0
    assert mdm("curator", "quarantine", "end-rule", facts["rule"]["name"]).code == 0
    [held] = ultrasounds(tmp_path, "Commander", 1, top=True)
    waiting(stack, mdm, [held], "Commander")
    assert mdm("curator", "quarantine", "drop", kind["kind"], "--note", "done").code == 0
    assert count_of(mdm, "Commander") == 0
    assert mdm("curator", "--json", "quarantine", "drop", kind["kind"]).code == 2


@pytest.fixture
def curator(stack: Stack, tmp_path: Path) -> Iterator[Running]:
    with desk(stack.client_config("curator"), tmp_path) as running:
        yield running


def test_only_a_curators_certificate_and_the_right_token_get_anything(stack: Stack, mdm: Mdm, tmp_path: Path, curator: Running):
    images = ultrasounds(tmp_path, "Guarded", 2, top=True)
    kind = waiting(stack, mdm, images, "Guarded")
    picture, api = f"{curator.origin}/picture/{kind['example']}", f"{curator.origin}/api/overview"
    assert curator.http.get(picture).headers["Content-Type"] == "image/jpeg"
    assert any(row["model"] == "Guarded" for row in curator.http.post(api, json={}).json()["kinds"])
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert httpx.get(picture, headers=headers).status_code == 401
        assert httpx.post(api, json={}, headers=headers).status_code == 401
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert curator.http.get(picture, headers=headers).status_code == 403
    assert httpx.get(curator.address.replace("token=", "token=x")).status_code == 403
    for bad in ("/picture/nonsense", f"/picture/{kind['example']}?frame=x", f"/picture/{kind['example']}?regions=1,2;3"):
        answer = curator.http.get(curator.origin + bad)
        assert answer.status_code == 400 and answer.json()["reason"], answer.text
    assert curator.http.get(f"{curator.origin}/picture/{generate_uid()}").status_code == 400
    for asked in ({"action": "burn", "guids": []}, {"action": "drop"}, []):
        assert curator.http.post(f"{curator.origin}/api/decide", json=asked).status_code == 400
    listener = tomllib.loads(stack.client_config("curator").read_text())["curator"]
    for user in ("alice", "mallory", "operator"):
        config = stack.client_config(user).with_name(f"{user}-desk.toml")
        config.write_text(to_toml({**tomllib.loads(stack.client_config(user).read_text()), "curator": listener}))
        with desk(config, tmp_path) as running:
            for name in ("overview", "rules", "decisions"):
                refused = running.http.post(f"{running.origin}/api/{name}", json={})
                assert refused.status_code == 404 and refused.json()["reason"] == "METHOD_FORBIDDEN"
            answer = running.http.get(f"{running.origin}/picture/{kind['example']}")
            assert answer.status_code == 404 and answer.json()["reason"] == "METHOD_FORBIDDEN"
    assert mdm("alice", "desk", "--no-browser").code == 2, "without the address of a listener there is no desk"
    assert mdm("curator", "quarantine", "drop", kind["kind"]).code == 0


def test_the_desk_prints_one_address_and_leaves_nothing_behind(stack: Stack, tmp_path: Path):
    with desk(stack.client_config("curator"), tmp_path) as running:
        assert running.http.get(f"{running.origin}/").status_code == 200
    assert running.process.returncode == 0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.skipif(PROGRAM is None and os.environ.get("MDM_REQUIRE_ALL") != "1", reason="chromium is not installed")
def test_a_curator_empties_a_quarantine_of_two_models_in_a_browser(stack: Stack, mdm: Mdm, tmp_path: Path, curator: Running):
    pictures = Path(os.environ.get("MDM_SCREENSHOTS") or tmp_path)
    models = {"Upper": ultrasounds(tmp_path, "Upper", EACH, top=True), "Lower": ultrasounds(tmp_path, "Lower", EACH, top=False)}
    for model, images in models.items():
        waiting(stack, mdm, images, model)
    began = time.monotonic()
    with Browser() as browser:
        browser.go(curator.address)
        for left in (2, 1):
            browser.wait(f"document.querySelectorAll('#kinds tbody tr').length === {left}")
            _blank_all_alike(browser, pictures / f"desk-{left}.png")
        browser.wait("document.querySelector('#status').textContent.includes('judged again')")
        browser.wait("document.querySelectorAll('#kinds tbody tr').length === 0", 300)
        emptied = time.monotonic() - began
        _record(browser, pictures)
        assert not [error for error in browser.errors if "Security Policy" in error or "Error" in error], browser.errors
        outside = [address for address in browser.requests if not address.startswith((curator.origin, "data:"))]
        assert outside == []
    for model, images in models.items():
        count = min(25, EACH)
        blanked, kept = (
            (slice(0, LINE), slice(LINE + 2, ROWS)) if model == "Upper" else (slice(ROWS - LINE, ROWS), slice(0, ROWS - LINE - 2))
        )
        assert eventually(lambda images=images, count=count: len(mdm.images_of(images[0].patient_id)) == count, timeout=300)
        pixels = fetched(mdm, images[0], count)
        assert pixels[blanked].max() == 0 and pixels[kept].max() > 0
    assert kinds(mdm) == []
    print(f"a quarantine of {2 * EACH} images of two models was empty after {emptied:.0f} s")


def _blank_all_alike(browser: Browser, picture: Path) -> None:
    """Draw over the line of text with the mouse, look at the result, and let all images alike leave so; the first one is shown."""
    browser.wait("document.querySelector('#frame-picture').dataset.state === 'shown'")
    upper = browser.evaluate("document.querySelector('#kinds tr[aria-selected=true]').textContent.includes('Upper')")
    box = browser.evaluate(
        "(() => { const b = document.querySelector('#drawing').getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; })()"
    )
    left, top, width, height = box
    first, last = (0, LINE / ROWS) if upper else (1 - LINE / ROWS, 1)
    browser.drag((left + 1, top + 1 + first * height), (left + width - 1, top - 1 + last * height))
    browser.wait("document.querySelectorAll('#regions li').length === 1")
    region = browser.evaluate("document.querySelector('#regions input').value")
    # A mouse is not exact to the pixel of the image; a person corrects the number beside.
    wanted = f"0,{0 if upper else ROWS - LINE},{COLUMNS},{LINE}"
    assert all(abs(int(a) - int(b)) <= 3 for a, b in zip(region.split(","), wanted.split(","), strict=True)), region
    typed = f"i.value = {json.dumps(wanted)}; i.dispatchEvent(new Event('change'));"
    browser.evaluate(f"(() => {{ const i = document.querySelector('#regions input'); {typed} }})()")
    browser.screenshot(picture)
    browser.press("v", 86, "v")
    shown = "document.querySelector('#frame-picture').dataset.state === 'shown'"
    browser.wait(f"{shown} && document.querySelector('#frame-picture').src.includes('regions=')")
    browser.screenshot(picture.with_stem(f"{picture.stem}-leaving"))
    browser.press("v", 86, "v")
    browser.wait(f"{shown} && document.body.ariaBusy === 'false'")
    browser.press("b", 66, "b")
    browser.wait("document.querySelector('#sure').open")
    browser.screenshot(picture.with_stem(f"{picture.stem}-sure"))
    browser.evaluate("document.querySelector('#sure-yes').click()")
    browser.wait("!document.querySelector('#sure').open && document.body.ariaBusy === 'false'")
    assert browser.evaluate("document.querySelector('#problem').hidden"), browser.evaluate("document.querySelector('#problem').textContent")


def _record(browser: Browser, pictures: Path) -> None:
    """See who did what."""
    browser.evaluate("document.querySelector('#to-rules').click()")
    browser.wait("document.querySelectorAll('#rules tbody tr').length >= 2")
    browser.screenshot(pictures / "desk-rules.png")
    assert "CN=curator" in browser.evaluate("document.querySelector('#rules tbody').textContent")
    browser.evaluate("document.querySelector('#to-decisions').click()")
    browser.wait("document.querySelectorAll('#decisions tbody tr').length > 0")
    browser.screenshot(pictures / "desk-decisions.png")
    assert "pixel rule desk-" in browser.evaluate("document.querySelector('#decisions tbody').textContent")
