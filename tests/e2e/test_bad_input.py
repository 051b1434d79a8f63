"""Bad input through the command: one clear line, a code other than 0, no traceback (which Mdm checks on every call)."""

import json
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from mdm_site.pki import DevelopmentCa
from mdm_testing.image import make_image
from mdm_testing.process import eventually
from mdm_testing.stack import Mdm, Stack

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    "arguments",
    [
        ("query", "DROP TABLE entry"),
        ("query", 'DELETE FROM "/biomed/hospital-a/images"'),
        ("query", 'SELECT guid FROM "/biomed/hospital-a/images"; SELECT 1'),
        ("query", "SELECT * FROM pg_catalog.pg_user"),
        ("query", "SELECT pg_read_file('/etc/passwd')"),
        ("query", ""),
        ("query", 'SELECT nonsense FROM "/biomed/hospital-a/images"'),
        ("ls", "/biomed/../biomed"),
        ("ls", "/" + "a" * 2000),
        ("ls", "relative/path"),
        ("ls", "/no/such/directory"),
        ("stat", "00000000-0000-0000-0000-000000000000"),
        ("get", "/biomed/hospital-a/none.dcm", "-o", "out"),
        ("acl", "grant", "/biomed", "nobody", "r"),
        ("acl", "grant", "/biomed", "authenticated", "q"),
        ("register", "--study", "not a uid"),
        ("frobnicate",),
    ],
)
def test_bad_arguments_give_one_clear_line(arguments, mdm: Mdm):
    result = mdm("alice", *arguments)
    assert result.code != 0
    assert result.err.strip()
    told = mdm("alice", "--json", *arguments)
    assert told.code == result.code
    if arguments[0] != "frobnicate":
        assert json.loads(told.err.strip().splitlines()[-1])["reason"]


def configuration(stack: Stack, folder: Path, **changes: Path) -> Path:
    """Return alice's configuration with other files."""
    original = stack.client_config("alice")
    text = original.read_text()
    lines = []
    for line in text.splitlines():
        key, _, value = line.partition(" = ")
        if key in ("certificate", "key", "ca"):
            path = changes.get(key) or original.parent / json.loads(value)
            line = f"{key} = {json.dumps(str(path))}"
        lines.append(line)
    file = folder / "client.toml"
    file.write_text("\n".join(lines))
    return file


def test_a_certificate_of_a_foreign_authority_is_refused_with_an_explanation(stack, mdm, tmp_path):
    foreign = DevelopmentCa(tmp_path / "foreign").issue("/O=MDM Test/CN=alice")
    config = configuration(stack, tmp_path, certificate=foreign.certificate, key=foreign.key)
    result = mdm("alice", "ls", "/biomed", config=config, timeout=60)
    assert result.code != 0
    assert "certificate" in result.err.lower()


def test_an_expired_certificate_is_named_as_such(stack, mdm, tmp_path):
    late = datetime.now(UTC) - timedelta(days=1)
    expired = DevelopmentCa(tmp_path / "ca").issue("/O=MDM Test/CN=alice", not_before=late - timedelta(days=9), not_after=late)
    config = configuration(stack, tmp_path, certificate=expired.certificate, key=expired.key)
    result = mdm("alice", "ls", "/biomed", config=config)
    assert result.code != 0
    assert "expired" in result.err.lower()


def test_a_missing_configuration_is_explained(mdm, tmp_path):
    result = mdm("alice", "whoami", config=tmp_path / "none.toml")
    assert result.code != 0
    assert "none.toml" in result.err


def test_garbage_on_the_dicom_port_harms_nothing(stack: Stack, mdm: Mdm, tmp_path):
    with socket.create_connection((stack.pacs["host"], stack.pacs["port"]), 5) as raw:
        raw.sendall(b"\x01\x00" + b"\xff" * 500)
    image = make_image(tmp_path / "image.dcm", "CT_small.dcm")
    stack.store(image.path)
    sql = f"SELECT patient FROM \"/biomed/hospital-a/patients\" WHERE PatientID = '{image.patient_id}'"
    assert len(eventually(lambda: mdm.query("carol", sql))) == 1
