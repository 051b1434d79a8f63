"""mdm get: what it leaves alone, how it tells what failed, and what stops it at once."""

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from mdm.metadata.v1 import metadata_pb2
from mdm.srm.v1 import srm_pb2
from mdm_client import local_file as localfile
from mdm_client.client import Client
from mdm_client.fetch.plan import make_plan
from mdm_client.local_file import AtomicFile, translated
from mdm_client.name_syntax import parse_name
from mdm_wire.errors import Unauthenticated

from client.tests.test_cli import STUDY, UNREACHABLE, mdm, rows
from client.tests.test_download import contents

OTHER = "/biomed/hospital-a/p2/study"


def test_nothing_that_exists_is_replaced_unless_forced(grid, tmp_path):
    grid.add(f"{STUDY}/1.dcm", b"one", size=3, sha256=sha256(b"one").digest())
    two = grid.add(f"{STUDY}/2.dcm", b"two")
    out = tmp_path / "out"
    out.mkdir()
    (out / "1.dcm").write_bytes(b"mine")
    config = grid.config()
    refused = mdm(config, "get", STUDY, "-o", str(out))
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert "1.dcm: exists; use --skip-existing" in refused.stderr
    assert contents(out) == {"1.dcm": b"mine", "2.dcm": b"two"}
    differs = mdm(config, "--json", "get", STUDY, "-o", str(out), "--skip-existing")
    assert [row["reason"] for row in rows(differs.stderr)] == ["LOCAL_FILE_DIFFERS"]
    replaced = mdm(config, "get", STUDY, "-o", str(out), "--skip-existing", "--force")
    assert (replaced.exit_code, contents(out)) == (0, {"1.dcm": b"one", "2.dcm": b"two"})
    assert "fetched 1 files" in replaced.stdout
    assert "1 were there already (1 of a size that the catalog does not know)" in replaced.stdout
    (out / "2.dcm").write_bytes(b"old")
    assert mdm(config, "get", str(two.guid), "-o", str(out), "-f").exit_code == 0
    assert contents(out)["2.dcm"] == b"two"


def test_by_query_by_link_and_by_pattern_nothing_that_exists_is_replaced(grid, tmp_path):
    image = grid.add(f"{STUDY}/1.dcm", b"one")
    grid.catalog.links["/biomed/w/1.dcm"] = image.lfn
    _answer(grid, "guid", str(image.guid))
    (tmp_path / "1.dcm").write_bytes(b"mine")
    config = grid.config()
    for target in (["--query", "SELECT guid FROM x"], ["/biomed/w/1.dcm"], ["/biomed/w"], [f"{STUDY}/*.dcm"]):
        result = mdm(config, "get", *target, "-o", str(tmp_path))
        assert (result.exit_code, "; use --skip-existing" in result.stderr) == (1, True), result.stderr
        assert (tmp_path / "1.dcm").read_bytes() == b"mine"
    onto_a_file = mdm(config, "get", image.lfn, "-o", str(tmp_path / "1.dcm"))
    assert (onto_a_file.exit_code, (tmp_path / "1.dcm").read_bytes()) == (2, b"mine")


def test_what_appears_while_a_file_is_fetched_stays(tmp_path):
    destination = tmp_path / "1.dcm"
    with pytest.raises(FileExistsError), AtomicFile(destination, replace=False) as file:
        file.write(b"fetched")
        destination.write_bytes(b"mine")
    assert contents(tmp_path) == {"1.dcm": b"mine"}


@pytest.mark.parametrize("exists", [False, True])
def test_file_systems_without_hard_links_replace_nothing_either(exists, tmp_path, monkeypatch):
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    destination = tmp_path / "1.dcm"
    with suppress(FileExistsError), AtomicFile(destination, replace=False) as file:
        file.write(b"fetched")
        if exists:
            destination.write_bytes(b"mine")
    assert contents(tmp_path) == {"1.dcm": b"mine" if exists else b"fetched"}


