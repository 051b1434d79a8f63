"""Paths, TURLs, conditions, ranges and digests over real TLS."""

import base64
import hashlib
import threading
import zlib
from xml.etree import ElementTree

import pytest
from mdm_crypto import stream
from mdm_testing.process import eventually
from mdm_wire.permission import Permission

LFN = "/biomed/hospital-a/study/1"
NAMES = {"D": "DAV:"}


def sealed(guid, content=b"PATIENTDOE pixels" * 40):
    """What the fake de-identifier releases, as the spool has it."""
    return stream.ciphertext_size(132 + len(content))


def listed(answer):
    found = {}
    for response in ElementTree.fromstring(answer.body).findall("D:response", NAMES):
        size = response.find(".//D:getcontentlength", NAMES)
        directory = response.find(".//D:collection", NAMES) is not None
        found[response.find("D:href", NAMES).text] = (directory, None if size is None else int(size.text))
    return found


def test_a_staged_file_is_read_and_opens_with_its_key(door):
    content = b"PATIENTDOE pixels" * 200_000
    guid, _ = door.staged(LFN, content)
    answer = door.ask("GET", LFN)
    assert answer.status == 200
    assert int(answer.headers["Content-Length"]) == len(answer.body) == sealed(guid, content)
    assert stream.decrypt(guid.bytes * 2, guid.bytes, answer.body).endswith(content[10:])
    assert answer.headers["Server"] == "mdm"


def test_what_is_not_staged_is_asked_for_once_and_comes_when_it_is_there(door):
    door.put(LFN)
    door.world.pacs.gate.clear()
    for _ in range(3):
        answer = door.ask("GET", LFN)
        assert (answer.status, 1 <= int(answer.headers["Retry-After"]) <= 60) == (202, True)
    assert door.ask("HEAD", LFN).status == 200
    door.world.pacs.gate.set()
    eventually(lambda: door.ask("GET", LFN).status == 200)
    assert len(door.world.pacs.retrievals) == 1


def test_a_file_that_can_never_be_staged_is_not_asked_for_at_each_poll(door):
    door.put(LFN, b"QUARANTINE" * 10)
    eventually(lambda: door.ask("GET", LFN).status != 202)
    answers = [door.ask("GET", LFN) for _ in range(3)]
    assert {answer.status for answer in answers} == {403}
    assert b"QUARANTINED_BURNED_IN" in answers[0].body
    assert len(door.world.pacs.retrievals) == 1


def test_a_file_that_the_pacs_has_lost_is_not_found_and_one_of_a_pacs_that_is_away_comes_later(door):
    door.put(LFN)
    door.world.pacs.content.clear()
    eventually(lambda: door.ask("GET", LFN).status == 404)
    door.put(f"{LFN}2")
    door.world.pacs.away = True
    eventually(lambda: door.ask("GET", f"{LFN}2").status == 503)
    asked = len(door.world.pacs.retrievals)
    assert door.ask("GET", f"{LFN}2").headers["Retry-After"] == "30"
    assert len(door.world.pacs.retrievals) == asked


def test_the_etag_is_the_same_whenever_the_same_content_is_staged(door):
    guid, _ = door.staged(LFN)
    first = door.ask("GET", LFN)
    door.world.forget([guid])
    eventually(lambda: door.ask("GET", LFN).status == 200)
    second = door.ask("GET", LFN)
    assert second.body == first.body
    assert second.headers["ETag"] == first.headers["ETag"] == f'"{first.body[1:40].hex()}"'


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=0-0", slice(0, 1)),
        ("bytes=100-", slice(100, None)),
        ("bytes=-7", slice(-7, None)),
        ("bytes=5-99999999999999", slice(5, None)),
        ("bytes=-99999999999999", slice(0, None)),
        (" bytes=3-4 ", slice(3, 5)),
    ],
)
def test_one_range_is_sent_alone(door, header, part):
    door.staged(LFN)
    whole = door.ask("GET", LFN).body
    answer = door.ask("GET", LFN, headers={"Range": header})
    assert (answer.status, answer.body) == (206, whole[part])
    start = range(len(whole))[part][0]
    assert answer.headers["Content-Range"] == f"bytes {start}-{start + len(answer.body) - 1}/{len(whole)}"


