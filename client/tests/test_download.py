"""Downloads: what arrives, what never remains, and what is repeated."""

import os
import time
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest
from mdm.srm.v1 import srm_pb2
from mdm_client.client import Client
from mdm_client.fetch.download import FetchOptions, FileResult
from mdm_client.fetch.plan import make_plan
from mdm_client.name_syntax import parse_name
from mdm_wire.errors import Cancelled, Exhausted, Forbidden, NotFound, Unauthenticated
from mdm_wire.retry import RetryPolicy

STUDY = "/biomed/hospital-a/p1/study"
POLICY = RetryPolicy(call_seconds=5, retry_seconds=1)


@pytest.fixture(params=["one stream", "one call a file"], autouse=True)
def way(request, grid) -> str:
    """Sites stream many files at once, or are older than that."""
    grid.srm.without_streams = request.param == "one call a file"
    return request.param


@pytest.fixture
def client(grid):
    with Client.load(grid.config(), POLICY) as opened:
        yield opened


def fetch(client: Client, directory: Path, *targets: str, **options) -> list[FileResult]:
    plan = make_plan(client.catalog, [parse_name(target) for target in targets])
    assert not plan.failures
    settings = FetchOptions(**{"timeout": 20.0, **options})
    return list(client.download(plan.files, directory, settings).results())


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_directory_arrives_as_a_tree_relative_to_it(grid, client, tmp_path):
    small, empty = os.urandom(500_000), b""
    grid.add(f"{STUDY}/s1/1-a.dcm", small)
    grid.add(f"{STUDY}/s2/1-a.dcm", empty)
    results = fetch(client, tmp_path / "out", STUDY)
    assert [result.error for result in results] == [None, None]
    assert contents(tmp_path / "out") == {"s1/1-a.dcm": small, "s2/1-a.dcm": empty}
    assert len(grid.srm.released) == 1
    assert grid.srm.aborted == []


def test_a_large_file_is_streamed_in_segments(grid, client, tmp_path):
    plaintext = os.urandom(9_500_001)
    grid.add(f"{STUDY}/big.dcm", plaintext)
    (result,) = fetch(client, tmp_path, f"{STUDY}/big.dcm")
    assert (result.error, result.size) == (None, len(plaintext))
    assert result.path.read_bytes() == plaintext
    assert result.path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("size", [600_000, 9_000_000])
def test_a_broken_stream_is_resumed_where_it_broke(size, grid, client, tmp_path):
    plaintext = os.urandom(size)
    grid.add(f"{STUDY}/1.dcm", plaintext, breaks=[200_000, 400_000])
    (result,) = fetch(client, tmp_path, f"{STUDY}/1.dcm")
    assert result.error is None
    assert result.path.read_bytes() == plaintext
    assert grid.srm.offsets == [0, 262_144, 458_752]


def test_a_stream_of_a_site_raises_the_errors_of_the_other_calls(grid, client):
    image = grid.add(f"{STUDY}/1.dcm", b"one", read_failures=[NotFound("TURL_UNKNOWN", "no such TURL")])
    turl = f"mdm+grpc://hospital-a/token/{image.guid}"
    with pytest.raises(NotFound, match="srm hospital-a: no such TURL") as caught:
        list(client.srm("hospital-a").read(turl))
    assert caught.value.reason == "TURL_UNKNOWN"
    stream = client.srm("hospital-a").read(turl)
    assert b"".join(response.data for response in stream) == image.ciphertext
    stream = client.srm("hospital-a").read(turl)
    stream.cancel()
    with pytest.raises(Cancelled):
        list(stream)


@pytest.mark.parametrize("size", [1_000, 9_000_000])
def test_unverified_ciphertext_leaves_nothing(size, grid, client, tmp_path):
    image = grid.add(f"{STUDY}/1.dcm", os.urandom(size))
    image.ciphertext = image.ciphertext[:-1] + bytes([image.ciphertext[-1] ^ 1])
    (result,) = fetch(client, tmp_path, f"{STUDY}/1.dcm")
    assert result.error.reason == "CIPHERTEXT_NOT_AUTHENTIC"
    assert contents(tmp_path) == {k: v for k, v in contents(tmp_path).items() if k.startswith("grid/")}