def test_a_pipe_that_is_closed_is_no_failure_of_a_file():
    with pytest.raises(BrokenPipeError), translated("standard output", "written"):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def test_a_directory_of_links_arrives_under_the_links_names(grid, tmp_path):
    one, two = grid.add(f"{STUDY}/0001.dcm", b"one"), grid.add(f"{OTHER}/0001.dcm", b"two")
    cohort = "/biomed/w/cohort"
    grid.catalog.links = {
        f"{cohort}/sub-01/baseline/t1.dcm": one.lfn,
        f"{cohort}/sub-01/followup/t1.dcm": two.lfn,
        f"{cohort}/sub-01/again.dcm": one.lfn,
        f"{cohort}/sub-02": OTHER,
        f"{cohort}/gone.dcm": "/biomed/none",
        f"{cohort}/loop": cohort,
    }
    result = mdm(grid.config(), "--json", "get", cohort, "-o", str(tmp_path / "got"))
    assert contents(tmp_path / "got") == {
        "sub-01/baseline/t1.dcm": b"one",
        "sub-01/followup/t1.dcm": b"two",
        "sub-01/again.dcm": b"one",
        "sub-02/0001.dcm": b"two",
    }
    assert {row["reason"] for row in rows(result.stderr)} == {"NOT_FOUND", "LINK_LOOP"}
    assert {row["lfn"] for row in rows(result.stdout)} == {
        f"{cohort}/{name}" for name in ("sub-01/baseline/t1.dcm", "sub-01/followup/t1.dcm", "sub-01/again.dcm", "sub-02/0001.dcm")
    }
    assert [len(surls) for surls in grid.srm.requests.values()] == [2], "a file with several names is staged and sent once"


def test_what_is_in_the_way_of_one_name_is_not_copied_to_the_other(grid, tmp_path):
    image = grid.add(f"{STUDY}/0001.dcm", b"one")
    grid.catalog.links = {"/biomed/w/a/t.dcm": image.lfn, "/biomed/w/b/t.dcm": image.lfn}
    out = tmp_path / "out"
    with Client.load(grid.config()) as client:
        files = make_plan(client.catalog, [parse_name("/biomed/w")]).files
        (out / "a").mkdir(parents=True)
        (out / "a/t.dcm").write_bytes(b"mine")
        errors = {result.planned: result.error and result.error.reason for result in client.download(files, out).results()}
    assert errors == {"a/t.dcm": "LOCAL_FILE_EXISTS", "b/t.dcm": None}
    assert contents(out) == {"a/t.dcm": b"mine", "b/t.dcm": b"one"}


def test_the_lfns_of_a_query_may_be_links(grid, tmp_path):
    image = grid.add(f"{STUDY}/0001.dcm", b"one")
    grid.catalog.links["/biomed/w/t1.dcm"] = image.lfn
    _answer(grid, "lfn", "/biomed/w/t1.dcm")
    assert mdm(grid.config(), "get", "--query", "SELECT lfn FROM x", "-o", str(tmp_path / "got")).exit_code == 0
    assert contents(tmp_path / "got") == {"t1.dcm": b"one"}
    _answer(grid, "Modality", "CT")
    refused = mdm(grid.config(), "get", "--query", "SELECT Modality FROM x", "-o", str(tmp_path / "got"))
    assert (refused.exit_code, "guid or lfn" in refused.stderr) == (2, True)


def test_two_directories_of_equal_file_names_stay_apart(grid, tmp_path):
    grid.add(f"{STUDY}/s/0001.dcm", b"one")
    grid.add(f"{OTHER}/s/0001.dcm", b"two")
    config = grid.config()
    assert mdm(config, "get", f"{STUDY}/s", f"{OTHER}/s", "-o", str(tmp_path / "a")).exit_code == 0
    assert contents(tmp_path / "a") == {"p1/study/s/0001.dcm": b"one", "p2/study/s/0001.dcm": b"two"}


def test_patterns_are_matched_in_the_catalog(grid, tmp_path):
    for place, content in ((STUDY, b"one"), (OTHER, b"two")):
        grid.add(f"{place}/0001-a.dcm", content)
        grid.add(f"{place}/0002-a.dcm", b"other")
    config = grid.config()
    assert mdm(config, "get", "/biomed/**/0001*.dcm", "-o", str(tmp_path / "a")).exit_code == 0
    assert contents(tmp_path / "a") == {"hospital-a/p1/study/0001-a.dcm": b"one", "hospital-a/p2/study/0001-a.dcm": b"two"}
    nothing = mdm(config, "get", "/biomed/**/9*.dcm", "-o", str(tmp_path / "b"))
    assert (nothing.exit_code, nothing.stderr.count("\n")) == (3, 1)
    assert "/biomed/**/9*.dcm: no entry that you may see matches" in nothing.stderr


