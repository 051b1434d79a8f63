"""gfal2 and curl, as Debian has them, against the door: listing, copying, checksums, bringing online."""

import os
import re
import subprocess
import zlib

import pytest
from mdm_testing.process import eventually, require_program

pytestmark = pytest.mark.integration
DIRECTORY = "/biomed/hospital-a/study"
SECONDS = 60


@pytest.fixture(scope="session")
def authorities(pki, tmp_path_factory):
    """The authority in a directory of hashed names, as grid programs want it."""
    directory = tmp_path_factory.mktemp("certificates")
    certificate = pki.certificate_file
    name = subprocess.run(
        ["openssl", "x509", "-hash", "-noout", "-in", certificate], check=True, capture_output=True, text=True
    ).stdout.strip()
    (directory / f"{name}.0").write_bytes(certificate.read_bytes())
    return directory


@pytest.fixture
def gfal(door, authorities):
    """Run a gfal2 command on a path of the door; return what it says."""
    require_program("gfal-copy", "gfal2-util-scripts")
    identity = door.identity()

    def run(command, *arguments, code=0, name="alice"):
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "GFAL_PYTHONBIN": "/usr/bin/python3",
            "X509_CERT_DIR": str(authorities),
            "X509_USER_CERT": str(identity.certificate),
            "X509_USER_KEY": str(identity.key),
        }
        done = subprocess.run(
            [f"gfal-{command}", *arguments], env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def test_gfal_lists_looks_copies_and_sums(door, gfal, tmp_path):
    content = b"PATIENTDOE pixels" * 200_000
    door.staged(f"{DIRECTORY}/1", content)
    door.put(f"{DIRECTORY}/2")
    body = door.ask("GET", f"{DIRECTORY}/1").body
    url = f"{door.url}{DIRECTORY}"
    assert gfal("ls", url).split() == ["1", "2"]
    assert re.search(rf"-rwx.* {len(body)} .*1", gfal("ls", "-l", url))
    assert f"Size: {len(body)}" in gfal("stat", f"{url}/1")
    gfal("copy", f"{url}/1", f"file://{tmp_path}/plain")
    assert (tmp_path / "plain").read_bytes() == body
    assert gfal("sum", f"{url}/1", "ADLER32").split()[-1] == f"{zlib.adler32(body):08x}"
    gfal("copy", "-K", "ADLER32", f"{url}/1", f"file://{tmp_path}/checked")
    assert (tmp_path / "checked").read_bytes() == body


def test_gfal_brings_online_polls_and_releases(door, gfal):
    door.put(f"{DIRECTORY}/1")
    url = f"{door.url}{DIRECTORY}/1"
    print(gfal("archivepoll", "--polling-timeout", "1", url))
    said = gfal("bringonline", "--pin-lifetime", "600", "--timeout", "30", "--polling-timeout", "30", url)
    assert "READY" in said
    assert len(door.world.pacs.retrievals) == 1
    print(said)
    token = re.search(r"got token (\S+)", said)
    assert door.ask("GET", f"{DIRECTORY}/1").status == 200
    gfal("evict", url, *([token[1]] if token else []))


def test_gfal_fails_on_what_is_not_there(door, gfal, tmp_path):
    door.put(f"{DIRECTORY}/1")
    gfal("stat", f"{door.url}{DIRECTORY}/none", code=2)
    gfal("copy", f"{door.url}{DIRECTORY}/none", f"file://{tmp_path}/none", code=2)
    gfal("rm", f"{door.url}{DIRECTORY}/1", code=1)
    assert door.ask("HEAD", f"{DIRECTORY}/1").status == 200


@pytest.fixture
def curl(door):
    program, identity = require_program("curl", "curl"), door.identity()

    def run(*arguments, code=0):
        files = ["--cert", identity.certificate, "--key", identity.key, "--cacert", identity.ca]
        done = subprocess.run([program, "-sS", *files, *arguments], capture_output=True, timeout=SECONDS, check=False)
        assert done.returncode == code, done.stderr
        return done.stdout

    return run


def test_curl_resumes_across_restaging_and_saves_etags(door, curl, tmp_path):
    guid, _ = door.staged(f"{DIRECTORY}/1", b"PATIENTDOE" + bytes(300_000))
    url, target, etag = f"{door.url}{DIRECTORY}/1", tmp_path / "file", tmp_path / "etag"
    body = curl(url)
    assert curl("-r", "10-19", url) == body[10:20]
    target.write_bytes(body[:1000])
    door.world.forget([guid])
    eventually(lambda: curl("-o", "/dev/null", "-w", "%{http_code}", url) == b"200")
    curl("-C", "-", "-o", target, url)
    assert target.read_bytes() == body
    curl("--etag-save", etag, "-o", target, url)
    assert curl("--etag-compare", etag, "-w", "%{http_code}", url) == b"304"


def test_curl_waits_while_a_file_is_staged(door, curl):
    door.put(f"{DIRECTORY}/1")
    assert curl("-o", "/dev/null", "-w", "%{http_code}", f"{door.url}{DIRECTORY}/1") in (b"200", b"202")
    eventually(lambda: curl("-o", "/dev/null", "-w", "%{http_code}", f"{door.url}{DIRECTORY}/1") == b"200")
