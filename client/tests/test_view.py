"""The local server: who may speak to it, and what clients of DICOMweb and the find page get."""

import asyncio
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from mdm_client import Client
from mdm_client.view import ohif
from mdm_client.view.searches import Searches
from mdm_client.view.server import ViewOptions, ViewServer
from mdm_wire.errors import Corrupt, Exhausted, FailedPrecondition, Invalid

from client.tests.imaging import imaging_grid, slices


@contextmanager
def served(client: Client, options: ViewOptions) -> Iterator[ViewServer]:
    server = ViewServer(client, options)
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    task = loop.create_task(server.run(ready.set))
    thread = threading.Thread(target=lambda: loop.run_until_complete(task))
    thread.start()
    try:
        assert ready.wait(10)
        yield server
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(10)
        server.close()
        loop.close()


@pytest.fixture
def imaging(pki, tmp_path):
    with imaging_grid(pki, tmp_path / "grid") as grid:
        yield grid


@pytest.fixture
def server(imaging, tmp_path):
    options = ViewOptions(viewer=tmp_path / "no-viewer", searches=tmp_path / "searches.json")
    with Client.load(imaging.config()) as client, served(client, options) as running:
        yield running


@pytest.fixture
def programme(server):
    with httpx.Client(base_url=server.guard.origin, headers={"Authorization": f"Bearer {server.guard.token}"}, timeout=30) as client:
        yield client


def ask(client, name, /, **question):
    return client.post(f"/api/{name}", json=question)