@pytest.mark.parametrize(
    "header", ["bytes=0-1,5-6", "bytes=", "bytes=-", "bytes=5-4", "lines=1-2", "bytes=a-b", f"bytes=0-{'9' * 5000}", "bytes=--1"]
)
def test_what_is_no_single_range_gives_the_whole_file(door, header):
    door.staged(LFN)
    answer = door.ask("GET", LFN, headers={"Range": header})
    assert (answer.status, len(answer.body)) == (200, int(answer.headers["Content-Length"]))


@pytest.mark.parametrize("header", ["bytes=99999999-", "bytes=9999999999999999999-", "bytes=-0"])
def test_a_range_beyond_the_file_is_refused(door, header):
    guid, _ = door.staged(LFN)
    answer = door.ask("GET", LFN, headers={"Range": header})
    assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{sealed(guid)}")


def test_conditions_follow_the_etag(door):
    door.staged(LFN)
    etag = door.ask("HEAD", LFN).headers["ETag"]
    part = {"Range": "bytes=0-4"}
    assert door.ask("GET", LFN, headers={"If-None-Match": f'"x", {etag}'}).status == 304
    assert door.ask("GET", LFN, headers={"If-None-Match": f"W/{etag}"}).status == 304
    assert door.ask("GET", LFN, headers={"If-None-Match": '"x"'}).status == 200
    assert door.ask("GET", LFN, headers={"If-Match": '"x"'}).status == 412
    assert door.ask("GET", LFN, headers={**part, "If-Range": etag}).status == 206
    for other in ('"x"', f"W/{etag}", "Sat, 01 Jan 2022 00:00:00 GMT"):
        assert door.ask("GET", LFN, headers={**part, "If-Range": other}).status == 200


def test_digests_are_those_of_the_bytes_that_are_sent(door):
    door.staged(LFN)
    body = door.ask("GET", LFN).body
    sha256 = base64.b64encode(hashlib.sha256(body).digest()).decode()
    md5 = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
    wanted = {"ADLER32": f"ADLER32={zlib.adler32(body):08x}", "md5": f"md5={md5}", "sha-256;q=1, md5;q=0.1": f"sha-256={sha256}"}
    for header, value in wanted.items():
        assert door.ask("HEAD", LFN, headers={"Want-Digest": header}).headers["Digest"] == value
    answer = door.ask("GET", LFN, headers={"Want-Repr-Digest": "sha-256=5, md5=1", "Range": "bytes=0-3"})
    assert (answer.headers["Repr-Digest"], answer.status) == (f"sha-256=:{sha256}:", 206)
    assert door.ask("HEAD", LFN, headers={"Want-Digest": "crc64, x;q=y"}).headers["Digest"] is None


def test_checksums_are_known_of_what_was_staged_once(door):
    guid, _ = door.staged(LFN)
    staged = door.ask("HEAD", LFN, headers={"Want-Digest": "md5"})
    door.world.forget([guid])
    again = door.ask("HEAD", LFN, headers={"Want-Digest": "md5"})
    assert (again.headers["Digest"], again.headers["ETag"]) == (staged.headers["Digest"], staged.headers["ETag"])
    assert door.ask("GET", LFN, headers={"If-None-Match": staged.headers["ETag"]}).status == 304
    assert len(door.world.pacs.retrievals) == 1


