"""Three real keystores: killed while keys get new shares, hung, their seal replaced while serving, their audit falsified."""

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID, uuid4

import pytest
from mdm.keystore.v1 import admin_pb2, keystore_pb2, peer_pb2, peer_pb2_grpc
from mdm_client.keystore.audit import verify_audit
from mdm_client.keystore.client import KeystoreClient
from mdm_client.keystore.operator import KeystoreOperator
from mdm_testing.keystore import NAMES, KeystoreProcesses
from mdm_testing.process import eventually
from mdm_wire.errors import MdmError, Unavailable

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
DONE = admin_pb2.RESHARING_STATE_DONE


@contextmanager
def reading(client: KeystoreClient, keys: dict[UUID, bytes]) -> Iterator[list[object]]:
    """Read all keys repeatedly until the block ends; yield the wrong answers."""
    wrong: list[object] = []
    stop = threading.Event()
    rounds = [0]

    def work() -> None:
        while not stop.is_set():
            answers = client.get_keys(list(keys))
            wrong.extend(answer for guid, answer in answers.items() if answer != keys[guid])
            rounds[0] += 1
            time.sleep(0.05)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield wrong
    finally:
        stop.set()
        thread.join()
    assert rounds[0], "nothing was read meanwhile"


def finished(operator: KeystoreOperator, driver: str, job_id: UUID) -> admin_pb2.Resharing:
    """Wait until a job has ended, whatever happens to its driver."""
    found: list[admin_pb2.Resharing] = []

    def ended() -> bool:
        try:
            job = operator.resharing(driver, job_id)
        except MdmError:
            return False
        found[:] = [job]
        return bool(job.state == DONE)

    eventually(ended, 120)
    return found[0]


def intact(operator: KeystoreOperator, name: str) -> bool:
    """Return whether a keystore's audit is proven, up to its last entry by both others."""
    (report,) = verify_audit(operator, [name])
    return report.intact and len(report.witnessed) == 2 and min(report.witnessed.values()) == report.entries


WITHOUT_TRIGGER = ("ALTER TABLE audit_entry DISABLE TRIGGER USER", "ALTER TABLE audit_entry ENABLE TRIGGER USER")
CHAIN = ("audit_entry", "audit_head", "audit_identity")
FALSIFICATIONS = {
    "an edited entry": ("broken", "UPDATE audit_entry SET who = 'CN=nobody' WHERE seq = 3"),
    "a deletion in the middle": ("broken", "DELETE FROM audit_entry WHERE seq = 3"),
    "a cut tail": ("cut", "DELETE FROM audit_entry WHERE seq > (SELECT max(seq) - 2 FROM audit_entry)"),
    "a cut tail with its head": (
        "cut",
        "DELETE FROM audit_entry WHERE seq > (SELECT max(seq) - 2 FROM audit_entry)",
        "UPDATE audit_head SET (seq, hash) = (SELECT seq, hash FROM audit_entry ORDER BY seq DESC LIMIT 1)",
    ),
}


@pytest.mark.parametrize("falsification", FALSIFICATIONS)
def test_a_falsified_audit_is_found(keystores: KeystoreProcesses, falsification):
    client, operator = keystores.client(), keystores.operator()
    keystores.create(client, 3)
    eventually(lambda: intact(operator, "a"))
    keystores.sql("a", "CREATE SCHEMA saved", *(f"CREATE TABLE saved.{table} AS TABLE {table}" for table in CHAIN))
    kind, *statements = FALSIFICATIONS[falsification]
    disable, enable = WITHOUT_TRIGGER
    keystores.sql("a", disable, *statements, enable)
    (report,) = verify_audit(operator, ["a"])
    assert kind in {finding.kind for finding in report.findings}, report
    restored = [step for table in CHAIN for step in (f"DELETE FROM {table}", f"INSERT INTO {table} SELECT * FROM saved.{table}")]
    keystores.sql("a", disable, *restored, enable, "DROP SCHEMA saved CASCADE")
    eventually(lambda: intact(operator, "a"))


def test_a_new_chain_is_distinguished_from_the_one_before(keystores: KeystoreProcesses):
    keystores.create(keystores.client(), 1)
    operator = keystores.operator()
    eventually(lambda: intact(operator, "b"))
    keystores.sql("b", "UPDATE audit_identity SET chain_id = gen_random_uuid(), sealed = NULL, kek_id = NULL")
    assert "replaced" in {finding.kind for finding in verify_audit(operator, ["b"])[0].findings}


@pytest.mark.parametrize("kind", ["refresh", "repair"])
def test_keys_get_new_shares_while_each_keystore_in_turn_is_killed_and_readers_notice_nothing(keystores: KeystoreProcesses, kind):
    client, operator = keystores.client(hedge_delay=0.2), keystores.operator()
    keys = keystores.create(client, 600)
    if kind == "repair":
        keystores.sql("c", "TRUNCATE acl CASCADE")
    some = {guid: keys[guid] for guid in list(keys)[::15]}
    one, job_id, dice = list(keys)[:1], uuid4(), random.Random(7)
    reader = keystores.client(hedge_delay=0.2)
    with reading(reader, some) as wrong:
        begin = operator.refresh if kind == "refresh" else lambda *terms: operator.repair(["c"], *terms)
        assert begin("a", job_id).id == str(job_id)
        for name in ("a", "b", "c", "a"):
            time.sleep(dice.uniform(0.0, 0.4))
            keystores.kill(name)
            keystores.start(name)
            eventually(
                lambda: not any(isinstance(key, Unavailable) for held in reader.key_attributes(one).values() for key in held.values())
            )
        job = finished(operator, "a", job_id)
    assert (job.keys_done, job.keys_failed) == (600, 0), job.failures
    # While the third one is rebuilt, a reader needs both others: it may have to wait, and is never given a wrong key.
    assert [answer for answer in wrong if kind == "refresh" or not isinstance(answer, MdmError)] == []
    assert client.get_keys(list(keys)) == keys
    for name in NAMES:
        assert keystores.sql(name, "SELECT count(*), count(DISTINCT version) FROM key_share") == [(600, 1)]
        assert keystores.sql(name, "SELECT (SELECT count(*) FROM share_previous), (SELECT count(*) FROM share_prepared)") == [(0, 0)]
    for dead in NAMES:
        keystores.freeze(dead)
        assert keystores.client(hedge_delay=0.2).get_keys(list(some)) == some, f"without {dead}"
        keystores.thaw(dead)


