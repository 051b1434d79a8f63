"""Keys created on three real keystores and read from any two, with one of them down, hung, lying, late or half-made."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import grpc
import psycopg
import pytest
from mdm.acl.v1 import acl_pb2
from mdm.keystore.v1 import keystore_pb2
from mdm_client.channel import TlsFiles, open_channel
from mdm_client.errors import ClientError, Conflict, Corrupt, Invalid, NotFound, Unavailable
from mdm_client.keystore import KeystoreClient, KeystoreServer
from mdm_client.keystore_shares import from_message, resolve, to_message
from mdm_crypto import shamir
from mdm_keystore.seal import Sealer
from mdm_keystore.servicer import KeystoreServicer
from mdm_keystore.testing import RunningKeystore, serve_keystore
from mdm_service.policy import OPERATOR

READ = 4


class Mischief:
    """What one keystore does wrong at present."""

    def __init__(self) -> None:
        self.hung = threading.Event()
        self.released = threading.Event()
        self.alter: Callable[[keystore_pb2.GetSharesResponse], None] | None = None
        self.fail: dict[str, grpc.StatusCode] = {}

    def end(self) -> None:
        self.released.set()
        self.hung, self.released = threading.Event(), threading.Event()
        self.alter = None
        self.fail = {}


class MischievousServicer(KeystoreServicer):
    """A keystore that hangs, lies or fails when told to."""

    def __init__(self, service: Any, mischief: Mischief) -> None:
        super().__init__(service)
        self._mischief = mischief

    def _before(self, method: str, context: grpc.ServicerContext) -> None:
        if self._mischief.hung.is_set():
            self._mischief.released.wait(20)
        if method in self._mischief.fail:
            context.abort(self._mischief.fail[method], "down")

    def CreateKeys(self, request, context):
        self._before("CreateKeys", context)
        return super().CreateKeys(request, context)

    def ConfirmKeys(self, request, context):
        self._before("ConfirmKeys", context)
        return super().ConfirmKeys(request, context)

    def GetShares(self, request, context):
        self._before("GetShares", context)
        response = super().GetShares(request, context)
        if self._mischief.alter:
            self._mischief.alter(response)
        return response


class Cluster:
    """Three keystores with three databases and three key-encryption keys, and clients of them."""

    def __init__(self, pki: Any, conninfos: list[str]) -> None:
        self.pki = pki
        self.mischief = [Mischief() for _ in conninfos]
        self.channels: list[grpc.Channel] = []
        self._conninfos = conninfos
        self._identity = pki.issue(pki.subject("keystore"))
        self._sealers = [Sealer([os.urandom(32)]) for _ in conninfos]
        self._stacks = [ExitStack() for _ in conninfos]
        self.keystores = [self._started(position) for position in range(3)]

    def _started(self, position: int) -> RunningKeystore:
        mischief = self.mischief[position]
        served = serve_keystore(
            self._conninfos[position],
            self._identity,
            position + 1,
            namespace=self.pki.namespace,
            sealer=self._sealers[position],
            roles={OPERATOR: (self.pki.subject("operator"),)},
            servicer=lambda service: MischievousServicer(service, mischief),
        )
        return self._stacks[position].enter_context(served)

    def stop(self, position: int) -> None:
        self._stacks[position].close()
        self._stacks[position] = ExitStack()
        self.keystores[position] = replace(self.keystores[position], running=False)

    def start(self, position: int) -> None:
        self.keystores[position] = self._started(position)

    def tidy(self) -> None:
        """Close channels, end all mischief, run what was stopped, forget all keys."""
        for channel in self.channels:
            channel.close()
        self.channels.clear()
        for position, mischief in enumerate(self.mischief):
            mischief.end()
            if not self.keystores[position].running:
                self.start(position)
            self.sql(position, "DELETE FROM key_share")

    def close(self) -> None:
        for stack in self._stacks:
            stack.close()

    def client(self, name: str = "srm", indexes: tuple[int, ...] = (1, 2, 3), **options: Any) -> KeystoreClient:
        issued = self.pki.issue(self.pki.subject(name))
        tls = TlsFiles(issued.certificate, issued.key, issued.ca)
        servers = []
        for letter, index, keystore in zip("abc", indexes, self.keystores, strict=True):
            channel = open_channel([keystore.address], tls)
            self.channels.append(channel)
            servers.append(KeystoreServer(letter, index, channel))
        return KeystoreClient(servers, 2, **options)

    def acl(self, client: KeystoreClient, *entries: tuple[str, int]) -> UUID:
        acl_id = uuid4()
        listed = [acl_pb2.AclEntry(principal=principal, permissions=bits) for principal, bits in entries]
        outcomes = client.create_acls([acl_pb2.Acl(id=str(acl_id), entries=listed)])
        assert outcomes == {letter: {acl_id: None} for letter in "abc"}
        return acl_id

    def sql(self, position: int, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.keystores[position].conninfo, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def states(self, guid: UUID) -> list[int | None]:
        found = [self.sql(i, "SELECT state FROM key_share WHERE guid = %s", guid) for i in range(3)]
        return [rows[0][0] if rows else None for rows in found]


@pytest.fixture(scope="module")
def whole_cluster(postgres, pki) -> Iterator[Cluster]:
    names = [f"keystore_{uuid4().hex[:12]}" for _ in range(3)]
    made = Cluster(pki, [postgres.create_database(name) for name in names])
    yield made
    made.close()
    for name in names:
        postgres.drop_database(name)


@pytest.fixture
def cluster(whole_cluster, monkeypatch) -> Iterator[Cluster]:
    """The cluster as new; every client asks a and b first."""
    monkeypatch.setattr("mdm_client.keystore_reading.random.shuffle", lambda servers: None)
    yield whole_cluster
    whole_cluster.tidy()


def guids(count: int) -> list[UUID]:
    return [uuid4() for _ in range(count)]


def all_created(outcomes: dict[UUID, ClientError | None]) -> bool:
    return set(outcomes.values()) == {None}


def only_keys(results: dict[UUID, bytes | ClientError]) -> dict[UUID, bytes]:
    assert all(isinstance(key, bytes) and len(key) == 32 for key in results.values()), results
    return results  # type: ignore[return-value]


@pytest.mark.integration
def test_keys_created_on_all_keystores_are_read_back_alike_and_differ_from_each_other(cluster):
    client = cluster.client()
    wanted = guids(5)
    assert all_created(client.create_keys(wanted, cluster.acl(client)))
    keys = only_keys(client.get_keys(wanted))
    assert list(keys) == wanted
    assert len(set(keys.values())) == 5
    assert only_keys(cluster.client().get_keys(wanted)) == keys
    assert client.check_servers() == {"a": None, "b": None, "c": None}


@pytest.mark.integration
def test_creating_again_succeeds_and_leaves_the_key_as_it_is(cluster):
    client = cluster.client()
    wanted, acl_id = guids(3), cluster.acl(client)
    assert all_created(client.create_keys(wanted[:2], acl_id))
    before = only_keys(client.get_keys(wanted[:2]))
    assert all_created(client.create_keys(wanted, acl_id))
    after = only_keys(client.get_keys(wanted))
    assert {guid: after[guid] for guid in before} == before


@pytest.mark.integration
@pytest.mark.parametrize("position", [0, 1, 2])
def test_one_keystore_down_never_stops_a_reader_but_stops_creation(cluster, position):
    client = cluster.client(timeout=4)
    wanted, acl_id = guids(2), cluster.acl(client)
    assert all_created(client.create_keys(wanted, acl_id))
    keys = only_keys(client.get_keys(wanted))
    cluster.stop(position)
    assert only_keys(client.get_keys(wanted)) == keys
    assert only_keys(cluster.client().get_keys(wanted)) == keys
    new = guids(1)[0]
    error = client.create_keys([new], acl_id)[new]
    assert isinstance(error, Unavailable)
    assert f"keystore {'abc'[position]}" in error.message
    assert isinstance(client.get_keys([new])[new], NotFound | Unavailable)


@pytest.mark.integration
@pytest.mark.parametrize("position", [0, 2])
def test_a_hung_keystore_costs_a_reader_the_hedging_delay_once(cluster, position, caplog):
    client = cluster.client(hedge_delay=0.3)
    wanted = guids(2)
    assert all_created(client.create_keys(wanted, cluster.acl(client)))
    keys = only_keys(client.get_keys(wanted))
    cluster.mischief[position].hung.set()
    fresh = cluster.client(hedge_delay=0.3)
    started = time.monotonic()
    with caplog.at_level(logging.INFO):
        assert only_keys(fresh.get_keys(wanted)) == keys
        assert only_keys(client.get_keys(wanted)) == keys
    assert time.monotonic() - started < 2.0
    started = time.monotonic()
    assert only_keys(fresh.get_keys(wanted)) == keys
    assert time.monotonic() - started < 0.3
    if position == 0:
        assert "keystore a is slow" in caplog.text


@pytest.mark.integration
def test_two_keystores_down_are_told_by_name_and_nothing_is_given(cluster):
    client = cluster.client(timeout=3)
    wanted = guids(1)
    assert all_created(client.create_keys(wanted, cluster.acl(client)))
    cluster.stop(1)
    cluster.stop(2)
    error = client.get_keys(wanted)[wanted[0]]
    assert isinstance(error, Unavailable)
    assert "keystore b" in error.message
    assert "keystore c" in error.message


def flip(response: keystore_pb2.GetSharesResponse) -> None:
    """Give a wrong value under the true commitments."""
    for result in response.results:
        value = int.from_bytes(result.share.value, "little")
        result.share.value = ((value + 1) % shamir.ORDER).to_bytes(32, "little")


def forge(response: keystore_pb2.GetSharesResponse) -> None:
    """Give a share of another key that is true to its own commitments."""
    for result in response.results:
        share = from_message(result.share)
        forged = shamir.split(None, 2, 3, share.guid, share.epoch)[share.x - 1]
        result.share.CopyFrom(to_message(forged))


def weaken(response: keystore_pb2.GetSharesResponse) -> None:
    for result in response.results:
        result.share.threshold = 1


def mistake(response: keystore_pb2.GetSharesResponse) -> None:
    for result in response.results:
        result.share.x = result.share.x % 3 + 1


def garble(response: keystore_pb2.GetSharesResponse) -> None:
    for result in response.results:
        result.share.guid = "not a guid"
        result.share.value = b"short"
        del result.share.commitments[:]


def deny(response: keystore_pb2.GetSharesResponse) -> None:
    for result in response.results:
        result.ClearField("share")
        result.status.code = grpc.StatusCode.NOT_FOUND.value[0]


def shorten(response: keystore_pb2.GetSharesResponse) -> None:
    del response.results[1:]


@pytest.mark.integration
@pytest.mark.parametrize("lie", [flip, forge, weaken, mistake, garble, deny, shorten])
def test_a_lying_keystore_is_outvoted_and_named(cluster, lie, caplog):
    client = cluster.client()
    wanted = guids(3)
    assert all_created(client.create_keys(wanted, cluster.acl(client)))
    keys = only_keys(client.get_keys(wanted))
    cluster.mischief[0].alter = lie
    with caplog.at_level(logging.WARNING):
        fresh = cluster.client()  # asks a and b first
        assert only_keys(fresh.get_keys(wanted)) == keys
        assert only_keys(fresh.get_keys(wanted)) == keys
    if lie not in (deny, shorten):
        assert caplog.text.count("keystore a gave") == 1
        assert "keystore b" not in caplog.text


@pytest.mark.integration
def test_two_lying_keystores_give_no_key(cluster):
    client = cluster.client()
    wanted = guids(1)
    assert all_created(client.create_keys(wanted, cluster.acl(client)))
    cluster.mischief[0].alter = forge
    cluster.mischief[1].alter = forge
    error = client.get_keys(wanted)[wanted[0]]
    assert isinstance(error, Corrupt)
    assert error.reason == "KEY_SHARES_DISAGREE"


@pytest.mark.integration
def test_only_those_whom_the_acl_names_read_and_a_grant_and_a_revocation_work_everywhere(cluster):
    srm, alice, mallory = cluster.client(), cluster.client("alice"), cluster.client("mallory")
    wanted = guids(2)
    acl_id = cluster.acl(srm)
    assert all_created(srm.create_keys(wanted, acl_id))
    unknown = uuid4()
    refused = mallory.get_keys([*wanted, unknown])
    assert {(type(error), error.reason, error.message) for error in refused.values()} == {
        (NotFound, "KEY_NOT_FOUND", "no such key, or you may not use it")
    }
    entry = acl_pb2.AclEntry(principal=f"dn:{cluster.pki.subject('alice')}", permissions=READ)
    grant = acl_pb2.AclChange(action=acl_pb2.AclChange.ACTION_GRANT, entry=entry)
    assert srm.modify_acls([acl_id], [grant]) == {letter: {acl_id: None} for letter in "abc"}
    assert only_keys(alice.get_keys(wanted)) == only_keys(srm.get_keys(wanted))
    assert all(isinstance(error, NotFound) for error in alice.modify_acls([acl_id], [grant])["a"].values())
    assert all(error is not None for error in alice.delete_keys(wanted).values())
    revoke = acl_pb2.AclChange(action=acl_pb2.AclChange.ACTION_REVOKE, entry=entry)
    srm.modify_acls([acl_id], [revoke])
    assert all(isinstance(error, NotFound) for error in alice.get_keys(wanted).values())
    private = cluster.acl(srm)
    assert srm.assign_acls(wanted, private) == {letter: dict.fromkeys(wanted) for letter in "abc"}
    shown = srm.get_acls([private, acl_id])["b"]
    assert [acl.owner for acl in shown.values()] == [cluster.pki.subject("srm")] * 2


@pytest.mark.integration
def test_an_operator_deletes_but_never_reads(cluster):
    srm, operator = cluster.client(), cluster.client("operator")
    wanted = guids(1)
    assert all_created(srm.create_keys(wanted, cluster.acl(srm, ("authenticated", READ))))
    error = operator.get_keys(wanted)[wanted[0]]
    assert isinstance(error, ClientError)
    assert error.code is grpc.StatusCode.PERMISSION_DENIED
    assert operator.delete_keys(wanted) == {wanted[0]: None}


@pytest.mark.integration
def test_a_deleted_key_is_gone_everywhere_and_deleting_it_again_says_so(cluster):
    client = cluster.client()
    wanted = guids(2)
    assert all_created(client.create_keys(wanted, cluster.acl(client)))
    assert client.delete_keys(wanted) == dict.fromkeys(wanted)
    assert [cluster.states(guid) for guid in wanted] == [[None] * 3] * 2
    assert all(isinstance(error, NotFound) for error in client.delete_keys(wanted).values())
    assert all(isinstance(error, NotFound) for error in client.get_keys(wanted).values())


@pytest.mark.integration
def test_a_deletion_with_a_keystore_down_fails_and_is_completed_by_repeating_it(cluster):
    client = cluster.client(timeout=3)
    wanted = guids(1)
    assert all_created(client.create_keys(wanted, cluster.acl(client)))
    cluster.stop(2)
    assert isinstance(client.delete_keys(wanted)[wanted[0]], Unavailable)
    cluster.start(2)
    assert cluster.client().delete_keys(wanted) == {wanted[0]: None}
    assert cluster.states(wanted[0]) == [None] * 3


@pytest.mark.integration
def test_a_key_of_somebody_else_is_a_conflict_and_is_not_harmed(cluster):
    srm, mallory = cluster.client(), cluster.client("mallory")
    wanted = guids(1)
    assert all_created(srm.create_keys(wanted, cluster.acl(srm)))
    keys = only_keys(srm.get_keys(wanted))
    error = mallory.create_keys(wanted, cluster.acl(mallory))[wanted[0]]
    assert isinstance(error, Conflict)
    assert only_keys(srm.get_keys(wanted)) == keys


@pytest.mark.integration
def test_a_readable_key_that_somebody_else_made_first_is_never_taken_for_ones_own(cluster):
    srm, mallory = cluster.client(), cluster.client("mallory")
    wanted = guids(1)
    assert all_created(mallory.create_keys(wanted, cluster.acl(mallory, ("authenticated", 255))))
    error = srm.create_keys(wanted, cluster.acl(srm))[wanted[0]]
    assert isinstance(error, Conflict) and error.reason == "KEY_GUARDED_OTHERWISE"


@pytest.mark.integration
def test_an_acl_that_is_not_there_or_not_writable_refuses_creation(cluster):
    srm, alice = cluster.client(), cluster.client("alice")
    wanted = guids(1)
    readable = cluster.acl(srm, ("authenticated", READ))
    for client, acl_id in ((srm, uuid4()), (alice, readable)):
        error = client.create_keys(wanted, acl_id)[wanted[0]]
        assert isinstance(error, NotFound)
        assert error.reason == "ACL_NOT_FOUND"
    assert cluster.states(wanted[0]) == [None] * 3


# What a creator that was killed leaves behind: per keystore None (nothing), 1 (pending), 2 (confirmed).
REMAINS = [
    (1, None, None),
    (1, 1, None),
    (1, 1, 1),
    (2, 1, 1),
    (2, 2, 1),
    (2, 1, 2),
    (2, None, None),
    (2, 2, None),
    (2, None, 2),
    (1, 2, 2),
    (None, 2, 2),
    (None, None, 2),
]


@pytest.mark.integration
@pytest.mark.parametrize("remains", REMAINS)
def test_creation_is_completed_after_a_crash_at_any_step(cluster, remains):
    client = cluster.client()
    guid, acl_id = uuid4(), cluster.acl(client)
    assert all_created(client.create_keys([guid], acl_id))
    before = only_keys(client.get_keys([guid]))
    for position, state in enumerate(remains):
        if state is None:
            cluster.sql(position, "DELETE FROM key_share WHERE guid = %s", guid)
        elif state == 1:
            expiry = "UPDATE key_share SET state = 1, expire_time = now() + interval '1 minute' WHERE guid = %s"
            cluster.sql(position, expiry, guid)
    readable = sum(state == 2 for state in remains) >= 2
    found = cluster.client().get_keys([guid])
    assert found == before if readable else isinstance(found[guid], NotFound)
    again = cluster.client()
    assert all_created(again.create_keys([guid], acl_id))
    assert cluster.states(guid) == [2, 2, 2]
    after = only_keys(again.get_keys([guid]))
    if readable:
        assert after == before
    for position in range(3):
        cluster.mischief[position].fail = {"GetShares": grpc.StatusCode.UNAVAILABLE}
        assert only_keys(cluster.client().get_keys([guid])) == after
        cluster.mischief[position].fail = {}


@pytest.mark.integration
@pytest.mark.parametrize("method", ["CreateKeys", "ConfirmKeys"])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_creation_that_a_failing_keystore_interrupts_succeeds_when_repeated(cluster, method, position):
    client = cluster.client()
    wanted, acl_id = guids(2), cluster.acl(client)
    cluster.mischief[position].fail = {method: grpc.StatusCode.UNAVAILABLE}
    outcomes = client.create_keys(wanted, acl_id)
    assert all(isinstance(error, Unavailable) for error in outcomes.values())
    cluster.mischief[position].fail = {}
    assert all_created(client.create_keys(wanted, acl_id))
    only_keys(client.get_keys(wanted))


@pytest.mark.integration
def test_creators_that_race_for_the_same_keys_all_end_with_one_and_the_same_key(cluster):
    setup = cluster.client()
    wanted, acl_id = guids(20), cluster.acl(setup)
    clients = [cluster.client() for _ in range(4)]
    outcomes: list[dict[UUID, ClientError | None]] = []
    threads = [threading.Thread(target=lambda client=client: outcomes.append(client.create_keys(wanted, acl_id))) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 4
    assert all(all_created(outcome) for outcome in outcomes), outcomes
    keys = only_keys(setup.get_keys(wanted))
    for position in range(3):
        cluster.mischief[position].fail = {"GetShares": grpc.StatusCode.UNAVAILABLE}
        assert only_keys(cluster.client().get_keys(wanted)) == keys
        cluster.mischief[position].fail = {}


@pytest.mark.integration
def test_more_than_a_batch_of_keys_is_created_and_read(cluster):
    client = cluster.client()
    wanted = guids(1001)
    assert all_created(client.create_keys(wanted, cluster.acl(client)))
    assert len(only_keys(client.get_keys(wanted))) == 1001


@pytest.mark.integration
def test_a_keystore_under_the_wrong_index_is_noticed(cluster):
    client = cluster.client()
    wanted, acl_id = guids(1), cluster.acl(client)
    swapped = cluster.client(indexes=(2, 1, 3))
    error = swapped.create_keys(wanted, acl_id)[wanted[0]]
    assert isinstance(error, Invalid)
    assert error.reason == "SHARE_INDEX_WRONG"
    assert isinstance(swapped.check_servers()["a"], Invalid)


@pytest.mark.parametrize(("indexes", "threshold"), [((1, 2, 4), 2), ((1, 1, 2), 2), ((1, 2), 3), ((1, 2, 3), 1), ((), 2)])
def test_a_configuration_that_cannot_work_is_refused(indexes, threshold):
    servers = [KeystoreServer(str(position), index, SimpleNamespace()) for position, index in enumerate(indexes)]
    with pytest.raises(Invalid):
        KeystoreClient(servers, threshold)


def test_resolution_prefers_the_group_that_reaches_the_threshold_and_names_the_rest():
    guid = uuid4()
    true, other = shamir.split(None, 2, 4, guid), shamir.split(None, 2, 4, guid)
    shares = {1: other[0], 2: true[1], 3: true[2], 4: replace(true[3], threshold=1)}
    resolution = resolve(guid, {x: [share] for x, share in shares.items()}, 2)
    assert resolution.scalar == shamir.combine(true[:2])
    assert set(resolution.faults) == {1, 4}
    assert resolve(guid, {1: [other[0]], 2: [true[1]]}, 2).best == 1
