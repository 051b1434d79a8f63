"""Keys read from any two of three real keystores, with one of them down, hung or lying; who may read them; how they are deleted."""

import logging
import time
from dataclasses import replace
from types import SimpleNamespace
from uuid import uuid4

import grpc
import pytest
from mdm.keystore.v1 import keystore_pb2
from mdm_client.acl import grant, revoke
from mdm_client.keystore.client import KeystoreClient, KeystoreServer
from mdm_client.keystore.reading import from_proto, resolve, to_proto
from mdm_crypto import shamir
from mdm_wire.errors import Code, Corrupt, Invalid, MdmError, NotFound, Unavailable

from client.tests.cluster import READ, all_created, guids, only_keys


@pytest.mark.integration
def test_keys_created_on_all_keystores_are_read_back_alike_and_differ_from_each_other(cluster):
    client = cluster.client()
    wanted = guids(5)
    assert all_created(client.create_keys(wanted, cluster.acl(client)))
    keys = only_keys(client.get_keys(wanted))
    assert list(keys) == wanted
    assert len(set(keys.values())) == 5
    assert only_keys(cluster.client().get_keys(wanted)) == keys


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
        share = from_proto(result.share)
        forged = shamir.split(None, 2, 3, share.guid, share.epoch)[share.x - 1]
        result.share.CopyFrom(to_proto(forged))


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
    owner, reader = f"dn:{cluster.pki.subject('srm')}", f"dn:{cluster.pki.subject('alice')}"
    lists = cluster.acls("srm")
    for at in lists:
        [kept] = at.modify([str(acl_id)], [grant(reader, READ)])
        assert kept.error.reason == "ACL_SHARED"
        [changed] = at.modify([str(acl_id)], [grant(reader, READ)], shared=True)
        assert (changed.error, changed.acl.entries) == (None, {reader: READ})
    assert only_keys(alice.get_keys(wanted)) == only_keys(srm.get_keys(wanted))
    [refused_change] = cluster.acls("alice")[0].modify([str(acl_id)], [grant(reader, READ)])
    assert isinstance(refused_change.error, NotFound)
    assert all(error is not None for error in alice.delete_keys(wanted).values())
    for at in lists:
        at.modify([str(acl_id)], [revoke(reader, READ)], shared=True)
    assert all(isinstance(error, NotFound) for error in alice.get_keys(wanted).values())
    private = cluster.acl(srm)
    assert srm.assign_acls(wanted, private) == {letter: dict.fromkeys(wanted) for letter in "abc"}
    shown = lists[1].get([str(private), str(acl_id)])
    assert [f"dn:{answer.acl.owner}" for answer in shown] == [owner] * 2


@pytest.mark.integration
def test_an_operator_deletes_but_never_reads(cluster):
    srm, operator = cluster.client(), cluster.client("operator")
    wanted = guids(1)
    assert all_created(srm.create_keys(wanted, cluster.acl(srm, ("authenticated", READ))))
    error = operator.get_keys(wanted)[wanted[0]]
    assert isinstance(error, MdmError)
    assert error.code is Code.PERMISSION_DENIED
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
def test_a_keystore_under_the_wrong_index_is_noticed(cluster):
    client = cluster.client()
    wanted, acl_id = guids(1), cluster.acl(client)
    swapped = cluster.client(indexes=(2, 1, 3))
    error = swapped.create_keys(wanted, acl_id)[wanted[0]]
    assert isinstance(error, Invalid)
    assert error.reason == "SHARE_INDEX_WRONG"


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