def test_one_cause_is_one_line_with_a_count(grid, tmp_path):
    for number in range(40):
        grid.add(f"{STUDY}/{number}.dcm", b"x", states=[srm_pb2.STATUS_CODE_AUTHORIZATION_FAILURE])
    lost = grid.add(f"{STUDY}/lost.dcm", b"x", states=[srm_pb2.STATUS_CODE_FILE_LOST])
    config = grid.config()
    result = mdm(config, "get", STUDY, "-o", str(tmp_path / "out"))
    assert result.exit_code in (1, 3)
    told = sorted(result.stderr.splitlines(), reverse=True)
    assert len(told) == 2
    assert told[1].startswith(f"mdm: {lost.lfn}: the PACS no longer has")
    assert told[0].startswith(f"mdm: 40 files: you may not read it (such as {STUDY}/")
    (counted,) = [row for row in rows(mdm(config, "--json", "get", STUDY, "-o", str(tmp_path / "out")).stderr) if "count" in row]
    assert (counted["reason"], counted["count"], len(set(counted["items"]))) == ("AUTHORIZATION_FAILURE", 40, 40)


@pytest.mark.parametrize("state", [srm_pb2.STATUS_CODE_FAILURE, srm_pb2.STATUS_CODE_FILE_LOST])
def test_a_file_that_the_site_will_never_give_is_not_to_be_tried_again(grid, tmp_path, state):
    grid.add(f"{STUDY}/1.dcm", b"x", states=[state])
    result = mdm(grid.config(), "get", STUDY, "-o", str(tmp_path / "out"))
    assert (result.exit_code, result.stderr.count("\n")) == (3, 1)


def test_names_that_are_not_there_and_keys_that_are_missing_are_one_line_each(grid, tmp_path):
    images = [grid.add(f"{STUDY}/{number}.dcm", b"x") for number in range(5)]
    for keystore in grid.keystores:
        keystore.shares.clear()
    result = mdm(grid.config(), "get", *(i.lfn for i in images), *(f"/biomed/none{n}" for n in range(4)), "-o", str(tmp_path / "out"))
    lines = result.stderr.splitlines()
    assert [line.split(" (")[0].split(":")[1] for line in lines] == [" 4 files", " 5 files"]


def test_a_full_disk_stops_everything_with_one_line(grid, tmp_path, full_disk):
    for number in range(30):
        grid.add(f"{STUDY}/{number:02}.dcm", os.urandom(40_000))
    for number in range(5):
        grid.add(f"{STUDY}/held{number}.dcm", b"x", held=True)
    began = time.monotonic()
    result = mdm(grid.config(), "get", STUDY, "-o", str(full_disk), "-j", "2")
    assert time.monotonic() - began < 15, "files that are still staged are not waited for"
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert f" files: {full_disk}: cannot be written: No space left on device (" in result.stderr
    assert not list(full_disk.glob("*.part"))
    assert len(grid.srm.aborted) == 1


