"""Results come back: made from fetched images, put, found, shown over them, translated back for the PACS, removed."""

import hashlib
import subprocess
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pydicom
import pytest
from mdm.srm.v1 import result_pb2 as pb
from mdm_client.client import Client
from mdm_client.result.ciphertext import Ciphertext
from mdm_testing.derived import ct_series, rt_structure, segmentation
from mdm_testing.image import Image
from mdm_testing.local_stack import LocalStack
from mdm_testing.process import BIN, eventually
from mdm_testing.stack import Mdm, Stack
from mdm_testing.viewer import viewer
from mdm_wire.errors import Corrupt, FailedPrecondition, Invalid, NotFound

pytestmark = pytest.mark.e2e

RESULTS = "/biomed/hospital-a/results"
SLICES = 3


@dataclass(frozen=True)
class Fetched:
    """A file that `mdm get` brought, as what draws over images reads it."""

    path: Path

    def read(self) -> pydicom.Dataset:
        return pydicom.dcmread(self.path)


@pytest.fixture(scope="module")
def originals(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> list[Image]:
    """A CT series, registered; and the directory for results."""
    series = ct_series(tmp_path_factory.mktemp("original"), SLICES)
    stack.store(*(image.path for image in series))
    mdm = Mdm(stack, tmp_path_factory.mktemp("scratch"))
    mdm.registered(series[0].patient_id, SLICES)
    eventually(lambda: mdm("alice", "stat", RESULTS).code == 0)
    return series


@pytest.fixture(scope="module")
def rows(stack: Stack, originals: list[Image], tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return Mdm(stack, tmp_path_factory.mktemp("scratch")).registered(originals[0].patient_id, SLICES)


@pytest.fixture(scope="module")
def drawn(stack: Stack, rows: list[dict], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A segmentation and a structure set that a researcher made of what `mdm get` brought, put into the result space."""
    folder = tmp_path_factory.mktemp("drawn")
    mdm = Mdm(stack, folder)
    got, files = mdm.get("alice", *(row["guid"] for row in rows))
    assert got.code == 0, got.err
    images = [Fetched(path) for path in files]
    name = rows[0]["series"][-8:]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The string .* is unlikely to represent")  # a pseudonym is a name of one part
        made = {"SEG": segmentation(images, folder / f"seg-{name}.dcm"), "RTSTRUCT": rt_structure(images, folder / f"rt-{name}.dcm")}  # type: ignore[arg-type]
    put = mdm("alice", "--json", "put", *map(str, made.values()), RESULTS, "--meta", "tool=disc")
    assert put.code == 0, put.err
    assert [row["published"] for row in put.rows()] == [True, True]
    return made


def test_a_result_comes_back_byte_for_byte_and_only_its_sources_readers_read_it(rows, mdm, stack, tmp_path):
    content = b"lesion " * 500_000
    file = tmp_path / f"{uuid4()}.bin"
    file.write_bytes(content)
    source = rows[0]["lfn"].rsplit("/", 1)[0]
    put = mdm(
        "alice", "--json", "put", str(file), RESULTS, "--derived-from", source, "--meta", "kind=segmentation", "--meta", "tool_version=2"
    )
    assert put.code == 0, put.err
    lfn, guid = put.rows()[0]["lfn"], put.rows()[0]["guid"]
    entry = mdm("alice", "--json", "stat", lfn).rows()[0]
    assert (entry["size"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    for user in ("alice", "carol"):
        result, files = mdm.get(user, lfn)
        assert result.code == 0, result.err
        assert [path.read_bytes() for path in files] == [content]
    refused, files = mdm.get("mallory", lfn)
    assert (refused.code != 0, files) == (True, [])
    sql = f"SELECT kind, tool_version, derived_from, size FROM \"{RESULTS}\" WHERE guid = '{guid}'"
    [described] = mdm.query("carol", sql)
    sources = " ".join(sorted(row["guid"] for row in rows))
    assert (described["kind"], described["tool_version"], described["size"]) == ("segmentation", "2", len(content))
    assert " ".join(sorted(described["derived_from"].split())) == sources
    assert mdm("mallory", "--json", "query", sql).rows() == []
    assert content[:1000] not in b"".join(stack.staged().values())
    again = mdm("alice", "put", str(file), RESULTS)
    assert (again.code, "nothing is ever overwritten" in again.err) == (1, True)
    assert mdm.get("alice", lfn)[1][0].read_bytes() == content


def test_what_is_removed_is_gone_with_its_key(rows, mdm, stack, tmp_path):
    file = tmp_path / f"{uuid4()}.txt"
    file.write_bytes(b"")  # an empty file is one
    put = mdm("alice", "--json", "put", str(file), RESULTS, "--derived-from", rows[0]["guid"])
    assert put.code == 0, put.err
    lfn, guid = put.rows()[0]["lfn"], put.rows()[0]["guid"]
    assert mdm.get("carol", lfn)[1][0].read_bytes() == b""
    assert mdm("alice", "key", "stat", guid).code == 0
    refused = mdm("carol", "rm", lfn)
    assert refused.code != 0
    assert mdm.get("carol", lfn)[0].code == 0
    removed = mdm("alice", "rm", lfn)
    assert removed.code == 0, removed.err
    assert mdm("alice", "stat", lfn).code == 3
    assert mdm("alice", "key", "stat", guid).code == 3
    assert mdm.query("alice", f"SELECT guid FROM \"{RESULTS}\" WHERE guid = '{guid}'") == []
    assert guid not in stack.staged()
    if isinstance(stack, LocalStack):
        assert not list(stack.results.rglob(guid))


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["{file}", "/biomed/hospital-a/{patient}"], 3, "needs `w`"),
        (["{file}", "/biomed/hospital-a/results/../x"], 2, "'..'"),
        (["{file}", "/biomed/hospital-a/results/none"], 3, "No such directory"),
        (["{file}", "/biomed"], 2, "below /biomed/hospital-a"),
        (["{file}", RESULTS, "--meta", "colour=red"], 2, "not colour"),
        (["{file}", RESULTS, "--derived-from", "{unknown}"], 3, ""),
        (["{file}", "{file}", RESULTS], 1, "two files of this name"),
        (["{folder}", RESULTS], 2, "name its files"),
        (["{folder}/none", RESULTS], 2, "no such file"),
        (["{file}", RESULTS, "--group", "/biomed/none"], 2, "not in the group"),
    ],
)
def test_what_cannot_be_put_is_refused_with_a_reason(arguments, code, says, rows, mdm, tmp_path):
    file = tmp_path / f"{uuid4()}.txt"
    file.write_text("result")
    values = {"file": str(file), "folder": str(tmp_path), "patient": rows[0]["patient"], "unknown": str(uuid4())}
    result = mdm("alice", "put", *(argument.format(**values) for argument in arguments))
    assert (result.code, says in result.err) == (code, True), result.err


def test_mallory_puts_nothing_and_derives_nothing(rows, mdm, tmp_path):
    file = tmp_path / f"{uuid4()}.txt"
    file.write_text("result")
    assert mdm("mallory", "put", str(file), RESULTS).code == 3
    assert mdm("mallory", "put", str(file), RESULTS, "--derived-from", rows[0]["guid"]).code == 3


def test_the_viewer_lists_results_in_their_study(drawn, rows, stack, tmp_path):
    study = rows[0]["study"]
    with viewer(stack, "alice", tmp_path) as running:
        listed = running.http.get(f"{running.root}/studies/{study}/series").json()
        series = {found["00080060"]["Value"][0]: found["0020000E"]["Value"][0] for found in listed}
        assert set(series) >= {"CT", "SEG", "RTSTRUCT"}
        for modality, path in drawn.items():
            [header] = running.http.get(f"{running.root}/studies/{study}/series/{series[modality]}/metadata").json()
            made = pydicom.dcmread(path)
            assert header["00080018"]["Value"] == [made.SOPInstanceUID]
            place = f"{running.root}/studies/{study}/series/{series[modality]}/instances/{made.SOPInstanceUID}"
            assert path.read_bytes() in running.http.get(place, headers={"Accept": 'multipart/related; type="application/dicom"'}).content


def test_get_takes_the_results_of_a_study_along(drawn, rows, mdm):
    directory = "/".join(rows[0]["lfn"].split("/")[:5])
    result, files = mdm.get("alice", directory, "--results")
    assert result.code == 0, result.err
    contents = {path.read_bytes() for path in files}
    assert len(files) >= SLICES + len(drawn)
    assert all(path.read_bytes() in contents for path in drawn.values())


def _reidentify(stack: LocalStack, user: str, source: Path, destination: Path) -> subprocess.CompletedProcess[str]:
    directory = stack.service_config("dicom-srm").parent.parent / "pki"
    command = [str(BIN / "mdm-dicom-srm"), "reidentify", "--config", str(stack.service_config("dicom-srm"))]
    identity = ["--certificate", str(directory / f"{user}.crt"), "--key", str(directory / f"{user}.key")]
    return subprocess.run([*command, *identity, str(source), str(destination)], capture_output=True, text=True, check=False, timeout=60)


def test_a_curator_translates_a_result_back_and_the_pacs_has_it_in_the_original_study(drawn, originals, stack, ask_pacs, tmp_path):
    if not isinstance(stack, LocalStack):
        pytest.skip("works on files of the site, which a container keeps to itself")
    first = originals[0].read()
    for modality, path in drawn.items():
        back = tmp_path / f"{modality}.dcm"
        refused = _reidentify(stack, "alice", path, back)
        assert (refused.returncode, back.exists()) == (3, False)
        done = _reidentify(stack, "curator", path, back)
        assert done.returncode == 0, done.stderr
        assert not any(secret in done.stdout + done.stderr for secret in originals[0].secrets)
        found = pydicom.dcmread(back)
        assert (found.PatientID, str(found.PatientName)) == (first.PatientID, str(first.PatientName))
        assert (found.StudyInstanceUID, found.StudyDate) == (first.StudyInstanceUID, first.StudyDate)
        assert "PatientIdentityRemoved" not in found
        text = back.read_bytes()
        for original in originals:
            assert original.read().SOPInstanceUID.encode() in text
        assert pydicom.dcmread(path).StudyInstanceUID.encode() not in text
        stack.store(back)
        [known] = ask_pacs("POST", "/tools/find", {"Level": "Instance", "Query": {"SOPInstanceUID": str(found.SOPInstanceUID)}})
        parent = ask_pacs("GET", f"/instances/{known}/study")["MainDicomTags"]["StudyInstanceUID"]
        assert parent == first.StudyInstanceUID
        assert _reidentify(stack, "curator", back, tmp_path / "twice.dcm").returncode == 2


def test_a_result_of_other_images_is_not_translated(drawn, stack, tmp_path):
    if not isinstance(stack, LocalStack):
        pytest.skip("works on files of the site, which a container keeps to itself")
    foreign = pydicom.dcmread(drawn["SEG"])
    foreign.SharedFunctionalGroupsSequence[0].DerivationImageSequence = []
    foreign.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID = "1.2.3.4"
    foreign.save_as(tmp_path / "foreign.dcm")
    refused = _reidentify(stack, "curator", tmp_path / "foreign.dcm", tmp_path / "out.dcm")
    assert (refused.returncode, "UID_UNKNOWN" in refused.stderr, (tmp_path / "out.dcm").exists()) == (2, True, False)


@pytest.fixture
def client(stack: Stack):
    with Client.load(stack.client_config("alice")) as made:
        yield made


def test_an_upload_goes_on_after_the_service_was_killed_and_shows_nothing_before_it_is_whole(client, mdm, stack):
    results, guid, content = client.results(), uuid4(), b"\0\1\2" * 1_000_000
    lfn = f"{RESULTS}/{guid}.bin"
    wanted = pb.NewResult(lfn=lfn, guid=str(guid), size=len(content))
    prepared = results.prepare([wanted], "", private=False)
    [file] = prepared.files
    twin = results.prepare([pb.NewResult(lfn=lfn, guid=str(uuid4()), size=1)], "", private=False).files[0]
    assert twin.status.reason == "NAME_IN_USE"
    source = mdm.scratch / "content.bin"
    source.write_bytes(content)
    with Ciphertext(str(source), b"k" * 32, guid, len(content)) as ciphertext:
        whole = b"".join(ciphertext.parts(0))
        digests = ciphertext.digests()
    assert results.write(file.turl, 0, iter([whole[:1_500_000]])) == 1_500_000
    stack.kill("dicom-srm")
    stack.start("dicom-srm")
    here = eventually(lambda: results.status(prepared.token)[guid].received)
    assert 0 < here <= 1_500_000
    with pytest.raises(Invalid, match="go on there"):
        results.write(file.turl, here + 1, iter([b"x"]))
    with pytest.raises(FailedPrecondition, match=r"of .* bytes have arrived"):
        results.done(prepared.token, guid, *digests)
    assert mdm("alice", "stat", lfn).code == 3
    assert results.write(file.turl, here, iter([whole[here:]])) == len(whole)
    assert results.done(prepared.token, guid, *digests).state == pb.RESULT_STATE_PUBLISHED
    assert mdm("alice", "stat", lfn).code == 0
    assert results.remove([guid]) == [None]


def test_mdm_put_goes_on_by_itself_when_the_service_is_killed_meanwhile(mdm, stack):
    if not isinstance(stack, LocalStack):
        pytest.skip("works on files of the site, which a container keeps to itself")
    file = mdm.scratch / f"{uuid4()}.bin"
    file.write_bytes(hashlib.sha256(file.name.encode()).digest() * 2_000_000)
    incoming = stack.results / "incoming"
    with ThreadPoolExecutor(1) as pool:
        put = pool.submit(mdm, "alice", "put", str(file), RESULTS)
        eventually(lambda: put.done() or any(path.stat().st_size > 2_000_000 for path in incoming.iterdir()), interval=0.005)
        stack.kill("dicom-srm")
        stack.start("dicom-srm")
        result = put.result()
    assert result.code == 0, result.err
    fetched, files = mdm.get("alice", f"{RESULTS}/{file.name}")
    assert fetched.code == 0, fetched.err
    assert files[0].read_bytes() == file.read_bytes()
    assert mdm("alice", "rm", f"{RESULTS}/{file.name}").code == 0


def test_other_bytes_than_were_sent_are_never_published_and_a_withdrawn_upload_is_forgotten(client, mdm):
    results, guid = client.results(), uuid4()
    lfn = f"{RESULTS}/{guid}.bin"
    prepared = results.prepare([pb.NewResult(lfn=lfn, guid=str(guid), size=4)], "", private=False)
    size = prepared.files[0].size
    assert results.write(prepared.files[0].turl, 0, iter([b"x" * size])) == size
    with pytest.raises(Corrupt, match="another one"):
        results.done(prepared.token, guid, b"y" * 32, b"z" * 32)
    with pytest.raises(NotFound):
        results.status(prepared.token)
    second = results.prepare([pb.NewResult(lfn=lfn, guid=str(guid), size=4)], "", private=False)
    assert results.withdraw(second.token) == 1
    with pytest.raises(NotFound):
        results.write(second.files[0].turl, 0, iter([b"x" * size]))
    assert mdm("alice", "stat", lfn).code == 3


def test_reconciliation_leaves_results_alone(drawn, stack, mdm):
    if not isinstance(stack, LocalStack):
        pytest.skip("works on files of the site, which a container keeps to itself")
    config = str(stack.service_config("dicom-srm"))
    command = [str(BIN / "mdm-dicom-srm"), "reconcile", "--config", config, "--repair", "--min-age", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode in (0, 1), done.stderr
    assert "UNREGISTERED" not in done.stdout.upper(), done.stdout
    names = mdm("alice", "--json", "ls", RESULTS).rows()
    assert {path.name for path in drawn.values()} <= {row["lfn"].rpartition("/")[2] for row in names}
