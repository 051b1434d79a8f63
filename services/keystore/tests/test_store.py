"""What only PostgreSQL can show: no share in a dump, an append-only log, order among writers, migrations, speed."""

import threading
import time
from datetime import timedelta
from uuid import UUID, uuid4

import psycopg
import pytest
from mdm_crypto import shamir
from mdm_crypto.audit import AuditEntry
from mdm_keystore.rules.model import KeyRef, NewKey
from mdm_keystore.rules.seal import Sealer
from mdm_keystore.rules.service import KeystoreService
from mdm_service.access.acl import Acl
from mdm_service.identity.caller import Caller

from services.keystore.tests.trail import assert_whole

pytestmark = pytest.mark.integration

SRM = Caller("CN=dicom-srm,O=MDM Test")
ACL = UUID("0190a5a0-0000-7000-8000-0000000000aa")
KEK = b"\x07" * 32


@pytest.fixture
def service(real_keys) -> KeystoreService:
    real_keys.add_acl(Acl(ACL, SRM.dn))
    return KeystoreService(real_keys, Sealer([KEK]), name="b", index=2, pending_ttl=timedelta(minutes=5))


def create(service: KeystoreService, count: int) -> list[shamir.Share]:
    shares = [shamir.split(None, 2, 3, uuid4())[1] for _ in range(count)]
    assert service.create_keys(SRM, [NewKey(share, ACL) for share in shares]) == [None] * count
    refs = [KeyRef(share.guid, share.epoch, share.public_key) for share in shares]
    assert service.confirm_keys(SRM, refs) == [None] * count
    return shares


def test_a_dump_of_the_database_reveals_no_share(service, real_keys):
    shares = create(service, 20)
    service.release_shares(SRM, [share.guid for share in shares])
    dump = bytearray()
    with psycopg.connect(real_keys.conninfo) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        assert ("key_share",) in tables
        for (table,) in tables:
            with connection.cursor().copy(f'COPY "{table}" TO STDOUT (FORMAT binary)'.encode()) as copy:
                for block in copy:
                    dump += block
    assert all(share.guid.bytes in dump and share.public_key in dump for share in shares)
    assert not any(share.value in dump or share.value.hex().encode() in dump for share in shares)
    assert KEK not in dump


def test_a_sealed_share_copied_into_another_row_is_not_released(service, real_keys):
    one, two = create(service, 2)
    with psycopg.connect(real_keys.conninfo) as connection:
        copy = "UPDATE key_share SET sealed = (SELECT sealed FROM key_share WHERE guid = %s) WHERE guid = %s"
        connection.execute(copy, (one.guid, two.guid))
    assert getattr(service.release_shares(SRM, [two.guid])[0], "reason", None) == "SHARE_UNREADABLE"


@pytest.mark.parametrize("statement", ["UPDATE audit_entry SET outcome = 'OK'", "DELETE FROM audit_entry", "TRUNCATE audit_entry"])
def test_the_audit_log_only_grows(service, real_keys, statement):
    create(service, 1)
    with psycopg.connect(real_keys.conninfo) as connection, pytest.raises(psycopg.errors.RaiseException, match="append-only"):
        connection.execute(statement.encode())


def test_writers_at_the_same_time_make_one_unbroken_chain(service, real_keys):
    shares = create(service, 4)

    def work() -> None:
        for share in shares:
            service.release_shares(SRM, [share.guid] * 3)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    chained = real_keys.chain()
    assert len(chained) == 8 + 6 * 4 * 3
    assert_whole(chained)


def test_an_entry_is_read_back_as_it_was_hashed(real_keys):
    entry = AuditEntry(real_keys_time(real_keys), "CN=Žofie\\, Dr.,O=MDM Test", "release", uuid4(), "KEY_NOT_FOUND")
    with real_keys.release() as release:
        release.audit([entry])
    assert [item.entry for item in real_keys.chain()] == [entry]


def real_keys_time(real_keys):
    with psycopg.connect(real_keys.conninfo) as connection:
        return connection.execute("SELECT now() - interval '1 day 1 microsecond'").fetchone()[0]


def test_500_keys_take_well_under_a_second_at_the_service(service, real_keys):
    """The target is 100 ms of SQL; the bound here only catches a query per key, on a busy machine."""
    shares = create(service, 500)
    guids = [share.guid for share in shares]
    started = time.perf_counter()
    assert [released.share for released in service.release_shares(SRM, guids)] == shares
    assert time.perf_counter() - started < 1.0