@pytest.fixture
def full_disk(tmp_path, monkeypatch) -> Iterator[Path]:
    """A directory on a file system of 100 kB where one may be mounted, else one whose writes fail beyond that."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=100k", "none", str(folder)], check=False, capture_output=True
        ).returncode
    )
    if not mounted:
        left = [100_000]

        def write(descriptor: int, data: memoryview) -> int:
            left[0] -= len(data)
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return os_write(descriptor, data)

        os_write = os.write
        monkeypatch.setattr(localfile.os, "write", write)
    yield folder
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize("there", [True, False])
def test_a_directory_that_cannot_be_written_stops_before_anything_is_asked(code, there, grid, tmp_path, monkeypatch):
    grid.add(f"{STUDY}/1.dcm", b"one")
    out = tmp_path / "out"
    if there:
        out.mkdir()
    real_open = os.open

    def refusing(path: object, flags: int, *more: int) -> int:
        if flags & os.O_CREAT and Path(str(path)).parent in (out, tmp_path):
            raise OSError(code, os.strerror(code), str(path))
        return real_open(path, flags, *more)

    config = grid.config()
    monkeypatch.setattr(localfile.os, "open", refusing)
    result = mdm(config, "get", STUDY, "/biomed/none", "-o", str(out))
    assert (result.exit_code, result.stderr) == (1, f"mdm: {out}: cannot be written: {os.strerror(code)}\n")
    assert grid.srm.requests == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_read_only_directory_is_told_to_an_ordinary_user(grid, tmp_path):
    out = tmp_path / "out"
    out.mkdir(mode=0o555)
    program = "import sys, os; from pathlib import Path; from mdm_client.local_file import check_directory; os.setuid(65534)\n"
    program += "try: check_directory(Path(sys.argv[1]))\nexcept Exception as error: print(error.reason, error.message)"
    os.chmod(tmp_path.parent.parent, 0o755)  # noqa: PTH101 - pytest's own directory, so that the other user gets there
    os.chmod(tmp_path.parent, 0o755)  # noqa: PTH101
    os.chmod(tmp_path, 0o755)  # noqa: PTH101
    done = subprocess.run([sys.executable, "-c", program, str(out)], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == f"LOCAL_FILE {out}: cannot be written: Permission denied\n"


def test_a_file_in_the_way_of_the_directory_is_told(grid, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    result = mdm(grid.config(), "get", STUDY, "-o", str(tmp_path / "file/out"))
    assert (result.exit_code, result.stderr) == (1, f"mdm: {tmp_path / 'file/out'}: cannot be written: Not a directory\n")


def test_an_expired_certificate_stops_get_at_once(grid, tmp_path):
    past = datetime.now(UTC) - timedelta(days=1)
    expired = grid.pki.issue(grid.pki.subject("late"), not_before=past - timedelta(days=2), not_after=past)
    result = mdm(grid.config(expired, catalog=UNREACHABLE), "get", STUDY, "-o", str(tmp_path / "out"))
    assert (result.exit_code, result.stderr.count("\n"), "expired on" in result.stderr) == (5, 1, True)


def test_a_certificate_that_is_refused_on_the_way_stops_the_site_at_once(grid, tmp_path):
    refusals = [Unauthenticated("CERTIFICATE_EXPIRED", "The certificate has expired.") for _ in range(60)]
    for number in range(20):
        grid.add(f"{STUDY}/{number}.dcm", b"x", read_failures=list(refusals))
    grid.add(f"{STUDY}/held.dcm", b"x", held=True)
    began = time.monotonic()
    result = mdm(grid.config(), "get", STUDY, "-o", str(tmp_path / "out"))
    assert time.monotonic() - began < 10
    assert (result.exit_code, result.stderr.count("\n")) == (5, 1)
    assert result.stderr.startswith("mdm: 21 files: ")
    assert len(grid.srm.requests) == 1


@pytest.mark.parametrize("place", ["catalog", "keystores", "site"])
def test_a_host_that_does_not_exist_is_not_waited_for(place, grid, tmp_path):
    for number in range(3):
        grid.add(f"{STUDY}/{number}.dcm", b"x")
    nowhere = "nowhere.invalid:7001"
    config = grid.config(**(dict.fromkeys("abc", nowhere) if place == "keystores" else {"catalog": nowhere} if place == "catalog" else {}))
    if place == "site":
        config.write_text(config.read_text().rpartition("[srm]")[0] + f'[srm]\nhospital-a = ["{nowhere}"]\n')
    began = time.monotonic()
    result = mdm(config, "--json", "get", STUDY, "-o", str(tmp_path / "out"))
    told = [row for row in rows(result.stderr) if row["reason"] != "WARNING"]
    if told[0]["reason"] == "UNAVAILABLE":
        pytest.skip("this machine's resolver does not answer, so that no host is known not to exist")
    assert time.monotonic() - began < 10
    assert (result.exit_code, [row["reason"] for row in told]) == (4, ["NO_SUCH_HOST"])
    assert not (tmp_path / "out").exists()


def test_a_site_that_is_not_configured_is_one_line(grid, tmp_path):
    for number in range(7):
        grid.add(f"{STUDY}/{number}.dcm", b"x", surl=f"srm://hospital-z/{number}")
    result = mdm(grid.config(), "get", STUDY, "-o", str(tmp_path / "out"))
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith("mdm: 7 files: hospital-z: no such site")


def _answer(grid, name: str, *values: str) -> None:
    grid.metadata.columns = [(name, metadata_pb2.ATTRIBUTE_TYPE_TEXT, "")]
    grid.metadata.batches = [metadata_pb2.RowBatch(count=len(values), columns=[metadata_pb2.ColumnData(texts=list(values))])]


def test_the_output_for_programs_has_a_line_for_each_file(grid, tmp_path):
    grid.add(f"{STUDY}/1.dcm", b"one")
    (row,) = [json.loads(line) for line in mdm(grid.config(), "--json", "get", STUDY, "-o", str(tmp_path / "o")).stdout.splitlines()]
    assert (row["lfn"], row["size"]) == (f"{STUDY}/1.dcm", 3)
