"""The program: its example configuration, and a real process that serves, is killed and serves again."""

import subprocess
import sys
import tomllib
from pathlib import Path
from uuid import uuid4

import grpc
import pytest
from mdm.acl.v1 import acl_pb2, acl_pb2_grpc
from mdm.keystore.v1 import keystore_pb2, keystore_pb2_grpc
from mdm_crypto import shamir
from mdm_keystore.config import KeystoreSettings
from mdm_service import settings
from mdm_service.settings import ConfigurationError
from mdm_site.file import to_toml
from mdm_testing.process import end_process, free_port, kill_process, running_process
from mdm_testing.server import answering, channel, configuration

EXAMPLE = Path(__file__).parents[1] / "config.example.toml"


def test_the_example_configuration_names_every_key_of_the_section():
    section = tomllib.loads(EXAMPLE.read_text())["keystore"]
    loaded = settings.load(KeystoreSettings, "keystore", EXAMPLE)
    assert section.keys() == type(loaded.keystore).model_fields.keys()
    assert loaded.keystore.kek_file == EXAMPLE.parent / "kek"


@pytest.mark.parametrize(("old", "new"), [("index = 1", "index = 0"), ("index = 1", "index = 17"), ("kek_file", "kek_fil")])
def test_a_wrong_configuration_is_refused_by_key(tmp_path, old, new):
    file = tmp_path / "keystore.toml"
    file.write_text(EXAMPLE.read_text().replace(old, new, 1))
    with pytest.raises(ConfigurationError, match="keystore"):
        settings.load(KeystoreSettings, "keystore", file)


@pytest.mark.integration
def test_a_key_outlives_a_killed_process(tmp_path, database, pki):
    port, file = free_port(), tmp_path / "keystore.toml"
    section = {"name": "a", "index": 1, "kek_file": "kek", "purge_interval_seconds": 0.05, "pending_ttl_seconds": 60}
    file.write_text(to_toml(configuration(pki, "keystore", database.conninfo, port=port, keystore=section)))
    (tmp_path / "kek").write_text("5a" * 32)
    program = [sys.executable, "-m", "mdm_keystore"]
    early = subprocess.run([*program, "serve", "--config", file], capture_output=True, text=True, timeout=60)
    assert early.returncode != 0
    assert "run `migrate` first" in early.stderr
    subprocess.run([*program, "migrate", "--config", file], check=True, timeout=60, capture_output=True)
    share = shamir.split(None, 2, 3, uuid4())[0]
    alice = pki.issue(pki.subject("alice"))
    for attempt in range(2):
        answers = answering(f"127.0.0.1:{port}", alice)
        with running_process([*program, "serve", "--config", file], tmp_path / "log", answers) as process:
            with channel(f"127.0.0.1:{port}", alice) as opened:
                if attempt == 0:
                    create(opened, share)
                stub = keystore_pb2_grpc.KeystoreServiceStub(opened)
                released = stub.GetShares(keystore_pb2.GetSharesRequest(guids=[str(share.guid)])).results[0]
                assert released.share.value == share.value
            if attempt == 0:
                kill_process(process)
            else:
                assert end_process(process) == 0


def create(opened: grpc.Channel, share: shamir.Share) -> None:
    acl_id = str(uuid4())
    acl_pb2_grpc.AclServiceStub(opened).CreateAcls(acl_pb2.CreateAclsRequest(acls=[acl_pb2.Acl(id=acl_id)]))
    message = keystore_pb2.Share(
        guid=str(share.guid),
        epoch=share.epoch,
        x=share.x,
        value=share.value,
        commitments=share.commitments,
        threshold=share.threshold,
        total=share.total,
    )
    stub = keystore_pb2_grpc.KeystoreServiceStub(opened)
    key = keystore_pb2.NewKey(share=message, acl_id=acl_id)
    assert stub.CreateKeys(keystore_pb2.CreateKeysRequest(keys=[key])).statuses[0].code == 0
    reference = keystore_pb2.KeyRef(guid=str(share.guid), epoch=share.epoch, public_key=share.public_key)
    assert stub.ConfirmKeys(keystore_pb2.ConfirmKeysRequest(keys=[reference])).statuses[0].code == 0
