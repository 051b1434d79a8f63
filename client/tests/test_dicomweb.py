"""The DICOMweb gateway over a grid of fakes: what is found, what is fetched for it, and what memory holds."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from mdm_client import Client
from mdm_client.dicomweb.gateway import Gateway
from mdm_client.image.instance import frame
from mdm_wire.errors import Exhausted, Invalid, NotFound

from client.tests.imaging import imaging_grid, slices

ROOT = "http://127.0.0.1:1/dicom-web"
GEOMETRY = {
    **dict.fromkeys(("SOPInstanceUID", "FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"), "TEXT"),
    **dict.fromkeys(("BitsAllocated", "BitsStored", "PixelRepresentation", "SamplesPerPixel"), "INT"),
    **dict.fromkeys(("PhotometricInterpretation", "RescaleSlope", "RescaleIntercept"), "TEXT"),
}


@pytest.fixture
def imaging(pki, tmp_path):
    with imaging_grid(pki, tmp_path / "grid") as served:
        yield served


@pytest.fixture
def open_gateway(imaging):
    opened = []

    def start(**options) -> Gateway:
        client = Client.load(imaging.config())
        opened.append((client, Gateway(client, ROOT, **options)))
        return opened[-1][1]

    yield start
    for client, gateway in opened:
        gateway.close()
        client.close()


def values(document, tag):
    return document.get(tag, {}).get("Value")


def uids(listing, tag):
    return [values(document, tag)[0] for document in listing.found]


def test_studies_are_listed_from_records_alone_newest_first(imaging, open_gateway):
    old = imaging.add_study(slices(2), StudyDate="2001-05-06", StudyDescription="Chest", PatientSex="F")
    new = imaging.add_study(slices(1), slices(3), StudyDate="2011-01-01")
    undated = imaging.add_study(slices(1))
    listing = open_gateway().search_studies([("limit", "101"), ("offset", "0"), ("fuzzymatching", "false"), ("includefield", "00081030")])
    assert uids(listing, "0020000D") == [new, old, undated]
    study = listing.found[1]
    assert (values(study, "00080020"), values(study, "00081030"), values(study, "00100040")) == (["20010506"], ["Chest"], ["F"])
    assert (values(study, "00080061"), values(study, "00201206"), values(study, "00201208")) == (["CT"], [1], [2])
    assert values(study, "00081190") == [f"{ROOT}/studies/{old}"]
    assert study["00080050"] == {"vr": "SH"}
    assert not imaging.fetched()


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"StudyDescription": "*hea*"}, "a"),
        ({"00081030": "h?ad*"}, "a"),
        ({"StudyDate": "20200101-"}, "b"),
        ({"StudyDate": "-20191231"}, "a"),
        ({"StudyDate": "20200202"}, "b"),
        ({"ModalitiesInStudy": "CT,MR"}, "ab"),
        ({"ModalitiesInStudy": "MR"}, ""),
        ({"PatientSex": "M"}, "b"),
        ({"PatientName": "*"}, "ab"),
        ({"AccessionNumber": "1"}, ""),
        ({"StudyDescription": "100%"}, ""),
        ({"Rows": "16"}, "ab"),
        ({"Rows": "x"}, ""),
        ({"limit": "1", "offset": "1"}, "a"),
    ],
)
def test_matching_is_that_of_the_standard(imaging, open_gateway, asked, found):
    known = {
        imaging.add_study(slices(1), StudyDate="2019-01-01", StudyDescription="HEAD routine", PatientSex="F"): "a",
        imaging.add_study(slices(1), StudyDate="2020-02-02", StudyDescription="100 slices", PatientSex="M"): "b",
    }
    listing = open_gateway().search_studies(asked.items())
    assert "".join(sorted(known[uid] for uid in uids(listing, "0020000D"))) == found


@pytest.mark.parametrize("asked", [("StudyDate", "yesterday"), ("Nonsense", "1"), ("limit", "-1"), ("00990099", "x")])
def test_parameters_that_mean_nothing_are_refused(imaging, open_gateway, asked):
    imaging.add_study(slices(1))
    with pytest.raises(Invalid, match=r"date|keyword|number"):
        open_gateway().search_studies([asked])


def test_instances_without_a_uid_in_their_records_are_named_by_their_headers(imaging, open_gateway):
    images = slices(3)
    study = imaging.add_study(images)
    gateway = open_gateway()
    assert uids(gateway.search_instances(study, None, []), "00080018") == [str(image.SOPInstanceUID) for image in images]
    found = gateway.search_instances(study, None, [("SOPInstanceUID", str(images[1].SOPInstanceUID))])
    assert [values(document, "00200013") for document in found.found] == [[2]]


def test_a_search_over_everything_does_not_fetch_everything(imaging, open_gateway, monkeypatch):
    monkeypatch.setattr("mdm_client.dicomweb.gateway._FEW", 2)
    for _ in range(3):
        imaging.add_study(slices(2))
    gateway = open_gateway()
    assert len(gateway.search_instances(None, None, []).found) == 2
    assert gateway.search_instances(None, None, [("SOPInstanceUID", "1.2.3")]).found == []
    assert len(imaging.fetched()) == 2


def test_instances_are_found_whether_or_not_their_records_name_them(pki, tmp_path):
    with imaging_grid(pki, tmp_path / "grid", GEOMETRY) as imaging:
        images = slices(3)
        unnamed = images[1].SOPInstanceUID
        study = imaging.add_study(images)
        imaging.metadata.forget("SOPInstanceUID", str(unnamed))
        with Client.load(imaging.config()) as client, Gateway(client, ROOT) as gateway:
            for image in images:
                found = gateway.search_instances(study, None, [("SOPInstanceUID", str(image.SOPInstanceUID))])
                assert uids(found, "00080018") == [image.SOPInstanceUID]
                instance, _ = gateway.instance(study, None, str(image.SOPInstanceUID))
                assert instance.uid == image.SOPInstanceUID


def test_metadata_and_pixels_are_those_of_the_file(imaging, open_gateway):
    images = slices(3)
    study = imaging.add_study(images)
    gateway = open_gateway()
    headers = [json.loads(header) for header in gateway.metadata(study)]
    assert [values(header, "00080018") for header in headers] == [[str(image.SOPInstanceUID)] for image in images]
    assert values(headers[0], "00280030") == [0.5, 0.5]
    assert headers[0]["7FE00010"]["BulkDataURI"].startswith(f"{ROOT}/studies/{study}/")
    instance, data = gateway.instance(study, str(images[1].SeriesInstanceUID), str(images[1].SOPInstanceUID))
    assert bytes(frame(data, instance, 1)) == images[1].PixelData
    with pytest.raises(NotFound, match="frame 2 of 1"):
        frame(data, instance, 2)


@pytest.mark.parametrize("path", [("1.2", None, None), (None, "1.2", None), (None, None, "1.2")])
def test_what_is_not_there_is_not_found(imaging, open_gateway, path):
    images = slices(1)
    study = imaging.add_study(images)
    with pytest.raises(NotFound):
        list(open_gateway().metadata(path[0] or study, path[1] or images[0].SeriesInstanceUID, path[2] or images[0].SOPInstanceUID))


def test_records_that_suffice_save_the_files(pki, tmp_path):
    with imaging_grid(pki, tmp_path / "grid", GEOMETRY) as imaging:
        images = slices(4)
        study = imaging.add_study(images, StudyDate="2019-01-01")
        with Client.load(imaging.config()) as client, Gateway(client, ROOT) as gateway:
            brief = [json.loads(header) for header in gateway.metadata(study, brief=True)]
            assert not imaging.fetched()
            assert [values(header, "00080018") for header in brief] == [[str(image.SOPInstanceUID)] for image in images]
            assert values(brief[2], "00200032") == [0.0, 0.0, 3.0]
            whole = [json.loads(header) for header in gateway.metadata(study)]
            assert len(imaging.fetched()) == 4
            for tag in ("00200037", "00280030", "00281052", "00280101", "00280102", "00280103", "00280010", "00080020", "00083002"):
                if tag in whole[0]:
                    assert values(brief[0], tag) == values(whole[0], tag), tag


def test_the_image_that_is_looked_at_does_not_wait_for_the_rest_of_its_series(imaging, open_gateway):
    images = slices(40)
    study = imaging.add_study(images)
    gateway = open_gateway()
    held = [image for image in imaging.catalog.images.values() if not image.lfn.endswith("/0031.dcm")]
    for image in held:
        image.held = True
    waiting = threading.Thread(target=lambda: list(gateway.metadata(study)))
    waiting.start()
    try:
        record = gateway.studies.get(study).of_series(None)[30]
        from mdm_client.dicomweb.study import ref_of

        instance, _ = gateway.files.file(ref_of(record))
        assert instance.uid == images[30].SOPInstanceUID
        assert waiting.is_alive()
    finally:
        imaging.srm.hold.set()
        waiting.join(30)


def test_looking_at_an_image_fetches_its_neighbours_then_the_series(imaging, open_gateway):
    images = slices(30)
    study = imaging.add_study(images)
    gateway = open_gateway()
    gateway.instance(study, None, str(images[10].SOPInstanceUID))
    end = time.monotonic() + 20
    while len([image for image in imaging.catalog.images.values() if image.guid in gateway.cache]) < 30:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_memory_is_bounded_and_what_it_forgot_is_fetched_again(imaging, open_gateway):
    images = slices(20, 64)
    study = imaging.add_study(images)
    gateway = open_gateway(memory=50_000)
    assert len(list(gateway.metadata(study))) == 20
    assert gateway.cache.held <= 50_000
    for image in images:
        instance, data = gateway.instance(study, str(image.SeriesInstanceUID), str(image.SOPInstanceUID))
        assert bytes(frame(data, instance, 1)) == image.PixelData
        assert gateway.cache.held <= 50_000


def test_memory_is_bounded_when_all_series_of_a_study_are_asked_for_at_once(imaging, open_gateway):
    series = [slices(12, 64) for _ in range(4)]
    study = imaging.add_study(*series)
    gateway = open_gateway(memory=60_000)
    most, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            most[0] = max(most[0], gateway.cache.held)

    watching = threading.Thread(target=watch)
    watching.start()
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(lambda images: len(list(gateway.metadata(study, str(images[0].SeriesInstanceUID)))), series))
    done.set()
    watching.join()
    assert counts == [12] * 4
    assert 0 < most[0] <= 120_000, "what is held, and as much again reserved for what arrives"
    assert gateway.cache.held <= 60_000


def test_an_image_larger_than_the_memory_is_refused_with_the_reason(imaging, open_gateway):
    study = imaging.add_study(slices(1, 64))
    with pytest.raises(Exhausted, match="--memory"):
        list(open_gateway(memory=4_000).metadata(study))


def test_the_cache_on_disk_is_ciphertext_and_ends_with_the_gateway(imaging, tmp_path):
    images = slices(12, 64)
    study = imaging.add_study(images)
    with Client.load(imaging.config()) as client, Gateway(client, ROOT, memory=20_000, cache=tmp_path / "cache") as gateway:
        list(gateway.metadata(study))
        kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
        assert len(kept) >= 8
        assert not any(b"DICM" in path.read_bytes() or bytes([3, 0]) * 32 in path.read_bytes() for path in kept)
        before = dict(imaging.srm.asked)
        instance, data = gateway.instance(study, None, str(images[0].SOPInstanceUID))
        assert bytes(frame(data, instance, 1)) == images[0].PixelData
        assert imaging.srm.asked[imaging.image_of(images[0].SOPInstanceUID).surl] == before[imaging.image_of(images[0].SOPInstanceUID).surl]
    assert list((tmp_path / "cache").iterdir()) == []


def test_nothing_is_written_in_plaintext(imaging, open_gateway, tmp_path, monkeypatch):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    study = imaging.add_study(slices(5))
    list(open_gateway().metadata(study))
    assert [path for path in tmp_path.rglob("*") if path.is_file() and b"DICM" in path.read_bytes()] == []


def test_a_file_without_a_key_leaves_the_others(imaging, open_gateway):
    images = slices(3)
    study = imaging.add_study(images)
    lost = imaging.image_of(images[1].SOPInstanceUID)
    for keystore in imaging.keystores:
        del keystore.shares[str(lost.guid)]
    assert len(list(open_gateway().metadata(study))) == 2


def test_studies_of_two_sites_stand_in_one_list_and_a_site_that_is_away_is_named(imaging, pki, tmp_path):
    ours = imaging.add_study(slices(1), StudyDate="2001-01-01")
    with imaging_grid(pki, tmp_path / "other", base="/biomed/hospital-b") as other:
        theirs = other.add_study(slices(1), StudyDate="2002-01-01")
        both = f'site_seconds = 0.5\n[metadata_sites]\nhospital-b = ["{other.addresses["metadata"]}"]\nhospital-c = ["127.0.0.1:1"]\n'
        config = imaging.config()
        keys, _, sites = config.read_text().partition("[[keystores]]")
        config.write_text(keys + both.splitlines()[0] + "\n[[keystores]]" + sites + both.partition("\n")[2])
        with Client.load(config) as client, Gateway(client, ROOT) as gateway:
            listing = gateway.search_studies([])
            assert uids(listing, "0020000D") == [theirs, ours]
            assert set(listing.failures) == {"hospital-c"}
            assert uids(gateway.search_studies([("limit", "1"), ("offset", "1")]), "0020000D") == [ours]
            assert len(list(gateway.metadata(ours))) == 1


def test_a_file_of_the_second_site_is_fetched_from_there(imaging, pki, tmp_path):
    """The grid's catalog does not know it: its own site's record leads to it, and the keystores of the grid have its key."""
    images = slices(3)
    with imaging_grid(pki, tmp_path / "other", base="/biomed/hospital-b") as other:
        study = other.add_study(images)
        for image in other.catalog.images.values():
            image.surl = f"srm://hospital-b/{image.guid}"
        for keystore, theirs in zip(imaging.keystores, other.keystores, strict=True):
            keystore.shares.update(theirs.shares)
        config = imaging.config()
        more = f'hospital-b = ["{other.addresses["catalog"]}"]\n[metadata_sites]\nhospital-b = ["{other.addresses["metadata"]}"]\n'
        config.write_text(config.read_text() + more)
        with Client.load(config) as client, Gateway(client, ROOT) as gateway:
            assert uids(gateway.search_studies([]), "0020000D") == [study]
            instance, data = gateway.instance(study, None, images[1].SOPInstanceUID)
            assert bytes(frame(data, instance, 1)) == images[1].PixelData
            assert client.volume(images[0].SeriesInstanceUID).array.shape == (16, 16, 3)
        assert other.fetched() and not imaging.fetched()


def test_a_list_is_bounded_by_ten_thousand_whatever_is_asked(imaging, open_gateway):
    imaging.add_study(slices(1))
    gateway = open_gateway()
    for asked in ([], [("limit", "1000000")]):
        imaging.metadata.asked.clear()
        assert len(gateway.search_studies(asked).found) == 1
        [listing] = [sql for sql in imaging.metadata.asked if 'FROM "/biomed/hospital-a/studies"' in sql]
        assert listing.endswith(" LIMIT 10000")