def test_another_files_ciphertext_is_refused(grid, client, tmp_path):
    one, two = grid.add(f"{STUDY}/1.dcm", b"one"), grid.add(f"{STUDY}/2.dcm", b"two")
    one.ciphertext = two.ciphertext
    (result,) = fetch(client, tmp_path / "out", f"{STUDY}/1.dcm")
    assert result.error.reason == "CIPHERTEXT_NOT_AUTHENTIC"
    assert contents(tmp_path / "out") == {}


def test_a_full_spool_and_an_unavailable_pacs_are_waited_for(grid, client, tmp_path):
    full, away, pinned = srm_pb2.STATUS_CODE_NO_FREE_SPACE, srm_pb2.STATUS_CODE_FILE_UNAVAILABLE, srm_pb2.STATUS_CODE_FILE_PINNED
    grid.add(f"{STUDY}/1.dcm", b"one", states=[full, pinned])
    grid.add(f"{STUDY}/2.dcm", b"two", states=[away, away, pinned])
    grid.add(f"{STUDY}/3.dcm", b"three")
    results = fetch(client, tmp_path / "out", STUDY)
    assert {result.error for result in results} == {None}
    assert contents(tmp_path / "out") == {"1.dcm": b"one", "2.dcm": b"two", "3.dcm": b"three"}


@pytest.mark.parametrize("later", [srm_pb2.STATUS_CODE_FILE_UNAVAILABLE, srm_pb2.STATUS_CODE_REQUEST_QUEUED])
def test_what_stays_unavailable_is_given_up_after_the_timeout_for_the_reason_last_told(later, grid, client, tmp_path):
    grid.add(f"{STUDY}/1.dcm", b"one", states=[srm_pb2.STATUS_CODE_FILE_UNAVAILABLE, later])
    began = time.monotonic()
    (result,) = fetch(client, tmp_path / "out", STUDY, timeout=1.0)
    assert result.error.reason == "FILE_UNAVAILABLE"
    assert "given up" in result.error.message
    assert time.monotonic() - began < 5


def test_an_expired_pin_is_prepared_again(grid, client, tmp_path):
    grid.add(f"{STUDY}/1.dcm", b"one", read_failures=[NotFound("TURL_UNKNOWN", "No such TURL.")])
    (result,) = fetch(client, tmp_path / "out", STUDY)
    assert result.error is None
    assert len(grid.srm.requests) == 2


def test_a_handshake_that_fails_once_as_of_a_server_that_restarts_fails_no_file(grid, client, tmp_path):
    refusal = Unauthenticated("HANDSHAKE_REFUSED", "Refused.")
    grid.add(f"{STUDY}/1.dcm", b"one", read_failures=[refusal])
    grid.add(f"{STUDY}/2.dcm", b"two")
    assert {result.error for result in fetch(client, tmp_path / "out", STUDY)} == {None}


def test_one_bad_file_does_not_stop_the_others(grid, client, tmp_path):
    grid.add(f"{STUDY}/1.dcm", b"one", states=[srm_pb2.STATUS_CODE_FILE_LOST])
    grid.add(f"{STUDY}/2.dcm", b"two", states=[srm_pb2.STATUS_CODE_AUTHORIZATION_FAILURE])
    keyless = grid.add(f"{STUDY}/3.dcm", b"three")
    for keystore in grid.keystores:
        del keystore.shares[str(keyless.guid)]
    grid.add(f"{STUDY}/4.dcm", b"four")
    results = {result.lfn[-5:]: result for result in fetch(client, tmp_path / "out", STUDY)}
    assert results["1.dcm"].error.reason == "FILE_LOST"
    assert results["2.dcm"].error.reason == "AUTHORIZATION_FAILURE"
    assert results["3.dcm"].error.code.name == "NOT_FOUND"
    assert results["4.dcm"].error is None
    assert contents(tmp_path / "out") == {"4.dcm": b"four"}
    assert len(grid.srm.requests) == 1, "final errors are not asked again"


