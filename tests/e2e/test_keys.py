"""Keys through the mdm command: one keystore stopped, hung, corrupted or emptied; keys destroyed for good; users' own files."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import psycopg
import pytest
from mdm_testing.image import make_image
from mdm_testing.stack import Mdm, Stack

pytestmark = pytest.mark.e2e

KEYSTORES = ("keystore-a", "keystore-b", "keystore-c")
FAULTS = ("stopped", "hung", "shares flipped", "commitments flipped", "emptied")
CASES = [(fault, name) for fault in FAULTS for name in KEYSTORES]
_TABLES = ("acl", "acl_entry", "key_share")  # in the order in which they refer to each other


@contextmanager
def database(stack: Stack, keystore: str) -> Iterator[psycopg.Connection]:
    """Open a keystore's database, as its administrator could."""
    with psycopg.connect(stack.database(keystore), autocommit=True) as connection:
        yield connection


def execute(stack: Stack, keystore: str, *statements: str) -> None:
    with database(stack, keystore) as connection:
        for statement in statements:
            connection.execute(statement.encode())


@contextmanager
def fault(kind: str, keystore: str, stack: Stack) -> Iterator[None]:
    """Have a keystore at fault until the block ends; then restore it."""
    if kind == "stopped":
        stack.stop(keystore)
        try:
            yield
        finally:
            stack.start(keystore)
    elif kind == "hung":
        stack.freeze(keystore)
        try:
            yield
        finally:
            stack.thaw(keystore)
    else:
        damage = {
            "shares flipped": "UPDATE key_share SET sealed = set_byte(sealed, 20, get_byte(sealed, 20) # 1)",
            "commitments flipped": "UPDATE key_share SET commitments = set_byte(commitments, 40, get_byte(commitments, 40) # 1)",
            "emptied": "TRUNCATE acl CASCADE",
        }[kind]
        execute(stack, keystore, "CREATE SCHEMA saved", *(f"CREATE TABLE saved.{table} AS TABLE {table}" for table in _TABLES), damage)
        try:
            yield
        finally:
            restored = [f"INSERT INTO {table} SELECT * FROM saved.{table}" for table in _TABLES]
            execute(stack, keystore, "TRUNCATE acl CASCADE", *restored, "DROP SCHEMA saved CASCADE")


@pytest.fixture(scope="module")
def series(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """A registered image for each case, which nobody has fetched: dicom-srm needs its key too."""
    folder = tmp_path_factory.mktemp("series")
    first = make_image(folder / "0.dcm", "CT_small.dcm", number=0)
    images = [first, *(make_image(folder / f"{n}.dcm", "CT_small.dcm", of=first, number=n) for n in range(1, len(CASES)))]
    stack.store(*(image.path for image in images))
    return Mdm(stack, folder).registered(first.patient_id, len(CASES))


@pytest.mark.parametrize(
    ("number", "kind", "keystore"), [(n, *case) for n, case in enumerate(CASES)], ids=[" ".join(case) for case in CASES]
)
def test_images_are_fetched_with_a_keystore(number, kind, keystore, series, stack: Stack, mdm: Mdm):
    with fault(kind, keystore, stack):
        result, files = mdm.get("alice", series[number]["lfn"])
    assert (result.code, len(files)) == (0, 1), result.err


@pytest.mark.parametrize("kind", ["stopped", "shares flipped"])
def test_without_two_keystores_nothing_is_read_and_afterwards_everything(kind, series, stack: Stack, mdm: Mdm, tmp_path):
    lfn = series[0]["lfn"]
    with fault(kind, "keystore-a", stack), fault(kind, "keystore-c", stack):
        result = mdm("alice", "get", lfn, "-o", str(tmp_path / "out"), "--timeout", "3")
        assert result.code != 0
        assert "keystore" in result.err
        assert not list((tmp_path / "out").rglob("*"))
    result, files = mdm.get("alice", lfn)
    assert (result.code, len(files)) == (0, 1), result.err


def test_a_destroyed_key_opens_neither_staged_nor_downloaded_ciphertext_even_with_one_servers_backup(stack: Stack, mdm: Mdm, tmp_path):
    image = make_image(tmp_path / "image.dcm", "CT_small.dcm")
    stack.store(image.path)
    (row,) = mdm.registered(image.patient_id)
    guid, staged, report = row["guid"], tmp_path / "staged", tmp_path / "report.mdm"
    result, fetched = mdm.get("alice", row["lfn"])
    assert result.code == 0, result.err
    (in_spool,) = [content for name, content in stack.staged().items() if guid in name]
    staged.write_bytes(in_spool)
    (tmp_path / "report").write_bytes(b"findings")
    assert mdm("alice", "encrypt", row["lfn"], str(tmp_path / "report"), str(report)).code == 0
    readable = mdm("alice", "decrypt", guid, str(staged), str(tmp_path / "before"))
    assert readable.code == 0, readable.err
    assert (tmp_path / "before").read_bytes() == fetched[0].read_bytes()
    execute(stack, "keystore-a", "CREATE SCHEMA backup", f"CREATE TABLE backup.key_share AS SELECT * FROM key_share WHERE guid = '{guid}'")

    destroyed = mdm("operator", "--json", "key", "unregister", guid)
    assert destroyed.code == 0, destroyed.err
    assert [part["ok"] for part in destroyed.rows()[0]["keystores"].values()] == [True, True, True]

    def nothing_is_readable() -> None:
        for arguments in (["decrypt", guid, str(staged)], ["decrypt", str(report)]):
            refused = mdm("alice", *arguments, str(tmp_path / "after"))
            assert refused.code != 0
            assert len(refused.err.splitlines()) == 1
        again, files = mdm.get("alice", row["lfn"])
        assert (again.code != 0, files) == (True, [])
        assert not (tmp_path / "after").exists()

    nothing_is_readable()
    execute(stack, "keystore-a", "INSERT INTO key_share SELECT * FROM backup.key_share", "DROP SCHEMA backup CASCADE")
    (told,) = mdm("alice", "--json", "key", "stat", guid).rows()
    assert [part["ok"] for part in told["keystores"].values()] == [True, False, False], "the backup is back"
    nothing_is_readable()
    assert mdm("operator", "key", "unregister", guid).code == 0


def test_a_users_own_file_opens_for_those_who_may_read_its_key(stack: Stack, mdm: Mdm, tmp_path):
    key, plain, cipher, out = str(uuid4()), tmp_path / "plain", tmp_path / "cipher", tmp_path / "out"
    plain.write_bytes(os.urandom(3_000_000))
    encrypted = mdm("alice", "encrypt", key, str(plain), str(cipher), "--register")
    assert encrypted.code == 0, encrypted.err
    assert mdm("mallory", "decrypt", str(cipher), str(out)).code == 3
    principal = f"dn:{mdm('mallory', '--json', 'whoami').rows()[0]['dn']}"
    assert mdm("alice", "key", "acl", "grant", key, principal, "r").code == 0
    with fault("hung", "keystore-b", stack):
        assert mdm("mallory", "decrypt", str(cipher), str(out)).code == 0
    assert out.read_bytes() == plain.read_bytes()
    assert mdm("alice", "key", "acl", "revoke", key, principal).code == 0
    assert mdm("mallory", "decrypt", str(cipher), str(out)).code == 3
    assert mdm("operator", "decrypt", str(cipher), str(out)).code == 3, "operators destroy keys and never read them"
    assert mdm("alice", "key", "unregister", key).code == 0