def test_the_address_lets_one_browser_in_once(server):
    address = server.guard.entrance("/viewer?StudyInstanceUIDs=1")
    with httpx.Client() as browser, httpx.Client() as other:
        answer = browser.get(address)
        assert (answer.status_code, answer.headers["Location"]) == (303, "/viewer?StudyInstanceUIDs=1")
        cookie = answer.headers["Set-Cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
        assert browser.get(f"{server.guard.origin}/").status_code == 200
        assert browser.get(f"{server.guard.origin}/dicom-web/studies").status_code == 200
        assert other.get(address).status_code == 403
        assert browser.get(address).status_code == 303
        assert other.get(f"{server.guard.origin}/").status_code == 401


@pytest.mark.parametrize(
    "target", ["//evil.example/", "/\\evil.example", "https://evil.example/", "evil", "/\t/evil.example", "/\n/evil.example"]
)
def test_the_entrance_leads_nowhere_else(server, target):
    assert httpx.get(server.guard.entrance(target)).headers["Location"] == "/"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Bearer \u00e4".encode("latin-1")}, 401),
        ({"Authorization": "Basic right"}, 401),
        ({"Authorization": "Bearer right", "Host": "evil.example"}, 403),
        ({"Authorization": "Bearer right", "Host": "localhost:1"}, 403),
        ({"Authorization": "Bearer right", "Origin": "http://evil.example"}, 403),
        ({"Authorization": "Bearer right", "Origin": "null"}, 403),
        ({"Authorization": "Bearer right", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Authorization": "Bearer right", "Sec-Fetch-Site": "same-site"}, 403),
        ({"Host": "127.0.0.1"}, 403),
        ({"Authorization": "Bearer right", "Host": "127.0.0.1"}, 200),
        ({"Authorization": "Bearer right"}, 200),
    ],
)
def test_only_this_session_from_this_origin_is_answered(server, headers, status):
    given = {name: value.replace("right", server.guard.token) if isinstance(value, str) else value for name, value in headers.items()}
    for path in ("/", "/dicom-web/studies", "/viewer-web/studies", "/find.js", "/nothing"):
        answer = httpx.get(server.guard.origin + path, headers=given)
        assert answer.status_code == (404 if status == 200 and path == "/nothing" else status), path
        assert server.guard.token not in answer.text


def test_another_user_of_the_machine_gets_nothing_even_with_the_token(server):
    if os.getuid() != 0 or not os.path.exists("/proc/net/tcp"):  # noqa: PTH110 - not a path of ours
        pytest.skip("only root can become somebody else, and only Linux says whose a connection is")
    script = (
        "import urllib.request, urllib.error, sys\n"
        "request = urllib.request.Request(sys.argv[1], headers={'Authorization': 'Bearer ' + sys.argv[2]})\n"
        "try: print(urllib.request.urlopen(request, timeout=10).status)\n"
        "except urllib.error.HTTPError as error: print(error.code)\n"
    )
    command = [sys.executable, "-S", "-c", script, server.guard.origin + "/", server.guard.token]
    own = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    other = subprocess.run(
        ["/usr/bin/python3", "-S", *command[2:]], capture_output=True, text=True, timeout=30, user=65534, group=65534, cwd="/", check=False
    )
    assert own.stdout.strip() == "200", own.stderr
    assert other.stdout.strip() == "403", other.stderr


def test_every_answer_is_protected(programme):
    for path in ("/", "/find.js", "/nothing", "/dicom-web/studies", "/enter"):
        headers = programme.get(path).headers
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
        assert (headers["X-Content-Type-Options"], headers["Referrer-Policy"]) == ("nosniff", "no-referrer")
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Cache-Control"] == "no-store"
        assert "Server" not in headers


def test_the_page_has_no_inline_script_or_style(programme):
    page = programme.get("/").text
    assert "<script src=" in page and "style=" not in page and "<style" not in page
    assert not [word for word in page.split() if word.startswith("on") and "=" in word]


def test_dicomweb_client_gets_what_it_asks(imaging, server):
    web = pytest.importorskip("dicomweb_client")
    requests = pytest.importorskip("requests")
    images = slices(3)
    study = imaging.add_study(images)
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {server.guard.token}"
    client = web.DICOMwebClient(server.gateway.root, session=session)
    series, uid = str(images[1].SeriesInstanceUID), str(images[1].SOPInstanceUID)
    assert [found["0020000D"]["Value"] for found in client.search_for_studies(search_filters={"ModalitiesInStudy": "CT"})] == [[study]]
    assert client.search_for_series(study)[0]["0020000E"]["Value"] == [series]
    assert len(client.search_for_instances(study, series, limit=2, offset=1)) == 2
    assert client.retrieve_instance_metadata(study, series, uid)["00080018"]["Value"] == [uid]
    assert len(client.retrieve_series_metadata(study, series)) == len(client.retrieve_study_metadata(study)) == 3
    assert client.retrieve_instance(study, series, uid).PixelData == images[1].PixelData
    assert len(client.retrieve_series(study, series)) == len(client.retrieve_study(study)) == 3
    assert client.retrieve_instance_frames(study, series, uid, [1]) == [images[1].PixelData]
    assert client.retrieve_instance_rendered(study, series, uid, media_types=("image/png",)).startswith(b"\x89PNG")
    assert client.retrieve_instance_frames_rendered(study, series, uid, [1], media_types=("image/jpeg",)).startswith(b"\xff\xd8")
    assert client.retrieve_bulkdata(client.retrieve_instance_metadata(study, series, uid)["7FE00010"]["BulkDataURI"]) == [
        images[1].PixelData
    ]
    with pytest.raises(requests.HTTPError, match="404"):
        client.retrieve_instance_metadata(study, series, "1.2.3")


def test_the_parameter_accept_wins_over_the_header(imaging, programme):
    study = imaging.add_study(slices(1))
    answer = programme.get(
        f"/dicom-web/studies/{study}/thumbnail?accept=image/jpeg", headers={"Accept": 'multipart/related; type="image/png"'}
    )
    assert answer.headers["Content-Type"] == "image/jpeg"
    answer = programme.get(f"/dicom-web/studies/{study}/thumbnail", headers={"Accept": 'multipart/related; type="image/png"'})
    assert answer.headers["Content-Type"].startswith('multipart/related; type="image/png"')


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/dicom-web/studies?StudyDate=x", 400),
        ("GET", "/dicom-web/studies/1.2/metadata", 404),
        ("GET", "/dicom-web/studies/1.2", 404),
        ("GET", "/dicom-web/studies/1.2/series/1/instances/1/frames/x", 400),
        ("GET", "/dicom-web/studies/1.2/series/1/instances/1/frames/0", 404),
        ("GET", "/dicom-web/nothing", 404),
        ("POST", "/dicom-web/studies", 405),
        ("DELETE", "/dicom-web/studies/1.2", 405),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404),
    ],
)
def test_everything_else_is_refused_by_its_status(programme, method, path, status):
    assert programme.request(method, path).status_code == status


def test_a_format_that_is_not_offered_is_406(imaging, programme):
    study = imaging.add_study(slices(1))
    assert programme.get("/dicom-web/studies", headers={"Accept": "application/dicom+xml"}).status_code == 406
    assert programme.get(f"/dicom-web/studies/{study}", headers={"Accept": "image/png"}).status_code == 406


