"""The requests of Weasis and of 3D Slicer, one after the other as these programs send them, against the local server.

Neither program is run here: the requests are those that they are known to send.
"""

import email.parser
import email.policy
import io

import httpx
import pydicom
import pytest
from mdm_client import Client
from mdm_client.view.server import ViewOptions

from client.tests.imaging import imaging_grid, slices
from client.tests.test_view import served

_WHOLE = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_JSON = "application/dicom+json"


@pytest.fixture
def imaging(pki, tmp_path):
    with imaging_grid(pki, tmp_path / "grid") as grid:
        yield grid


@pytest.fixture
def ask(imaging, tmp_path):
    """Ask for a path and get the answer, which must be one of success."""
    options = ViewOptions(viewer=tmp_path / "no-viewer", searches=tmp_path / "searches.json")
    with Client.load(imaging.config()) as client, served(client, options) as server:
        headers = {"Authorization": f"Bearer {server.guard.token}"}
        with httpx.Client(base_url=f"{server.guard.origin}/dicom-web", headers=headers, timeout=30) as http:

            def get(path: str, accept: str, **parameters) -> httpx.Response:
                return http.get(path, headers={"Accept": accept}, params=parameters).raise_for_status()

            yield get


def parts(answer: httpx.Response) -> list[pydicom.Dataset]:
    """Return the DICOM files of a multipart answer."""
    head = f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + answer.content)
    found = []
    for part in message.iter_parts():
        assert part.get_content_type() == "application/dicom"
        found.append(pydicom.dcmread(io.BytesIO(part.get_payload(decode=True))))
    return found


def value(document: dict, tag: str):
    return document[tag]["Value"][0]


def test_weasis_finds_a_study_in_five_ways_shows_a_thumbnail_and_takes_the_series(imaging, ask):
    images = slices(7)
    study = imaging.add_study(images, slices(2), StudyDate="2001-01-01")
    patient, series = images[0].PatientID, images[0].SeriesInstanceUID
    for path, asked in (
        ("/studies", {"00100020": patient, "includefield": "00080020,00080030,00080050,00081030,00080090"}),
        ("/studies", {"0020000D": study}),
        ("/series", {"0020000E": series, "includefield": "0020000D"}),
        ("/instances", {"00080018": images[0].SOPInstanceUID, "0020000D": study}),
    ):
        found = ask(path, _JSON, **asked).json()
        assert [value(item, "0020000D") for item in found] == [study], path
    assert ask("/studies", _JSON, **{"00080050": "NONE"}).text.strip() in ("", "[]")  # there are no accession numbers
    listed = ask(f"/studies/{study}/series", _JSON, includefield="0008103E,00200011,00081190").json()
    chosen = next(item for item in listed if value(item, "0020000E") == series)
    address = value(chosen, "00081190")
    assert address.endswith(f"/studies/{study}/series/{series}")
    picture = ask(f"{address}/thumbnail", "image/jpeg", viewport="256,256")
    assert picture.headers["Content-Type"] == "image/jpeg" and picture.content.startswith(b"\xff\xd8")
    rendered = ask(f"{address}/instances/{images[0].SOPInstanceUID}/rendered", "image/jpeg", viewport="256,256")
    assert rendered.content.startswith(b"\xff\xd8")
    first = ask(f"{address}/instances", _JSON, limit=5, offset=0).json()
    rest = ask(f"{address}/instances", _JSON, limit=5, offset=5).json()
    assert [value(item, "00080018") for item in first + rest] == [image.SOPInstanceUID for image in images]
    got = parts(ask(address, _WHOLE))
    assert [file.SOPInstanceUID for file in got] == [image.SOPInstanceUID for image in images]
    assert [bytes(file.PixelData) for file in got] == [image.PixelData for image in images]


def test_slicer_lists_patients_studies_and_series_and_takes_instance_by_instance_or_all(imaging, ask):
    images = slices(4)
    study = imaging.add_study(images, StudyDescription="Chest")
    series = images[0].SeriesInstanceUID
    any_type = 'multipart/related; type="*/*"'
    assert value(ask("/studies", f"{_JSON}, application/json", offset=0).json()[0], "0020000D") == study
    assert value(ask(f"/studies/{study}/series", f"{_JSON}, application/json").json()[0], "0020000E") == series
    headers = ask(f"/studies/{study}/series/{series}/metadata", _JSON).json()
    assert [value(header, "00200013") for header in headers] == [1, 2, 3, 4]
    for header, image in zip(headers, images, strict=True):
        uid = value(header, "00080018")
        single = ask(f"/studies/{study}/series/{series}/instances/{uid}", 'multipart/related; type="application/dicom"')
        [file] = parts(single)
        assert (file.SOPInstanceUID, bytes(file.PixelData)) == (uid, image.PixelData)
    assert len(parts(ask(f"/studies/{study}/series/{series}", any_type))) == 4
    assert len(parts(ask(f"/studies/{study}", any_type))) == 4
