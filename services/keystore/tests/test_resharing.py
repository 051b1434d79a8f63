"""Refresh, repair and re-share: the driver is killed at every step, and no reader notices."""

from dataclasses import replace
from itertools import combinations
from uuid import uuid4

import pytest
from mdm_crypto import shamir
from mdm_keystore.rules.model import KeyRef, NewKey
from mdm_keystore.rules.resharing.model import JobState, Kind
from mdm_service.identity.caller import Caller
from mdm_wire.errors import Conflict, FailedPrecondition, Forbidden, Invalid

from services.keystore.tests.ring import ACL, ADMIN, SRM, Crash, Interruption, Ring, crash, empty, prepared_by
from services.keystore.tests.trail import read_chain

pytestmark = pytest.mark.integration


def flip(ring: Ring, x: int) -> None:
    ring.nodes[x].sql("UPDATE key_share SET sealed = set_byte(sealed, 20, get_byte(sealed, 20) # 1)")


def test_a_refresh_gives_new_shares_of_the_same_keys_and_destroys_the_old_ones(ring):
    keys = dict(ring.create() for _ in range(5))
    old = {guid: [ring.given(guid, x)[0] for x in (1, 2, 3)] for guid in keys}
    ring.begin(1, Kind.REFRESH)
    job = ring.run(1)
    assert (job.state, job.keys_done, job.keys_failed) == (JobState.DONE, 5, 0)
    ring.assert_readable(keys)
    ring.assert_settled(keys, version=1)
    for guid, shares in old.items():
        new = [ring.given(guid, x)[0] for x in (1, 2, 3)]
        for one, other in combinations(range(3), 2):
            with pytest.raises(shamir.ShareError, match="version"):
                shamir.combine([shares[one], new[other]])
            with pytest.raises(shamir.ShareError):
                shamir.combine([shares[one], replace(new[other], version=0, commitments=shares[0].commitments)])
    ring.audits()


def test_a_second_refresh_while_the_first_left_a_keystore_behind_is_no_loss(ring):
    keys = dict([ring.create()])
    for version in (1, 2, 3):
        ring.begin(version, Kind.REFRESH)
        assert ring.run(version).keys_done == 1
        ring.assert_settled(keys, version=version)
    ring.assert_readable(keys)