def test_facets_come_from_the_schema_and_count_studies(imaging, programme):
    imaging.add_study(slices(2), PatientSex="F", StudyDate="2019-01-01", StudyDescription="Head")
    imaging.add_study(slices(1), PatientSex="M", StudyDate="2020-01-01")
    found = ask(programme, "facets").json()
    assert found["sites"] == ["hospital-a"]
    assert [(facet["name"], facet["kind"]) for facet in found["facets"]] == [
        ("StudyDate", "dates"),
        ("PatientSex", "values"),
        ("PatientAge", "values"),
        ("Modality", "values"),
    ]
    counts = ask(programme, "counts", name="PatientSex", filters={"PatientSex": ["F"]}).json()
    assert counts == [{"value": "F", "count": 1}, {"value": "M", "count": 1}]
    assert ask(programme, "counts", name="site", filters={"text": "head"}).json() == [{"value": "hospital-a", "count": 1}]
    answer = ask(programme, "search", filters={"PatientSex": ["F"], "StudyDate": {"from": "2018-01-01", "to": "2019-12-31"}}).json()
    assert (answer["total"], answer["studies"][0]["description"], answer["studies"][0]["images"]) == (1, "Head", 2)
    assert ask(programme, "search", filters={"site": ["hospital-b"]}).json()["total"] == 0


def test_sql_gives_rows_and_their_studies(imaging, programme):
    study = imaging.add_study(slices(2))
    answer = ask(programme, "sql", sql='SELECT guid, Rows FROM "/biomed/hospital-a/images"').json()
    assert (answer["columns"], [row[1] for row in answer["rows"]], answer["studies"]) == (["guid", "Rows"], [16, 16], [study, study])


@pytest.mark.parametrize("question", [b"", b"[]", b"{}", b'{"filters": 3}', b'{"filters": {"StudyDate": {"from": "x"}}}', b"\xff"])
def test_questions_that_mean_nothing_are_400(programme, question):
    answer = programme.post(
        "/api/search" if b"filters" in question else "/api/sql", content=question, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400
    assert answer.json()["reason"] in ("QUESTION_MALFORMED", "FILTER_MALFORMED")


def test_a_form_of_another_page_cannot_ask(programme):
    assert programme.post("/api/searches", content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 400


def test_the_record_of_deidentification_is_shown(imaging, programme):
    images = slices(1)
    images[0].PatientIdentityRemoved, images[0].DeidentificationMethod, images[0].PatientBirthDate = "YES", "MDM test", ""
    found = ask(programme, "deidentification", study=imaging.add_study(images)).json()
    assert (found["removed"], found["method"], found["codes"]) == ("YES", "MDM test", [])
    assert "Patient's Birth Date" in found["empty"]


def test_searches_are_kept_for_this_user_only(programme, tmp_path):
    assert ask(programme, "save", name="heads", search={"filters": {"text": "head"}}).json() == {"heads": {"filters": {"text": "head"}}}
    file = tmp_path / "searches.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert ask(programme, "searches").json() == json.loads(file.read_text())
    assert ask(programme, "save", name="heads", search=None).json() == {}
    assert ask(programme, "save", name=" ", search={}).status_code == 400


def test_too_many_searches_are_refused(tmp_path):
    searches = Searches(tmp_path / "s.json")
    with pytest.raises(Exhausted):
        searches.put("large", {"sql": "x" * 70_000})
    (tmp_path / "s.json").write_text("not JSON")
    assert searches.all() == {}


def test_a_port_that_is_taken_is_an_error(imaging, server):
    with Client.load(imaging.config()) as client, pytest.raises(Invalid, match="cannot be used"):
        ViewServer(client, ViewOptions(port=server.guard.port))


def test_targets_lead_to_their_studies(imaging, server):
    from mdm_client.name_syntax import Name
    from mdm_wire.errors import NotFound

    images = slices(2)
    study = imaging.add_study(images)
    image = imaging.image_of(images[0].SOPInstanceUID)
    directory = image.lfn.rpartition("/")[0]
    for name in (
        Name(guid=image.guid),
        Name(lfn=image.lfn),
        Name(lfn=directory),
        Name(lfn=directory.rpartition("/")[0]),
        Name(lfn="/biomed"),
    ):
        assert server.finder.studies_of([name]) == [study]
    with pytest.raises(NotFound):
        server.finder.studies_of([Name(lfn="/biomed/hospital-a/nobody")])


def test_a_package_of_another_hash_is_not_installed(tmp_path):
    (tmp_path / "other.tgz").write_bytes(b"anything")
    with pytest.raises(Corrupt, match="nothing was installed"):
        ohif.install(tmp_path / "viewer", tmp_path / "other.tgz")
    assert not ohif.is_installed(tmp_path / "viewer")


def test_without_npm_one_line_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FailedPrecondition, match="npm pack"):
        ohif.install(tmp_path / "viewer")


def test_without_the_extra_one_line_says_how_to_get_it(monkeypatch):
    from mdm_client.cli.app import main

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Invalid, match=r"pip install 'mdm-client\[view\]'"):
        main.main(["view"], standalone_mode=False)


def test_the_sdk_and_the_other_commands_do_not_import_what_the_extra_brings():
    script = (
        "import sys; from mdm_client import Client; from mdm_client.cli.app import main; import mdm_client.cli.view\n"
        "print(sorted({'aiohttp', 'pydicom', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