def test_directories_are_listed_with_sizes_of_ciphertext(door):
    guid, _ = door.staged(LFN)
    door.put(f"{LFN}ö &2")
    door.ask("HEAD", LFN, headers={"Want-Digest": "md5"})
    directory, odd = "/biomed/hospital-a/study/", "/biomed/hospital-a/study/1%C3%B6%20%262"
    for path in (directory, directory.rstrip("/"), "//biomed//hospital-a/study"):
        answer = door.ask("PROPFIND", path, headers={"Depth": "1"}, body=b"<x/>")
        assert answer.status == 207
        assert listed(answer) == {directory: (True, None), LFN: (False, sealed(guid)), odd: (False, stream.ciphertext_size(10))}
    assert listed(door.ask("PROPFIND", odd, headers={"Depth": "0"})) == {odd: (False, stream.ciphertext_size(10))}
    assert door.ask("PROPFIND", directory, headers={"Depth": "infinity"}).status == 403
    assert door.ask("PROPFIND", directory).status == 403
    assert door.ask("GET", directory).status == 400
    assert door.ask("HEAD", directory).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/biomed/hospital-a/none",
        "/biomed/other/1",
        "/",
        "/elsewhere",
        "/turl/x/y",
        f"/turl/{'a' * 43}/00000000-0000-0000-0000-000000000000",
    ],
)
def test_what_is_not_there_is_not_found(door, path):
    assert door.ask("GET", path).status == 404


@pytest.mark.parametrize("path", ["/biomed/../etc", "/biomed/%2e%2e/x", "/biomed/%ff", "/biomed/a%00b", "/" + "a" * 3000])
def test_what_can_be_no_path_is_refused(door, path):
    assert door.ask("GET", path).status == 400


def test_rights_are_the_catalogs(door):
    guid = door.put(LFN)
    door.world.catalog.put(LFN, guid, Permission.LIST)
    assert door.ask("GET", LFN).status == 403
    assert door.ask("GET", LFN, name="olga").status == 403
    assert door.world.pacs.retrievals == []


def test_a_turl_serves_its_owner_alone(door):
    guid, token = door.staged(LFN)
    assert door.ask("GET", f"/turl/{token}/{guid}").body == door.ask("GET", LFN).body
    assert door.ask("HEAD", f"/turl/{token}/{guid}", headers={"Want-Digest": "adler32"}).headers["Digest"].startswith("adler32=")
    assert door.ask("GET", f"/turl/{token}/{guid}", name="bob").status == 404


def test_reading_ends_when_the_right_is_taken_back(door):
    """More is sent than the buffers of both ends hold, so that the reader decides when the rest is checked."""
    content = b"PATIENTDOE" + bytes(9_000_000)
    guid, token = door.staged(LFN, content)
    connection = door.connection()
    connection.request("GET", f"/turl/{token}/{guid}")
    response = connection.getresponse()
    assert len(response.read(1000)) == 1000
    door.world.catalog.forbidden.add(guid)
    door.world.now += 61
    with pytest.raises(Exception, match=r"IncompleteRead|EOF|reset|closed|violation"):
        response.read()
    connection.close()
    assert door.ask("GET", f"/turl/{token}/{guid}").status == 403


@pytest.mark.parametrize("method", ["PUT", "MKCOL", "DELETE", "COPY", "MOVE", "POST", "PROPPATCH", "LOCK", "PATCH"])
def test_nothing_is_written(door, method):
    headers = {"Content-Type": "application/macaroon-request"} if method == "POST" else {}
    answer = door.ask(method, LFN, body=b'{"caveats": ["activity:LIST"]}', headers=headers)
    assert (answer.status, "PROPFIND" in answer.headers["Allow"]) == (405, True)


def test_options_say_what_is_possible(door):
    answer = door.ask("OPTIONS", LFN)
    assert (answer.status, answer.headers["DAV"]) == (200, "1")


def test_one_caller_has_so_many_requests_at_a_time(make_door):
    door = make_door(requests_per_caller=1)
    door.put(LFN)
    inside, leave = threading.Event(), threading.Event()
    stat = door.world.catalog.stat

    def slow(subject, targets):
        inside.set()
        leave.wait(20)
        return stat(subject, targets)

    door.world.catalog.stat = slow
    first = threading.Thread(target=door.ask, args=("GET", LFN))
    first.start()
    assert inside.wait(20)
    answer = door.ask("GET", LFN)
    leave.set()
    first.join()
    assert (answer.status, answer.headers["Retry-After"]) == (429, "30")
