"""Refresh, repair and re-share: the driver is killed at every step, and no reader notices."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any
from uuid import UUID, uuid4

import pytest
from mdm_crypto import resharing, shamir
from mdm_crypto.shamir import Share
from mdm_keystore.__main__ import MIGRATIONS
from mdm_keystore.model import AclAssignment, KeyRef
from mdm_keystore.resharing.model import Deal, JobState, Kind, RoundTerms, Unprepared
from mdm_keystore.service import NewKey
from mdm_service import acl_store
from mdm_service.acl import Acl
from mdm_service.database import migrate
from mdm_service.errors import Conflict, FailedPrecondition, Forbidden, Invalid
from mdm_service.identity import Caller
from nacl.bindings import crypto_core_ed25519_sub, crypto_scalarmult_ed25519_base_noclamp, crypto_scalarmult_ed25519_noclamp

from services.keystore.tests.ring import ACL, ADMIN, MALLORY, SRM, Crash, Interruption, Ring, crash

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def whole_ring(postgres) -> Iterator[Ring]:
    names = [f"ring_{uuid4().hex[:12]}" for _ in range(4)]
    conninfos = [postgres.create_database(name) for name in names]
    for conninfo in conninfos:
        migrate(conninfo, MIGRATIONS)
    made = Ring(conninfos)
    yield made
    made.close()
    for name in names:
        postgres.drop_database(name)


@pytest.fixture
def ring(whole_ring) -> Ring:
    """Four keystores; keys are on the first three."""
    whole_ring.tidy()
    return whole_ring


def empty(ring: Ring, x: int) -> None:
    ring.nodes[x].sql("TRUNCATE acl CASCADE")


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
    assert "Keystore 3" in ring.nodes[1].operation.get(None)[0].message
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
    assert ring.nodes[1].operation.get(job_id)[1] == [(guid, "SHARES_TOO_FEW")]
    assert ring.given(guid, 2) == []


def test_a_refresh_gives_no_share_to_a_keystore_that_lacks_the_key(ring):
    """Its owner may be deleting it: only a repair that names the keystore does."""
    guid, _ = ring.create()
    ring.nodes[3].service.delete_keys(SRM, [guid])
    job_id = ring.begin(1, Kind.REFRESH)
    assert ring.run(1).keys_failed == 1
    assert ring.nodes[1].operation.get(job_id)[1] == [(guid, "SHARE_MISSING")]
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
    operation = ring.nodes[1].operation
    for _ in range(3):
        ring.nodes[1].driver.step()
    with pytest.raises(Forbidden, match="Only who began"):
        operation.cancel(Caller("CN=other operator,O=MDM Test"), job_id)
    assert operation.cancel(ADMIN, job_id).state is JobState.CANCELLING
    assert operation.begin(ADMIN, job_id, Kind.REFRESH, 0, 0, []).state is JobState.CANCELLING, "the same id: the same job"
    job = ring.run(1)
    assert job.state is JobState.CANCELLED
    assert 0 < job.keys_done < 6
    ring.assert_readable(keys)
    ring.assert_settled(keys)
    with pytest.raises(FailedPrecondition, match="ended"):
        operation.cancel(ADMIN, job_id)
    deeds = [(item.entry.who, item.entry.action, item.entry.outcome) for item in ring.nodes[1].keys.chain() if item.entry.guid == job_id]
    assert deeds == [
        (ADMIN.dn, "refresh-begin", "OK"),
        ("CN=other operator,O=MDM Test", "refresh-cancel", "RESHARING_FORBIDDEN"),
        (ADMIN.dn, "refresh-cancel", "OK"),
        ("CN=keystore-1,O=MDM Test", "refresh-cancelled", "OK"),
        (ADMIN.dn, "refresh-cancel", "RESHARING_ENDED"),
    ]


def test_a_keystore_drives_one_job_at_a_time_and_refuses_what_makes_no_sense(ring):
    ring.begin(1, Kind.REFRESH)
    begin = ring.nodes[1].operation.begin
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


def test_a_helper_that_deals_wrong_shares_is_left_out(ring, monkeypatch):
    keys = dict(ring.create() for _ in range(3))
    honest = resharing.deal

    def cheat(share: Share, *terms: Any) -> list[resharing.Subshare]:
        dealt = honest(share, *terms)
        if share.x == 1:
            dealt = [replace(part, value=shamir.random_scalar()) for part in dealt]
        return dealt

    monkeypatch.setattr("mdm_keystore.resharing.participant.resharing.deal", cheat)
    ring.begin(1, Kind.REFRESH)
    assert ring.run(1).keys_done == 3
    ring.assert_readable(keys)


def test_a_keystore_does_nothing_for_a_stranger_or_in_anothers_name(ring):
    guid, _ = ring.create()
    participant = ring.nodes[1].participant
    stranger, second = Caller("CN=keystore-9,O=MDM Test"), Caller("CN=keystore-2,O=MDM Test")
    terms = RoundTerms(uuid4(), (1, 2), 2, 3)
    for deed in (
        lambda: participant.deal(stranger, terms, []),
        lambda: participant.prepare(stranger, uuid4(), 1, (1, 2), [guid]),
        lambda: participant.prepare(second, uuid4(), 1, (1, 2), [guid]),
        lambda: participant.commit(stranger, uuid4(), [guid]),
        lambda: participant.retire(stranger, 3, [guid]),
        lambda: participant.discard(stranger, uuid4()),
    ):
        with pytest.raises(Forbidden):
            deed()


def prepared_by(ring: Ring, guid: UUID, coordinator: int, version: int = 1) -> UUID:
    """Have one keystore deal and prepare a key everywhere, without deciding."""
    held = ring.nodes[1].participant.held_keys([guid])[0]
    terms = RoundTerms(uuid4(), (1, 2), 2, 3)
    peers = ring.nodes[coordinator].participant.peers
    for helper in (1, 2):
        assert peers[helper].deal(terms, [Deal(guid, held.current.sharing, version)]) == [None]
    for x in (1, 2, 3):
        (result,) = peers[x].prepare(terms.id, coordinator, (1, 2), [guid])
        assert not isinstance(result, Unprepared), result
    return terms.id


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


def test_no_audit_no_new_shares(ring):
    guid, scalar = ring.create()
    ring.nodes[2].sql("ALTER TABLE audit_entry ADD CONSTRAINT full_disk CHECK (false) NOT VALID")
    try:
        ring.begin(1, Kind.REFRESH)
        for _ in range(3):
            assert not ring.nodes[1].driver.step() or ring.nodes[1].operation.get(None)[0].keys_done == 0
        assert ring.given(guid, 1)[0].version == 0
    finally:
        ring.nodes[2].sql("ALTER TABLE audit_entry DROP CONSTRAINT full_disk")
    assert ring.run(1).keys_done == 1
    ring.assert_readable({guid: scalar})


def dump(ring: Ring, x: int) -> bytes:
    """Return everything that a keystore's database holds."""
    node, dumped = ring.nodes[x], bytearray()
    for (table,) in node.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
        with node.connection.cursor().copy(f'COPY "{table}" TO STDOUT (FORMAT binary)'.encode()) as copy:
            for block in copy:
                dumped += block
    return bytes(dumped)


