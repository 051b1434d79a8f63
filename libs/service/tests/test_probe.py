"""Asking a service for its health from outside."""

import subprocess
import sys
from pathlib import Path

import pytest
from mdm_service.server import probe
from mdm_site.pki import DevelopmentCa
from mdm_testing.server import serve_in_process


@pytest.fixture
def running(pki):
    with serve_in_process(pki.issue(pki.subject("probed")), lambda server, _: None, namespaces=(pki.namespace,)) as served:
        yield served


def configuration(folder: Path, address: str, pki) -> Path:
    files = pki.issue(pki.subject("probed"))
    file = folder / "service.toml"
    tls = f'certificate = "{files.certificate}"\nkey = "{files.key}"\nca = "{files.ca}"'
    file.write_text(f'[listen]\nhost = "0.0.0.0"\nport = {address.rpartition(":")[2]}\n[tls]\n{tls}\n')
    return file


def test_a_service_that_serves_is_healthy(running, pki):
    files = pki.issue(pki.subject("operator"))
    assert probe.is_serving(running.address, files.certificate, files.key, files.ca)


def test_where_nobody_listens_nothing_is_healthy(pki):
    files = pki.issue(pki.subject("operator"))
    assert not probe.is_serving("localhost:1", files.certificate, files.key, files.ca, timeout=0.5)


def test_a_service_that_does_not_trust_the_asker_is_not_healthy_for_it(running, pki, tmp_path):
    stranger = DevelopmentCa(tmp_path).issue("/O=MDM Test/CN=operator")
    assert not probe.is_serving(running.address, stranger.certificate, stranger.key, pki.certificate_file, timeout=2)


def test_the_program_tells_by_its_exit_code(running, pki, tmp_path):
    for address, code in ((running.address, 0), ("localhost:1", 1)):
        command = [
            sys.executable,
            "-m",
            "mdm_service.server.probe",
            "--timeout",
            "2",
            "--config",
            str(configuration(tmp_path, address, pki)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
