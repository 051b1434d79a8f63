"""mdm-catalog fsck on a running stack: it asks every service itself, and mends what was lost."""

import json
import subprocess
import tomllib
from pathlib import Path

import psycopg
import pytest
from cryptography import x509
from mdm_site import toml
from mdm_testing.wait import eventually

from tests.e2e.stack import BIN, Mdm, Result, Stack

pytestmark = pytest.mark.e2e
IMAGES = "/biomed/hospital-a/images"


@pytest.fixture
def fsck(stack: Stack, tmp_path: Path):
    """Run fsck on the stack's catalog as the operator; only what is wrong with one GUID is returned, as (problem, repaired)."""
    client = stack.client_config("operator")
    files = {name: client.parent / path for name, path in tomllib.loads(client.read_text()).items() if name in ("certificate", "key", "ca")}
    operator = x509.load_pem_x509_certificate(files["certificate"].read_bytes()).subject.rfc4514_string()
    registrar = operator.replace("CN=operator", "CN=dicom-srm")
    document = {
        "listen": {"port": 7001},
        "tls": files,
        "trust": {"ca": [{"certificate": files["ca"], "namespaces": [operator.partition(",")[2]]}]},
        "database": {"conninfo": stack.database("catalog")},
        "roles": {"service.dicom-srm": [registrar]},
        "root": {"owner": operator},
    }
    config = tmp_path / "catalog.toml"
    config.write_text(toml.dumps(document))

    def run(guid: str, *options: str) -> list[tuple[str, bool]]:
        command = [BIN / "mdm-catalog", "fsck", "--config", config, "--client", client, "--collection", IMAGES, "--min-age", "0", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode in (0, 1), done.stderr
        lines = Result(done.returncode, done.stdout, done.stderr).rows()
        assert all(set(line) <= {"problem", "repaired", "reason", "guid", "surl", "directory_id", "entry_id"} for line in lines)
        assert json.dumps(lines).count("CN=") == 0
        return [(line["problem"], line["repaired"]) for line in lines if line.get("guid") == guid]

    return run


def test_what_a_lost_name_leaves_behind_is_found_and_removed_everywhere(stack: Stack, mdm: Mdm, image, fsck):
    stack.store(image.path)
    sql = (
        f'SELECT i.guid FROM "{IMAGES}" AS i JOIN "/biomed/hospital-a/patients" AS p ON i.patient = p.patient'
        f" WHERE p.PatientID = '{image.patient_id}'"
    )
    [row] = eventually(lambda: mdm.query("carol", sql))
    guid = row["guid"]
    assert eventually(lambda: mdm("alice", "stat", guid).code == 0)
    assert fsck(guid) == []
    with psycopg.connect(stack.database("catalog")) as connection:
        connection.execute("DELETE FROM entry WHERE guid = %s", (guid,))
    assert fsck(guid) == [("key-without-file", False), ("record-without-file", False)]
    assert fsck(guid, "--repair", "--at-most", "1000") == [("key-without-file", False), ("record-without-file", True)]
    assert mdm("operator", "key", "stat", guid).code == 0, "no key goes unasked"
    assert fsck(guid, "--repair", "--destroy-keys", "--at-most", "1000") == [("key-without-file", True)]
    assert mdm("operator", "key", "stat", guid).code != 0
    assert mdm.query("carol", sql) == []
    assert fsck(guid) == []