def test_a_dump_at_any_step_of_a_refresh_reveals_neither_old_nor_new_share(ring):
    keys = dict(ring.create() for _ in range(2))
    dumps: list[bytes] = []
    values = {share.value for guid in keys for x in (1, 2, 3) for share in ring.given(guid, x)}

    def watch(step: str) -> None:
        if step.startswith("after peer2"):
            dumps.append(dump(ring, 2))

    ring.watch = watch
    ring.begin(1, Kind.REFRESH)
    ring.run(1)
    values |= {share.value for guid in keys for x in (1, 2, 3) for share in ring.given(guid, x)}
    assert len(values) == 12
    assert len(dumps) > 6
    assert all(guid.bytes in dumps[0] for guid in keys)
    for content in dumps:
        assert not any(value in content or value.hex().encode() in content for value in values)
        assert bytes([2]) * 32 not in content, "the key-encryption key"


def test_a_refreshed_key_that_is_deleted_leaves_nothing_behind(ring):
    guid, _ = ring.create()
    prepared_by(ring, guid, 1)
    for x in (1, 2, 3):
        assert ring.nodes[x].service.delete_keys(ADMIN, [guid]) == [None]
        for table in ("key_share", "share_prepared", "share_previous"):
            assert ring.nodes[x].sql(f"SELECT count(*) FROM {table}") == [(0,)]