CASES = {
    "refresh": (lambda ring: ring.begin(1, Kind.REFRESH), (1, 2, 3), 2, (1, 2, 3)),
    "repair": (lambda ring: (empty(ring, 3), ring.begin(1, Kind.REPAIR, lost=[3])), (1, 2), 2, (1, 2, 3)),
    "reshare to 3 of 4": (lambda ring: ring.begin(1, Kind.RESHARE, 3, 4), (1, 2, 3), 3, (1, 2, 3, 4)),
    "reshare to 2 of 2": (lambda ring: ring.begin(1, Kind.RESHARE, 2, 2), (1, 2), 2, (1, 2)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_driver_killed_at_any_step_loses_nothing_and_ends_its_job_when_it_is_back(ring, case):
    begin, readers, threshold, servers = CASES[case]
    for number in range(1, 100):
        ring.tidy(batch=500)
        keys = dict(ring.create() for _ in range(2))
        begin(ring)
        ring.watch = interruption = Interruption(number, crash)
        try:
            ring.run(1)
        except Crash:
            ring.nodes[1].restart()
        ring.watch = lambda _: None
        if not interruption.step:
            break
        for guid, scalar in keys.items():
            assert ring.reads(guid, sorted({*readers, *servers})) == scalar, interruption.step
            if threshold == 2:
                assert all(ring.reads(guid, pair) == scalar for pair in combinations(readers, 2)), interruption.step
        job = ring.run(1)
        assert (job.state, job.keys_failed) == (JobState.DONE, 0), interruption.step
        ring.assert_readable(keys, threshold, servers)
        ring.assert_settled(keys, servers=servers)
    assert number > 15
    ring.audits()


@pytest.mark.parametrize("case", ["refresh", "repair"])
def test_a_keystore_that_loses_its_memory_at_any_step_costs_at_most_a_repetition(ring, case):
    begin, _, threshold, servers = CASES[case]
    for number in range(1, 100):
        ring.tidy(batch=500)
        keys = dict([ring.create()])
        begin(ring)
        ring.watch = interruption = Interruption(number, ring.nodes[2].restart)
        job = ring.run(1)
        ring.watch = lambda _: None
        assert (job.state, job.keys_done, job.keys_failed) == (JobState.DONE, 1, 0), interruption.step
        ring.assert_readable(keys, threshold, servers)
        ring.assert_settled(keys, servers=servers)
        if not interruption.step:
            break
    assert number > 15


def test_readers_of_any_two_keystores_are_served_between_any_two_steps_of_a_refresh(ring):
    keys = dict(ring.create() for _ in range(2))
    looked = 0

    def watch(step: str) -> None:
        nonlocal looked
        if step.startswith("after peer") and not step.endswith("prepare"):
            ring.assert_readable(keys)
            looked += 1

    ring.watch = watch
    ring.begin(2, Kind.REFRESH)
    ring.run(2)
    assert looked > 15


def test_a_keystore_that_is_away_is_waited_for_and_the_job_says_so(ring):
    keys = dict([ring.create()])
    ring.begin(1, Kind.REFRESH)
    ring.nodes[3].up = False
    for _ in range(3):
        assert not ring.nodes[1].driver.step()
    assert "Keystore 3" in ring.nodes[1].job_control.get(None)[0].message
    ring.assert_readable(keys)
    ring.nodes[3].up = True
    job = ring.run(1)
    assert (job.keys_done, job.message) == (1, "")


@pytest.mark.parametrize("damage", [empty, flip])
def test_a_repair_brings_back_what_was_lost_with_its_acl_and_leaves_sound_keys_alone(ring, damage):
    keys = dict(ring.create() for _ in range(3))
    damage(ring, 2)
    ring.begin(1, Kind.REPAIR, lost=[2])
    assert ring.run(1).keys_done == 3
    ring.assert_readable(keys)
    ring.assert_settled(keys, version=1)
    assert ring.nodes[2].keys.held(SRM, list(keys)).keys() == keys.keys(), "the ACL is back"
    ring.begin(1, Kind.REPAIR, lost=[2])
    assert ring.run(1).keys_done == 0
    ring.assert_settled(keys, version=1)


def test_a_keystore_whose_commitments_were_altered_is_repaired_first_point_included(ring):
    keys = dict([ring.create()])
    ring.nodes[3].sql("UPDATE key_share SET commitments = set_byte(commitments, 4, get_byte(commitments, 4) # 1)")
    ring.begin(1, Kind.REPAIR, lost=[3])
    assert ring.run(1).keys_done == 1
    ring.assert_readable(keys)


def test_the_lost_keystore_can_drive_its_own_repair(ring):
    keys = dict(ring.create() for _ in range(3))
    empty(ring, 1)
    ring.begin(1, Kind.REPAIR, lost=[1])
    assert ring.run(1).keys_done == 3
    ring.assert_readable(keys)


def test_too_few_shares_are_told_by_key_and_nothing_changes(ring):
    guid, _ = ring.create()
    empty(ring, 2)
    empty(ring, 3)
    job_id = ring.begin(1, Kind.REPAIR, lost=[2, 3])
    job = ring.run(1)
    assert (job.keys_done, job.keys_failed) == (0, 1)
    assert ring.nodes[1].job_control.get(job_id)[1] == [(guid, "SHARES_TOO_FEW")]
    assert ring.given(guid, 2) == []


def test_a_refresh_gives_no_share_to_a_keystore_that_lacks_the_key(ring):
    """Its owner may be deleting it: only a repair that names the keystore does."""
    guid, _ = ring.create()
    ring.nodes[3].service.delete_keys(SRM, [guid])
    job_id = ring.begin(1, Kind.REFRESH)
    assert ring.run(1).keys_failed == 1
    assert ring.nodes[1].job_control.get(job_id)[1] == [(guid, "SHARE_MISSING")]
    assert ring.given(guid, 3) == []


@pytest.mark.parametrize(
    "moment", ["after peer1.deal", "after peer2.prepare", "before peer1.commit", "after peer1.commit", "before peer3.retire"]
)
@pytest.mark.parametrize("kind", [Kind.REFRESH, Kind.REPAIR])
def test_a_key_deleted_while_it_gets_new_shares_does_not_come_back(ring, moment, kind):
    guid, _ = ring.create()
    kept = dict([ring.create()])
    if kind is Kind.REPAIR:
        empty(ring, 3)
    deleted = False

    def watch(step: str) -> None:
        nonlocal deleted
        if step == moment and not deleted:
            deleted = True
            for x in (1, 2, 3):
                ring.nodes[x].service.delete_keys(ADMIN, [guid])

    ring.watch = watch
    ring.begin(1, kind, lost=[3] if kind is Kind.REPAIR else [])
    ring.run(1)
    assert deleted
    assert [ring.given(guid, x) for x in (1, 2, 3)] == [[], [], []]
    assert all(ring.nodes[x].sql("SELECT count(*) FROM share_prepared") == [(0,)] for x in (1, 2, 3))
    ring.assert_readable(kept)


def test_a_job_is_cancelled_only_by_who_began_it_and_what_is_done_stays_done(ring):
    keys = dict(ring.create() for _ in range(6))
    job_id = ring.begin(1, Kind.REFRESH)
    control = ring.nodes[1].job_control
    for _ in range(3):
        ring.nodes[1].driver.step()
    with pytest.raises(Forbidden, match="Only who began"):
        control.cancel(Caller("CN=other operator,O=MDM Test"), job_id)
    assert control.cancel(ADMIN, job_id).state is JobState.CANCELLING
    assert control.begin(ADMIN, job_id, Kind.REFRESH, 0, 0, []).state is JobState.CANCELLING, "the same id: the same job"
    job = ring.run(1)
    assert job.state is JobState.CANCELLED
    assert 0 < job.keys_done < 6
    ring.assert_readable(keys)
    ring.assert_settled(keys)
    with pytest.raises(FailedPrecondition, match="ended"):
        control.cancel(ADMIN, job_id)
    entries = [
        (item.entry.who, item.entry.action, item.entry.outcome) for item in read_chain(ring.nodes[1].pool) if item.entry.guid == job_id
    ]
    assert entries == [
        (ADMIN.dn, "refresh-begin", "OK"),
        ("CN=other operator,O=MDM Test", "refresh-cancel", "RESHARING_FORBIDDEN"),
        (ADMIN.dn, "refresh-cancel", "OK"),
        ("CN=keystore-1,O=MDM Test", "refresh-cancelled", "OK"),
        (ADMIN.dn, "refresh-cancel", "RESHARING_ENDED"),
    ]


def test_a_keystore_drives_one_job_at_a_time_and_refuses_what_makes_no_sense(ring):
    ring.begin(1, Kind.REFRESH)
    begin = ring.nodes[1].job_control.begin
    with pytest.raises(Conflict, match="under way"):
        begin(ADMIN, uuid4(), Kind.REFRESH, 0, 0, [])
    for kind, threshold, total, lost in [
        (Kind.REFRESH, 2, 3, []),
        (Kind.REFRESH, 0, 0, [1]),
        (Kind.REPAIR, 0, 0, []),
        (Kind.REPAIR, 0, 0, [9]),
        (Kind.REPAIR, 0, 0, [2, 2]),
        (Kind.RESHARE, 1, 3, []),
        (Kind.RESHARE, 4, 3, []),
    ]:
        with pytest.raises(Invalid):
            begin(ADMIN, uuid4(), kind, threshold, total, lost)
    with pytest.raises(FailedPrecondition, match="Keystore 5"):
        begin(ADMIN, uuid4(), Kind.RESHARE, 2, 5, [])


def test_two_keystores_that_drive_at_the_same_time_never_lose_a_key(ring):
    keys = dict(ring.create() for _ in range(4))
    ring.begin(1, Kind.REFRESH)
    ring.begin(2, Kind.REFRESH)
    nested = False

    def watch(step: str) -> None:
        nonlocal nested
        if step == "after peer3.prepare" and not nested:
            nested = True
            for _ in range(4):
                ring.nodes[2].driver.step()

    ring.watch = watch
    ring.run(1)
    ring.run(2)
    assert nested
    ring.watch = lambda _: None
    ring.assert_readable(keys)
    ring.begin(3, Kind.REFRESH)
    assert ring.run(3).keys_failed == 0
    ring.assert_settled(keys)


def test_old_shares_are_kept_until_every_keystore_has_its_new_one(ring):
    """A coordinator that commits on two only, and asks to retire, gets nothing destroyed."""
    guid, scalar = ring.create()
    round_id = prepared_by(ring, guid, 3)
    peers = ring.nodes[3].participant.peers
    for x in (1, 2):
        assert peers[x].commit(round_id, [guid]) == [None]
    assert [getattr(peers[x].retire(3, [guid])[0], "reason", None) for x in (1, 2, 3)] == ["SHARING_DISAGREES"] * 3
    ring.assert_readable({guid: scalar})
    assert peers[3].commit(round_id, [guid]) == [None]
    assert [peers[x].retire(3, [guid])[0] for x in (1, 2, 3)] == [None] * 3
    ring.assert_settled({guid: scalar}, version=1)


def test_what_a_vanished_coordinator_left_prepared_is_settled_by_the_next_round(ring):
    guid, scalar = ring.create()
    prepared_by(ring, guid, 3)
    ring.begin(1, Kind.REFRESH)
    assert ring.run(1).keys_done == 1
    ring.assert_settled({guid: scalar})


def test_keys_are_created_as_ever_while_others_are_refreshed(ring):
    keys = dict(ring.create() for _ in range(4))
    ring.begin(1, Kind.REFRESH)
    pending = shamir.split(None, 2, 3, uuid4())
    for share in pending:
        assert ring.nodes[share.x].service.create_keys(SRM, [NewKey(share, ACL)]) == [None]
    assert ring.nodes[1].service.confirm_keys(SRM, [KeyRef(pending[0].guid, 0, pending[0].public_key)]) == [None]
    job = ring.run(1)
    assert (job.keys_done, job.keys_failed) == (4, 0), "half a key is neither done nor failed"
    for x in (2, 3):
        assert ring.nodes[x].service.confirm_keys(SRM, [KeyRef(pending[0].guid, 0, pending[0].public_key)]) == [None]
    ring.assert_readable({**keys, pending[0].guid: shamir.combine(pending)})
