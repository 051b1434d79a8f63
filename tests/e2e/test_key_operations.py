"""Operators' work on keys through the mdm command: new shares, a rebuilt keystore, another threshold, a proven audit."""

import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from mdm_testing.stack import Mdm, Stack

from tests.e2e.test_keys import execute, fault

pytestmark = pytest.mark.e2e


@pytest.fixture
def sealed(mdm: Mdm, tmp_path: Path) -> Iterator[tuple[str, Path, bytes]]:
    """A key of alice's, a file encrypted under it, and its plaintext."""
    key, plain, cipher = str(uuid4()), tmp_path / "plain", tmp_path / "cipher"
    plain.write_bytes(os.urandom(1000))
    encrypted = mdm("alice", "encrypt", key, str(plain), str(cipher), "--register")
    assert encrypted.code == 0, encrypted.err
    yield key, cipher, plain.read_bytes()
    mdm("alice", "key", "unregister", key)


def read(mdm: Mdm, cipher: Path) -> bytes | None:
    """Return what alice decrypts, None if she cannot."""
    out = mdm.scratch / f"read-{uuid4().hex}"
    return out.read_bytes() if mdm("alice", "decrypt", str(cipher), str(out)).code == 0 else None


def falsify(stack: Stack, statement: str) -> None:
    """Alter the audit of keystore a, as its database's administrator can."""
    execute(stack, "keystore-a", "ALTER TABLE audit_entry DISABLE TRIGGER USER", statement, "ALTER TABLE audit_entry ENABLE TRIGGER USER")


def version(mdm: Mdm, key: str) -> set[int]:
    (told,) = mdm("alice", "--json", "key", "stat", key).rows()
    assert told["whole"], told
    return {part["version"] for part in told["keystores"].values()}


def test_a_refresh_gives_every_key_new_shares_and_changes_no_key(sealed, mdm: Mdm):
    key, cipher, plaintext = sealed
    (before,) = version(mdm, key)
    done = mdm("operator", "key", "refresh")
    assert done.code == 0, done.err
    (after,) = version(mdm, key)
    assert after > before
    assert read(mdm, cipher) == plaintext
    assert mdm("alice", "key", "refresh").code == 3, "it is for operators"


def test_an_emptied_keystore_is_rebuilt_from_the_others(sealed, stack: Stack, mdm: Mdm):
    _, cipher, plaintext = sealed
    execute(stack, "keystore-b", "TRUNCATE acl CASCADE")
    assert mdm("operator", "key", "list", "--damaged").code == 1
    repaired = mdm("operator", "key", "repair", "b")
    assert repaired.code == 0, repaired.out + repaired.err
    assert mdm("operator", "key", "list", "--damaged").code == 0
    with fault("stopped", "keystore-a", stack):
        assert read(mdm, cipher) == plaintext, "b and c alone"


def test_flipped_shares_are_repaired(sealed, stack: Stack, mdm: Mdm):
    _, cipher, plaintext = sealed
    execute(stack, "keystore-c", "UPDATE key_share SET sealed = set_byte(sealed, 20, get_byte(sealed, 20) # 1)")
    repaired = mdm("operator", "key", "repair", "c")
    assert repaired.code == 0, repaired.out + repaired.err
    with fault("stopped", "keystore-b", stack):
        assert read(mdm, cipher) == plaintext, "a and c alone"


def test_a_destroyed_key_is_not_repaired_from_one_servers_backup(sealed, stack: Stack, mdm: Mdm):
    key, cipher, _ = sealed
    execute(stack, "keystore-a", "CREATE SCHEMA backup", f"CREATE TABLE backup.key_share AS SELECT * FROM key_share WHERE guid = '{key}'")
    assert mdm("alice", "key", "unregister", key).code == 0
    execute(stack, "keystore-a", "INSERT INTO key_share SELECT * FROM backup.key_share", "DROP SCHEMA backup CASCADE")
    repaired = mdm("operator", "key", "repair", "b", "c", "--by", "a")
    assert repaired.code != 0
    assert read(mdm, cipher) is None
    assert mdm("operator", "key", "unregister", key).code == 0


def test_every_key_is_split_anew_with_another_threshold_and_back(sealed, stack: Stack, mdm: Mdm):
    key, cipher, plaintext = sealed
    assert mdm("operator", "key", "reshare", "3", "3").code == 0
    (told,) = mdm("alice", "--json", "key", "stat", key).rows()
    assert {(part["threshold"], part["total"]) for part in told["keystores"].values()} == {(3, 3)}
    assert read(mdm, cipher) == plaintext
    with fault("stopped", "keystore-b", stack):
        assert read(mdm, cipher) is None, "two no longer suffice"
    assert mdm("operator", "key", "reshare", "2", "3").code == 0
    with fault("stopped", "keystore-b", stack):
        assert read(mdm, cipher) == plaintext


def test_the_audit_has_every_action_is_proven_and_an_edit_is_found(sealed, stack: Stack, mdm: Mdm):
    key, cipher, _ = sealed
    assert read(mdm, cipher) is not None
    shown = mdm("operator", "--json", "key", "audit", "show", "a", "--id", key)
    assert {"create", "confirm"} <= {row["action"] for row in shown.rows()}
    proven = mdm("operator", "key", "audit", "verify")
    assert proven.code == 0, proven.out + proven.err
    (row,) = [row for row in shown.rows() if row["action"] == "create"]
    falsify(stack, f"UPDATE audit_entry SET who = 'CN=nobody' WHERE seq = {row['seq']}")
    try:
        found = mdm("operator", "key", "audit", "verify")
        assert found.code == 1
        assert "keystore a  NOT PROVEN" in found.out
    finally:
        falsify(stack, f"UPDATE audit_entry SET who = '{row['who']}' WHERE seq = {row['seq']}")
    assert mdm("alice", "key", "audit", "show", "a").code == 3