OTHER = UUID("0190a5a0-0000-7000-8000-0000000000bb")


def other_acl(ring: Ring, x: int, acl_id: UUID = OTHER) -> None:
    acl_store.insert(ring.nodes[x].connection, Acl(acl_id, MALLORY.dn))


def name_another_acl(ring: Ring, guid: UUID) -> None:
    """One helper lies about which ACL guards the key, and the rebuilt keystore happens to have that one."""
    for x in (1, 2, 3):
        other_acl(ring, x)
    ring.nodes[1].sql("UPDATE key_share SET acl_id = %s", OTHER)
    ring.nodes[3].sql("DELETE FROM key_share")


def occupy_the_acl(ring: Ring, guid: UUID) -> None:
    """Somebody makes an ACL of the key's id on the emptied keystore."""
    empty(ring, 3)
    other_acl(ring, 3, ACL)


def occupy_the_key(ring: Ring, guid: UUID) -> None:
    """Somebody who knows the public key makes a share that is true to commitments of his own, under an ACL of his own."""
    empty(ring, 3)
    other_acl(ring, 3)
    public_key = ring.given(guid, 1)[0].public_key
    value = shamir.random_scalar()
    third = pow(3, -1, shamir.ORDER).to_bytes(32, "little")
    slope = crypto_scalarmult_ed25519_noclamp(third, crypto_core_ed25519_sub(crypto_scalarmult_ed25519_base_noclamp(value), public_key))
    share = Share(guid, 0, 3, value, (public_key, slope), 2, 3)
    service = ring.nodes[3].service
    assert service.create_keys(MALLORY, [NewKey(share, OTHER)]) == [None]
    assert service.confirm_keys(MALLORY, [KeyRef(guid, 0, public_key)]) == [None]


@pytest.mark.parametrize("trick", [name_another_acl, occupy_the_acl, occupy_the_key])
def test_a_repair_never_puts_a_key_under_an_acl_that_not_all_helpers_vouch_for(ring, trick):
    guid, _ = ring.create()
    trick(ring, guid)
    job_id = ring.begin(2, Kind.REPAIR, lost=[3])
    assert ring.run(2).keys_failed == 1
    assert ring.nodes[2].operation.get(job_id)[1] == [(guid, "ACL_DISAGREES")]
    (released,) = ring.nodes[3].service.release_shares(MALLORY, [guid])
    assert getattr(getattr(released, "share", None), "version", 0) == 0, "no new share for mallory"


def test_an_acl_that_is_changed_during_a_refresh_stays_changed(ring):
    guid, _ = ring.create()
    other = uuid4()
    for x in (1, 2, 3):
        acl_store.insert(ring.nodes[x].connection, Acl(other, SRM.dn))
    changed = False

    def watch(step: str) -> None:
        nonlocal changed
        if step == "after peer3.prepare" and not changed:
            changed = True
            for x in (1, 2, 3):
                assert ring.nodes[x].service.assign_acls(SRM, [AclAssignment(guid, other)]) == [None]

    ring.watch = watch
    ring.begin(1, Kind.REFRESH)
    assert ring.run(1).keys_done == 1
    assert [ring.nodes[x].sql("SELECT acl_id FROM key_share") for x in (1, 2, 3)] == [[(other,)]] * 3


def test_no_keystore_takes_a_threshold_below_its_own_minimum_whoever_asks(ring):
    guid, scalar = ring.create(threshold=3)
    ring.nodes[3].restart(minimum_threshold=3)
    job_id = ring.begin(1, Kind.RESHARE, 2, 3)
    for _ in range(3):
        ring.nodes[1].driver.step()
    assert "Needs 3 ≤ threshold" in ring.nodes[1].operation.get(job_id)[0].message
    ring.nodes[1].operation.cancel(ADMIN, job_id)
    assert ring.run(1).state is JobState.CANCELLED
    assert ring.reads(guid, (1, 2, 3)) == scalar
    assert ring.reads(guid, (1, 2)) is None
