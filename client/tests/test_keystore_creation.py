"""Keys created on three real keystores, of which one fails, by creators that race or were killed half-way."""

import threading
from uuid import UUID, uuid4

import grpc
import pytest
from mdm_wire.errors import Conflict, MdmError, NotFound, Unavailable

from client.tests.cluster import READ, all_created, guids, only_keys


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
    outcomes: list[dict[UUID, MdmError | None]] = []
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
