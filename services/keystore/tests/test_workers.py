"""Three keystores of two processes each: keys are made and read while they get new shares, and every audit is one chain."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from uuid import UUID, uuid4

import psycopg
import pytest
from mdm.keystore.v1 import admin_pb2, admin_pb2_grpc, keystore_pb2, keystore_pb2_grpc
from mdm_crypto import shamir
from mdm_crypto.audit import AuditEntry, HeadSigner, SignedHead, WitnessedHead
from mdm_keystore.rules.audit import AuditTrail
from mdm_keystore.rules.seal import Sealer
from mdm_keystore.store.audit import PostgresTrail
from mdm_site.file import to_toml
from mdm_testing.postgres import fresh_databases
from mdm_testing.process import eventually, free_port
from mdm_testing.server import WorkersProcess, channel, configuration, serve_by_workers

from services.keystore.tests.ring import PlainPool
from services.keystore.tests.test_main import create
from services.keystore.tests.trail import assert_whole, read_chain

pytestmark = pytest.mark.integration
INDEXES = (1, 2, 3)
CREATORS, EACH = 4, 10


class Keystores:
    """The running keystores."""

    def __init__(self, served: dict[int, WorkersProcess], pki) -> None:
        self.served = served
        self.alice, self.operator = pki.issue(pki.subject("alice")), pki.issue(pki.subject("operator"))

    def create(self) -> tuple[UUID, bytes]:
        """Create a key everywhere, on connections of its own; return its GUID and scalar."""
        shares = shamir.split(None, 2, 3, uuid4())
        for share in shares:
            with channel(self.served[share.x].address, self.alice) as opened:
                create(opened, share)
        return shares[0].guid, shamir.combine(shares)

    def read(self, guid: UUID) -> set[bytes]:
        """Return the scalars that the shares given out by all keystores combine to: one, whatever is under way."""
        groups: dict[tuple[int, tuple[bytes, ...]], list[shamir.Share]] = {}
        for served in self.served.values():
            with channel(served.address, self.alice) as opened:
                stub = keystore_pb2_grpc.KeystoreServiceStub(opened)
                answer = stub.GetShares(keystore_pb2.GetSharesRequest(guids=[str(guid)]), timeout=30).results[0]
            for given in (answer.share, answer.previous) if answer.HasField("previous") else (answer.share,):
                points = tuple(given.commitments)
                share = shamir.Share(guid, given.epoch, given.x, given.value, points, given.threshold, given.total, given.share_version)
                groups.setdefault((given.share_version, points), []).append(share)
        return {shamir.combine(group) for group in groups.values() if len(group) >= 2}

    def refresh(self) -> admin_pb2.Resharing:
        """Have all keys given new shares; return the job when it has ended."""
        with channel(self.served[1].address, self.operator) as opened:
            stub = admin_pb2_grpc.KeystoreAdminServiceStub(opened)
            request = admin_pb2.BeginResharingRequest(id=str(uuid4()), kind=admin_pb2.RESHARING_KIND_REFRESH)
            job = stub.BeginResharing(request, timeout=30).resharing

            def ended() -> admin_pb2.Resharing | None:
                found = stub.GetResharing(admin_pb2.GetResharingRequest(id=job.id), timeout=30).resharing
                return None if found.state == admin_pb2.RESHARING_STATE_RUNNING else found

            return eventually(ended)


@pytest.fixture
def keystores(tmp_path, postgres, pki):
    ports = {index: free_port() for index in INDEXES}
    peers = {x: {"index": x, "address": f"127.0.0.1:{ports[x]}", "subject": pki.subject(f"keystore-{x}")} for x in INDEXES}
    roles = {"operator": [pki.subject("operator")], "peer.keystore": [peer["subject"] for peer in peers.values()]}
    with ExitStack() as stack:
        conninfos = dict(zip(INDEXES, stack.enter_context(fresh_databases(postgres, "keystore", 3)), strict=True))
        served = {}
        for index in INDEXES:
            config = tmp_path / f"keystore-{index}.toml"
            (tmp_path / f"kek-{index}").write_text(f"{index}a" * 32)
            section = {
                "name": str(index),
                "index": index,
                "kek_file": f"kek-{index}",
                "purge_interval_seconds": 1,
                "witness_interval_seconds": 0.5,
                "peers": [peers[x] for x in INDEXES if x != index],
            }
            sections = {"keystore": section, "roles": roles, "database": {"pool_max": 6}}
            config.write_text(to_toml(configuration(pki, f"keystore-{index}", conninfos[index], port=ports[index], **sections)))
            served[index] = stack.enter_context(serve_by_workers([sys.executable, "-m", "mdm_keystore"], config, 2, migrate=True))
        yield Keystores(served, pki), conninfos


def audit(conninfo: str) -> list:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        return list(read_chain(PlainPool(connection, conninfo)))


class SlowWitness:
    """A keystore that is shown a head, and answers on request."""

    def __init__(self) -> None:
        self.shown: list[SignedHead] = []
        self.asked, self.answer = threading.Event(), threading.Event()

    def witness(self, head: SignedHead) -> WitnessedHead:
        self.shown.append(head)
        self.asked.set()
        assert self.answer.wait(20)
        return HeadSigner(bytes(32), 2).countersign(head)


def test_heads_are_shown_by_one_process_at_a_time_lest_an_earlier_one_comes_last(real_keys):
    witness, sealer = SlowWitness(), Sealer([bytes(32)])
    slow, other = (AuditTrail(PostgresTrail(real_keys._pool, 1), sealer, index=1, witnesses={2: witness}) for _ in range(2))
    showing = threading.Thread(target=slow.show_head)
    showing.start()
    try:
        assert witness.asked.wait(20)
        with real_keys.change() as change:
            change.audit([AuditEntry(datetime.now(UTC), "CN=x", "create", uuid4(), "OK")])
        other.show_head()
        assert len(witness.shown) == 1
    finally:
        witness.answer.set()
        showing.join()
    other.show_head()
    first, second = witness.shown
    assert first.seq < second.seq


@pytest.mark.timeout(240)
def test_keys_are_made_and_read_while_all_get_new_shares(keystores):
    ring, conninfos = keystores
    first = dict(ring.create() for _ in range(5))
    wrong: list[UUID] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            wrong.extend(guid for guid, scalar in first.items() if ring.read(guid) != {scalar})

    def make(_: int) -> dict[UUID, bytes]:
        return dict(ring.create() for _ in range(EACH))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with ThreadPoolExecutor(CREATORS) as pool:
            making = pool.map(make, range(CREATORS))
            jobs = [ring.refresh() for _ in range(3)]
            made = {guid: scalar for part in making for guid, scalar in part.items()}
    finally:
        done.set()
        reader.join()
    assert not wrong
    assert [job.state for job in jobs] == [admin_pb2.RESHARING_STATE_DONE] * 3
    assert all(job.keys_done >= 5 for job in jobs), jobs
    last = ring.refresh()
    assert (last.keys_done, last.keys_failed) == (5 + CREATORS * EACH, 0)
    assert all(ring.read(guid) == {scalar} for guid, scalar in (first | made).items())
    for index, conninfo in conninfos.items():
        chain = audit(conninfo)
        assert_whole(chain)
        assert not [entry for entry in chain if entry.entry.outcome == "HEAD_CONTRADICTS"]
        with psycopg.connect(conninfo) as connection:
            assert connection.execute("SELECT count(DISTINCT share_index) FROM witnessed_head").fetchone() == (2,), index
            assert connection.execute("SELECT count(*) FROM share_part").fetchone() == (0,)
