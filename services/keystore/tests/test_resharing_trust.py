"""New shares among keystores that lie, deal wrong shares or name other ACLs; what dumps reveal; no audit, no new shares."""

from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from mdm_crypto import resharing, shamir
from mdm_crypto.shamir import Share
from mdm_keystore.rules.model import AclAssignment, KeyRef, NewKey
from mdm_keystore.rules.resharing.model import JobState, Kind, Parts, RoundState, RoundTerms
from mdm_keystore.rules.seal import Sealer
from mdm_keystore.store.job import PostgresJobs
from mdm_keystore.store.sharing import PostgresParts
from mdm_service.access import store as acl_store
from mdm_service.access.acl import Acl
from mdm_service.identity.caller import Caller
from mdm_wire.errors import Conflict, Forbidden
from nacl.bindings import crypto_core_ed25519_sub, crypto_scalarmult_ed25519_base_noclamp, crypto_scalarmult_ed25519_noclamp

from services.keystore.tests.ring import ACL, ADMIN, MALLORY, SRM, Ring, empty, prepared_by

pytestmark = pytest.mark.integration


def test_a_helper_that_deals_wrong_shares_is_left_out(ring, monkeypatch):
    keys = dict(ring.create() for _ in range(3))
    honest = resharing.deal

    def cheat(share: Share, *terms: Any) -> list[resharing.Subshare]:
        dealt = honest(share, *terms)
        if share.x == 1:
            dealt = [replace(part, value=shamir.random_scalar()) for part in dealt]
        return dealt

    monkeypatch.setattr("mdm_keystore.rules.resharing.participant.resharing.deal", cheat)
    ring.begin(1, Kind.REFRESH)
    assert ring.run(1).keys_done == 3
    ring.assert_readable(keys)


def test_a_keystore_does_nothing_for_a_stranger_or_in_anothers_name(ring):
    guid, _ = ring.create()
    participant = ring.nodes[1].participant
    stranger, second = Caller("CN=keystore-9,O=MDM Test"), Caller("CN=keystore-2,O=MDM Test")
    terms = RoundTerms(uuid4(), (1, 2), 2, 3)
    for action in (
        lambda: participant.deal(stranger, terms, []),
        lambda: participant.prepare(stranger, uuid4(), 1, (1, 2), [guid]),
        lambda: participant.prepare(second, uuid4(), 1, (1, 2), [guid]),
        lambda: participant.commit(stranger, uuid4(), [guid]),
        lambda: participant.retire(stranger, 3, [guid]),
        lambda: participant.discard(stranger, uuid4()),
    ):
        with pytest.raises(Forbidden):
            action()


def test_no_audit_no_new_shares(ring):
    guid, scalar = ring.create()
    ring.nodes[2].sql("ALTER TABLE audit_entry ADD CONSTRAINT full_disk CHECK (false) NOT VALID")
    try:
        ring.begin(1, Kind.REFRESH)
        for _ in range(3):
            assert not ring.nodes[1].driver.step() or ring.nodes[1].job_control.get(None)[0].keys_done == 0
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
    assert ring.nodes[2].job_control.get(job_id)[1] == [(guid, "ACL_DISAGREES")]
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
    assert "Needs 3 ≤ threshold" in ring.nodes[1].job_control.get(job_id)[0].message
    ring.nodes[1].job_control.cancel(ADMIN, job_id)
    assert ring.run(1).state is JobState.CANCELLED
    assert ring.reads(guid, (1, 2, 3)) == scalar
    assert ring.reads(guid, (1, 2)) is None


def test_a_key_that_stands_under_another_acl_at_a_keystore_keeps_it_through_a_refresh(ring):
    keys = dict(ring.create() for _ in range(2))
    other = Acl(uuid4(), SRM.dn, ())
    for x in (1, 2, 3):  # each in turn, whichever of them help
        node = ring.nodes[x]
        acl_store.insert(node.connection, replace(other, id=(acl_id := uuid4())))
        node.sql("UPDATE key_share SET acl_id = %s", acl_id)
        ring.begin(1, Kind.REFRESH)
        job = ring.run(1)
        assert (job.keys_done, job.keys_failed) == (len(keys), 0)
        assert node.sql("SELECT DISTINCT acl_id FROM key_share") == [(acl_id,)]


def test_only_one_process_drives_a_job_and_one_that_fell_behind_changes_nothing(ring):
    keys = dict(ring.create() for _ in range(2))
    ring.begin(1, Kind.REFRESH)
    node = ring.nodes[1]
    jobs = PostgresJobs(node.pool)
    with jobs.driving() as mine, PostgresJobs(node.pool).driving() as others:
        assert (mine, others) == (True, False)
        assert node.driver.step() is False
        assert node.sql("SELECT count(*) FROM resharing_round") == [(0,)]
    assert node.driver.step() is True
    (first,) = jobs.rounds(jobs.running().id)
    jobs.replace(first, [replace(first, id=uuid4())], {})
    with pytest.raises(Conflict, match="advanced"):
        jobs.replace(first, [replace(first, state=RoundState.COMMITTING)], {})
    assert ring.run(1).keys_done == len(keys)


def test_parts_are_sealed_forgotten_with_old_rounds_and_lost_with_their_key(ring):
    guid, _ = ring.create()
    node, parts = ring.nodes[2], []
    ring.watch = lambda step: parts.extend(node.sql("SELECT DISTINCT round_id FROM share_part")) if step == "after peer2.take" else None
    prepared_by(ring, guid, 1)
    assert len(set(parts)) == 1
    assert node.sql("SELECT count(*) FROM share_part") == [(0,)]
    table, stranger = PostgresParts(node.pool, node.sealer), PostgresParts(node.pool, Sealer([bytes(32)]))
    rounds = [Parts(uuid4(), 1, 2, 3, (), ()) for _ in range(10)]
    for given in rounds:
        table.put(given)
    assert [bool(table.of(given.round_id)) for given in rounds] == [False] * 2 + [True] * 8
    assert table.of(rounds[-1].round_id) == {1: rounds[-1]}
    assert stranger.of(rounds[-1].round_id) == {}