def test_a_directory_that_cannot_be_written_is_said(grid, client, tmp_path):
    grid.add(f"{STUDY}/1.dcm", b"one")
    (tmp_path / "out").write_text("a file in the way")
    (result,) = fetch(client, tmp_path / "out", STUDY)
    assert result.error.reason == "LOCAL_FILE"


def test_the_files_of_a_site_come_in_one_stream(way, grid, client, tmp_path):
    for number in range(20):
        grid.add(f"{STUDY}/{number}.dcm", os.urandom(1000 * number))
    results = fetch(client, tmp_path / "out", STUDY, durable=True)
    assert {result.error for result in results} == {None}
    assert len(contents(tmp_path / "out")) == 20
    assert grid.srm.streams == (way == "one stream")


def test_a_right_that_is_taken_away_fails_that_file_only(grid, client, tmp_path):
    grid.add(f"{STUDY}/1.dcm", b"one", read_failures=[Forbidden("READ_REVOKED", "No longer.")] * 5)
    grid.add(f"{STUDY}/2.dcm", b"two")
    results = {result.lfn[-5:]: result.error for result in fetch(client, tmp_path / "out", STUDY)}
    assert results["1.dcm"].reason == "READ_REVOKED" and results["2.dcm"] is None


def test_leaving_early_aborts_the_request_and_leaves_no_part(grid, client, tmp_path):
    grid.add(f"{STUDY}/1.dcm", b"one")
    grid.add(f"{STUDY}/2.dcm", b"two", held=True)
    plan = make_plan(client.catalog, [parse_name(STUDY)])
    with closing(client.download(plan.files, tmp_path / "out").results()) as results:
        assert next(results).lfn == f"{STUDY}/1.dcm"
        began = time.monotonic()
    assert time.monotonic() - began < 3
    assert contents(tmp_path / "out") == {"1.dcm": b"one"}
    assert len(grid.srm.aborted) == 1


def test_a_site_that_never_answers_is_given_up(grid, client, tmp_path):
    grid.add(f"{STUDY}/1.dcm", b"one", held=True)
    (result,) = fetch(client, tmp_path / "out", STUDY, timeout=1.0)
    assert result.error.reason == "NOT_STAGED"
    assert len(grid.srm.aborted) == 1


def test_a_site_outside_the_configuration_is_named(grid, client, tmp_path):
    grid.add(f"{STUDY}/1.dcm", b"one", surl="srm://hospital-z/x")
    (result,) = fetch(client, tmp_path, f"{STUDY}/1.dcm")
    assert result.error.reason == "SITE_UNKNOWN"
    assert "hospital-z" in result.error.message


def test_many_small_files_come_in_one_request(grid, client, tmp_path):
    for number in range(300):
        grid.add(f"{STUDY}/{number}.dcm", b"%d" % number)
    results = fetch(client, tmp_path / "out", STUDY, jobs=8)
    assert {result.error for result in results} == {None}
    assert len(contents(tmp_path / "out")) == 300
    assert len(grid.srm.requests) == 1
    assert all(isinstance(result.guid, UUID) for result in results)


def test_more_jobs_than_the_server_takes_calls_wait_for_each_other(grid, client, tmp_path):
    refusals = [Exhausted("TOO_MANY_CALLS", "At most 16 calls at a time.") for _ in range(8)]
    grid.add(f"{STUDY}/1.dcm", b"data", read_failures=refusals)
    (result,) = fetch(client, tmp_path / "out", STUDY)
    assert (result.error, len(grid.srm.requests)) == (None, 1)
