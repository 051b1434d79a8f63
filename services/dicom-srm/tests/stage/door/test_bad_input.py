"""What must not come through the door: other TLS, other certificates, smuggled heads, clients that only hold it."""

import contextlib
import socket
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mdm_dicom_srm.door.http import content, listener
from mdm_site.pki import DevelopmentCa
from mdm_testing.process import eventually

LFN = "/biomed/hospital-a/study/1"


def sent(door, data, identity=None, rest=20.0):
    """Send bytes over TLS; return all that comes back until the door closes, or nothing comes for `rest` seconds after an answer."""
    context, found = door.context(identity), b""
    with (
        socket.create_connection(("localhost", door.port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(data)
        with contextlib.suppress(ssl.SSLError, ConnectionError, TimeoutError):
            while block := connection.recv(1_000_000):
                found += block
                connection.settimeout(rest)
    return found


def refused(door, context):
    """Return whether a request under this TLS gets no answer."""
    with socket.create_connection(("localhost", door.port), timeout=20) as plain:
        try:
            with context.wrap_socket(plain, server_hostname="localhost") as connection:
                connection.sendall(f"GET {LFN} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                return connection.recv(100) == b""
        except (ssl.SSLError, ConnectionError):
            return True


def test_plaintext_is_refused(door):
    with socket.create_connection(("localhost", door.port), timeout=20) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert b"HTTP" not in plain.recv(1000)


def test_tls_1_2_is_refused(door):
    context = door.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert refused(door, context)


def test_without_a_certificate_there_is_no_answer(door):
    assert refused(door, ssl.create_default_context(cafile=str(door.identity().ca)))


def test_a_certificate_of_another_authority_is_refused(door, tmp_path):
    foreign = DevelopmentCa(tmp_path, door.pki.organisation)
    context = ssl.create_default_context(cafile=str(door.identity().ca))
    files = foreign.issue(foreign.subject("alice"))
    context.load_cert_chain(files.certificate, files.key)
    assert refused(door, context)


def test_an_expired_certificate_is_refused(door):
    now = datetime.now(UTC)
    files = door.pki.issue(door.pki.subject("eve"), name="eve", not_before=now - timedelta(days=2), not_after=now - timedelta(days=1))
    assert refused(door, door.context(files))


def test_revoked_and_banned_certificates_are_refused_on_open_connections_too(door):
    door.put(LFN)
    connection = door.connection()
    connection.request("HEAD", LFN)
    first = connection.getresponse()
    assert (first.status, first.read()) == (200, b"")
    door.pki.revoke([door.identity().certificate])
    connection.request("GET", LFN)
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (401, b"CERTIFICATE_REVOKED: The certificate is revoked.\n")
    door.pki.revoke([])
    connection.request("HEAD", LFN)
    assert connection.getresponse().status == 200
    connection.close()
    door.bans.write_text(door.subject() + "\n")
    assert door.ask("HEAD", LFN).status == 401


@pytest.mark.parametrize(
    "head",
    [
        b"POST /api/v1/stage HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /api/v1/stage HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"POST /api/v1/stage HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello",
        b"POST /api/v1/stage HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"POST /api/v1/stage HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST /api/v1/stage HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 300 + b"\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GARBAGE\r\n\r\n",
    ],
)
def test_heads_that_two_servers_could_read_differently_end_the_connection(door, head):
    """Whatever follows must not be taken for another request."""
    answer = sent(door, head + b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.") and answer[9:10] == b"4"
    assert answer.count(b"HTTP/1.") == 1
    assert b"Traceback" not in answer


def test_ten_thousand_paths_are_answered_and_more_bytes_than_that_are_not(door):
    paths = [f"/biomed/hospital-a/study/{number}" for number in range(10_000)]
    answer = door.ask("POST", "/api/v1/archiveinfo", body=repr(paths).replace("'", '"').join(['{"paths": ', "}"]))
    assert (answer.status, answer.body.count(b"no such file")) == (200, 10_000)
    too_many = ", ".join(['{"path": "/biomed/hospital-a/x"}'] * 10_001).join(['{"files": [', "]}"])
    assert door.ask("POST", "/api/v1/stage", body=too_many).status == 413
    assert door.ask("POST", "/api/v1/archiveinfo", body=b'{"paths": ["' + b"a" * 9_000_000 + b'"]}').status == 413
    too_many = b"1,".join([b'{"paths": [', *[b""] * 150_000, b"1]}"])
    assert door.ask("POST", "/api/v1/archiveinfo", body=too_many).status == 413


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b"null", b'{"files": {}}', b'{"files": [1, null, {}, {"path": 5}]}', b"[" * 100_000, b'{"files": []}', b"\xff",
     b'{"files": [{"path": "/biomed/\\ud800"}]}', b'{"files": [{"path": "/a", "diskLifetime": "P99999D"}]}'],
)  # fmt: skip
def test_bodies_that_make_no_sense_are_refused_or_fail_alone(door, body):
    for path in ("/api/v1/stage", "/api/v1/archiveinfo/", "/api/v1/release/x", "/ga4gh/drs/v1/objects", "/ga4gh/drs/v1/objects/access"):
        answer = door.ask("POST", path, body=body)
        assert answer.status in (200, 201, 400), (path, answer.body)
        assert b"Traceback" not in answer.body


def test_a_reader_that_stops_is_cut_off(make_door, monkeypatch):
    monkeypatch.setattr(content, "STALL_SECONDS", 0.5)
    door = make_door()
    door.staged(LFN, b"PATIENTDOE" + bytes(9_500_000))
    context = door.context()
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.settimeout(20)
        plain.connect(("localhost", door.port))
        with context.wrap_socket(plain, server_hostname="localhost") as connection:
            connection.sendall(f"GET {LFN} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert connection.recv(10)
            eventually(lambda: not door.listener._connections)


def test_a_client_that_sends_no_whole_head_is_cut_off(make_door, monkeypatch):
    monkeypatch.setattr(listener, "HEAD_SECONDS", 0.5)
    door = make_door()
    assert sent(door, b"") == b""
    assert sent(door, b"GET /x HTTP/1.1\r\nHost: x\r\n") == b""
    assert door.ask("GET", "/biomed/none").status == 404


def test_a_body_that_does_not_come_is_not_waited_for(make_door, monkeypatch):
    monkeypatch.setattr("mdm_dicom_srm.door.http.answer.BODY_SECONDS", 0.2)
    answer = sent(make_door(), b"POST /api/v1/stage HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 408")


def test_a_body_that_nobody_takes_is_refused_before_it_is_sent(door):
    answer = sent(door, f"PUT {LFN} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 405")


TOKENS = st.sampled_from(
    [
        *("GET", "HEAD", "PROPFIND", "POST", "HTTP/1.1", "Host: x", "Depth: 1", "Range: bytes=", "If-Range: ", "Want-Digest: "),
        *("Content-Length: ", "Transfer-Encoding: chunked", LFN, "/turl/", "/api/v1/stage", "/ga4gh/drs/v1/objects/"),
        *("\r\n", "\r\n\r\n", " ", "%00", "%2e%2e/", "-", ",", '"', "9" * 30),
    ]
)  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TOKENS | st.text(max_size=8), max_size=14), st.binary(max_size=20))
def test_whatever_is_sent_the_door_answers_no_500_and_goes_on(door, words, rest):
    answer = sent(door, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + "".join(words).encode() + rest + b"\r\n\r\n", rest=0.05)
    assert b"HTTP/1.1 500" not in answer
    assert b"Traceback" not in answer