def test_a_refresh_waits_for_a_hung_keystore_and_readers_do_not(keystores: KeystoreProcesses):
    client, operator = keystores.client(), keystores.operator()
    keys = keystores.create(client, 20)
    keystores.freeze("c")
    job = operator.refresh("a")
    time.sleep(1.5)
    assert operator.resharing("a").state == admin_pb2.RESHARING_STATE_RUNNING
    assert keystores.client(hedge_delay=0.2).get_keys(list(keys)) == keys
    keystores.thaw("c")
    assert finished(operator, "a", UUID(job.id)).keys_done == 20
    assert client.get_keys(list(keys)) == keys


def test_keys_are_split_anew_and_a_client_that_expects_fewer_still_reads_them(keystores: KeystoreProcesses):
    client, operator = keystores.client(), keystores.operator()
    keys = keystores.create(client, 3)
    finished(operator, "b", UUID(operator.reshare(3, 3, "b").id))
    assert keystores.client().get_keys(list(keys)) == keys
    keystores.kill("c")
    answers = keystores.client(timeout=3).get_keys(list(keys))
    assert all(isinstance(answer, MdmError) and "3 keystores are needed" in answer.message for answer in answers.values()), answers
    keystores.start("c")
    finished(operator, "c", UUID(operator.reshare(2, 3, "c").id))
    assert keystores.client().get_keys(list(keys)) == keys


def test_a_key_encryption_key_is_replaced_while_readers_are_served(keystores: KeystoreProcesses):
    client, operator = keystores.client(), keystores.operator()
    keys = keystores.create(client, 1100)
    kek = keystores.kek("a")
    old = kek.read_text()
    with reading(keystores.client(), dict(list(keys.items())[:20])) as wrong:
        kek.write_text(f"{os.urandom(32).hex()}\n{old}\n")
        done = list(operator.rewrap("a"))
        assert ([batch.rewrapped for batch in done], done[-1].remaining, done[-1].unreadable) == ([1000, 100], 0, 0)
        kek.write_text(kek.read_text().splitlines()[0])
    assert wrong == []
    assert keystores.sql("a", "SELECT count(DISTINCT kek_id) FROM key_share") == [(1,)]
    keystores.kill("a")
    keystores.start("a")
    keystores.freeze("b")
    assert keystores.client(hedge_delay=0.2).get_keys(list(keys)) == keys
    keystores.thaw("b")
    assert verify_audit(operator, ["a"])[0].intact, "the key that signs the audit was sealed anew too"


def test_shares_whose_key_encryption_key_is_lost_are_counted_and_repaired(keystores: KeystoreProcesses):
    client, operator = keystores.client(), keystores.operator()
    keys = keystores.create(client, 5)
    keystores.sql("b", "UPDATE key_share SET kek_id = 'gone'")
    (done,) = operator.rewrap("b")
    assert (done.rewrapped, done.remaining, done.unreadable) == (0, 0, 5)
    assert finished(operator, "a", UUID(operator.repair(["b"]).id)).keys_done == 5
    assert list(operator.rewrap("b"))[-1].unreadable == 0
    assert client.get_keys(list(keys)) == keys


def test_a_witness_refuses_a_chain_that_contradicts_what_it_saw(keystores: KeystoreProcesses):
    client, operator = keystores.client(), keystores.operator()
    keys = keystores.create(client, 2)
    eventually(lambda: intact(operator, "c"))
    before = keystores.sql("b", "SELECT max(seq) FROM witnessed_head WHERE share_index = 3")
    disable, enable = WITHOUT_TRIGGER
    keystores.sql(
        "c",
        disable,
        "DELETE FROM audit_entry WHERE seq > (SELECT max(seq) - 4 FROM audit_entry)",
        "UPDATE audit_head SET (seq, hash) = (SELECT seq, hash FROM audit_entry ORDER BY seq DESC LIMIT 1)",
        enable,
    )
    keystores.kill("c")
    keystores.start("c")
    refused = "SELECT count(*) > 0 FROM audit_entry WHERE action = 'witness' AND outcome = 'HEAD_CONTRADICTS'"
    eventually(lambda: keystores.sql("b", refused) == [(True,)])
    assert keystores.sql("b", "SELECT max(seq) FROM witnessed_head WHERE share_index = 3") == before
    assert client.get_keys(list(keys)) == keys
    assert not verify_audit(operator, ["c"])[0].intact


def test_peers_methods_are_for_peers(keystores: KeystoreProcesses):
    server = keystores.servers("operator")[0]
    with pytest.raises(Exception, match="Your role may not call this method"):
        peer_pb2_grpc.KeystorePeerServiceStub(server.channel).ListHeldKeys(peer_pb2.ListHeldKeysRequest(), timeout=10)
    assert server.keys.GetServerInfo(keystore_pb2.GetServerInfoRequest(), timeout=10).share_index == 1
