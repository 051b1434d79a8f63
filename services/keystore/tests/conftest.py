"""The port of the service twice, in memory and in PostgreSQL, for one suite that holds both to the same contract; a ring of keystores."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import psycopg
import pytest
from mdm_crypto.audit import GENESIS, AuditEntry, ChainedEntry, chain
from mdm_keystore.__main__ import MIGRATIONS
from mdm_keystore.rules.model import AclAssignment, KeyRecord, KeyState, LiveKey
from mdm_keystore.rules.port import AuditUnavailable
from mdm_keystore.store.key import PostgresKeys
from mdm_service.access import store as acl_store
from mdm_service.access.acl import Acl
from mdm_service.database import migrate, open_pool
from mdm_service.identity.caller import Caller
from mdm_service.policy import DICOM_SRM
from mdm_service.settings import DatabaseSettings
from mdm_testing.postgres import fresh_databases
from mdm_wire.permission import Permission

from services.keystore.tests.ring import Ring
from services.keystore.tests.trail import read_chain


class MemoryKeys:
    """Keys in a dictionary; a change works on a copy that replaces the original at its end."""

    def __init__(self) -> None:
        self.acls: dict[UUID, Acl] = {}
        self.records: dict[UUID, KeyRecord] = {}
        self.entries: list[ChainedEntry] = []
        self.audit_refused = False
        self._lock = threading.Lock()

    def add_acl(self, acl: Acl) -> None:
        self.acls[acl.id] = acl

    def refuse_audit(self) -> None:
        self.audit_refused = True

    def chain(self) -> Sequence[ChainedEntry]:
        return self.entries

    @contextmanager
    def change(self) -> Iterator["MemoryKeys"]:
        with self._lock:
            copy = MemoryKeys()
            copy.acls, copy.records, copy.entries = self.acls, dict(self.records), list(self.entries)
            copy.audit_refused = self.audit_refused
            yield copy
            self.records, self.entries = copy.records, copy.entries

    @contextmanager
    def release(self) -> Iterator["MemoryKeys"]:
        yield self

    def held(self, caller: Caller, guids: Sequence[UUID]) -> Mapping[UUID, LiveKey]:
        found = [self.records[guid] for guid in guids if guid in self.records and _is_live(self.records[guid])]
        return {record.guid: LiveKey(record, self.acls[record.acl_id].permissions_of(caller)) for record in found}

    def acl_rights(self, caller: Caller, acl_ids: Sequence[UUID]) -> Mapping[UUID, Permission]:
        return {acl_id: self.acls[acl_id].permissions_of(caller) for acl_id in acl_ids if acl_id in self.acls}

    def page(self, caller: Caller | None, after: UUID | None, limit: int) -> Sequence[KeyRecord]:
        ordered = sorted(self.records.values(), key=lambda record: record.guid)
        shown = [
            record
            for record in ordered
            if _is_live(record)
            and (after is None or record.guid > after)
            and (caller is None or self.acls[record.acl_id].permissions_of(caller) & Permission.LIST or _made(record, caller))
        ]
        return shown[:limit]

    def put(self, records: Sequence[KeyRecord]) -> None:
        self.records.update({record.guid: record for record in records})

    def confirm(self, guids: Sequence[UUID]) -> None:
        for guid in guids:
            self.records[guid] = replace(self.records[guid], state=KeyState.CONFIRMED, expire_time=None)

    def remove(self, guids: Sequence[UUID]) -> None:
        for guid in guids:
            self.records.pop(guid, None)

    def remove_prepared(self, caller: Caller | None, guids: Sequence[UUID]) -> Sequence[UUID]:
        return []

    def assign(self, assignments: Sequence[AclAssignment]) -> None:
        for assignment in assignments:
            self.records[assignment.guid] = replace(self.records[assignment.guid], acl_id=assignment.acl_id)

    def remove_expired(self) -> Sequence[UUID]:
        expired = [guid for guid, record in self.records.items() if not _is_live(record)]
        self.remove(expired)
        return expired

    def audit(self, entries: Sequence[AuditEntry]) -> None:
        if self.audit_refused:
            raise AuditUnavailable
        last = self.entries[-1] if self.entries else ChainedEntry(0, None, GENESIS)  # type: ignore[arg-type]
        self.entries += chain(entries, last.seq, last.hash)


def _made(record: KeyRecord, caller: Caller) -> bool:
    return caller.has_role(DICOM_SRM) and record.creator == caller.dn


def _is_live(record: KeyRecord) -> bool:
    return record.expire_time is None or record.expire_time > datetime.now(UTC)


class RealKeys(PostgresKeys):
    """PostgreSQL, with what a test does behind the service's back."""

    def __init__(self, pool, conninfo: str) -> None:
        super().__init__(pool)
        self.conninfo = conninfo
        self._audited = pool

    def chain(self) -> Sequence[ChainedEntry]:
        return read_chain(self._audited)

    def add_acl(self, acl: Acl) -> None:
        with psycopg.connect(self.conninfo) as connection:
            acl_store.insert(connection, acl)

    def refuse_audit(self) -> None:
        with psycopg.connect(self.conninfo) as connection:
            connection.execute("ALTER TABLE audit_entry ADD CONSTRAINT full_disk CHECK (false) NOT VALID")


@pytest.fixture(scope="session")
def keystore_conninfo(postgres) -> Iterator[str]:
    with fresh_databases(postgres, "keystore") as (conninfo,):
        yield conninfo


@pytest.fixture
def real_keys(keystore_conninfo) -> Iterator[RealKeys]:
    """An empty database, migrated."""
    with psycopg.connect(keystore_conninfo) as connection:
        connection.execute("DROP OWNED BY CURRENT_USER")
        connection.execute("CREATE SCHEMA IF NOT EXISTS public")
    migrate(keystore_conninfo, MIGRATIONS)
    pool = open_pool(DatabaseSettings(conninfo=keystore_conninfo, pool_min=1, pool_max=4))
    yield RealKeys(pool, keystore_conninfo)
    pool.close()


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.integration)])
def keys(request) -> MemoryKeys | RealKeys:
    return MemoryKeys() if request.param == "memory" else request.getfixturevalue("real_keys")


@pytest.fixture(scope="module")
def whole_ring(postgres) -> Iterator[Ring]:
    with fresh_databases(postgres, "ring", 4) as conninfos:
        for conninfo in conninfos:
            migrate(conninfo, MIGRATIONS)
        made = Ring(conninfos)
        yield made
        made.close()


@pytest.fixture
def ring(whole_ring) -> Ring:
    """Four keystores; keys are on the first three."""
    whole_ring.tidy()
    return whole_ring
