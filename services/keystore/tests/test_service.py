"""The use cases, on the port in memory and in PostgreSQL alike."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from mdm_crypto import shamir
from mdm_crypto.shamir import Share
from mdm_keystore.rules.model import AclAssignment, KeyRecord, KeyRef, KeyState, NewKey, Released
from mdm_keystore.rules.port import AuditUnavailable
from mdm_keystore.rules.seal import Sealer
from mdm_keystore.rules.service import EXPIRY, KeystoreService
from mdm_service.access.acl import Acl, AclEntry
from mdm_service.identity.caller import Caller
from mdm_service.policy import DELEGATE, DICOM_SRM, OPERATOR
from mdm_wire.delegation import Delegation
from mdm_wire.errors import Conflict, FailedPrecondition, Forbidden, Invalid, MdmError, NotFound, Unavailable
from mdm_wire.permission import Permission

from services.keystore.tests.trail import assert_whole

ACL = UUID("0190a5a0-0000-7000-8000-0000000000aa")
OTHER_ACL = UUID("0190a5a0-0000-7000-8000-0000000000bb")
SRM = Caller("CN=dicom-srm,O=MDM Test")
ALICE = Caller("CN=alice,O=MDM Test", frozenset({"/biomed/neuro"}))
JOB = replace(ALICE, roles=frozenset({DELEGATE}), delegation=Delegation(ALICE.dn, "CN=job,O=MDM Test", "A" * 24, 1, (), frozenset({ACL})))
MALLORY = Caller("CN=mallory,O=MDM Test")
ADMIN = Caller("CN=operator,O=MDM Test", roles=frozenset({OPERATOR}))
KEK = b"\x07" * 32


def service_on(keys, ttl: timedelta = timedelta(minutes=5), kek: bytes = KEK) -> KeystoreService:
    return KeystoreService(keys, Sealer([kek]), name="b", index=2, pending_ttl=ttl)


@pytest.fixture
def service(keys) -> KeystoreService:
    keys.add_acl(Acl(ACL, SRM.dn, (AclEntry("group:/biomed/neuro", Permission.READ | Permission.LIST),)))
    keys.add_acl(Acl(OTHER_ACL, ALICE.dn))
    return service_on(keys)


def share_of(guid: UUID | None = None) -> Share:
    return shamir.split(None, 2, 3, guid or uuid4(), 1)[1]


def ref(share: Share) -> KeyRef:
    return KeyRef(share.guid, share.epoch, share.public_key)


def stored(service: KeystoreService, count: int = 1) -> list[Share]:
    shares = [share_of() for _ in range(count)]
    assert service.create_keys(SRM, [NewKey(share, ACL) for share in shares]) == [None] * count
    assert service.confirm_keys(SRM, [ref(share) for share in shares]) == [None] * count
    return shares


def create_one(service: KeystoreService, share: Share, caller: Caller = SRM, acl_id: UUID = ACL) -> MdmError | None:
    return service.create_keys(caller, [NewKey(share, acl_id)])[0]


def reasons(outcomes) -> list[str]:
    return [outcome.reason if isinstance(outcome, MdmError) else "OK" for outcome in outcomes]


def audited(keys) -> list[tuple[str, str, str]]:
    chained = keys.chain()
    assert_whole(chained)
    return [(item.entry.who, item.entry.action, item.entry.outcome) for item in chained]


def test_a_job_gets_keys_under_the_lists_of_its_token_only_and_the_audit_names_both(service, keys):
    inside, outside = stored(service)[0], share_of()
    assert create_one(service, outside, ALICE, OTHER_ACL) is None
    assert service.confirm_keys(ALICE, [ref(outside)]) == [None]
    assert service.release_shares(ALICE, [inside.guid, outside.guid]) == [Released(inside), Released(outside)]
    assert reasons(service.release_shares(JOB, [inside.guid, outside.guid])) == ["OK", "KEY_NOT_FOUND"]
    who = f"{ALICE.dn} by CN=job,O=MDM Test delegation {'A' * 24}"
    assert audited(keys)[-2:] == [(who, "release", "OK"), (who, "release", "KEY_NOT_FOUND")]


def test_a_share_is_released_only_after_confirmation_and_only_to_readers(service):
    share = share_of()
    assert create_one(service, share) is None
    assert reasons(service.release_shares(SRM, [share.guid])) == ["KEY_NOT_FOUND"]
    assert service.confirm_keys(SRM, [ref(share)]) == [None]
    assert service.release_shares(SRM, [share.guid]) == [Released(share)]
    assert service.release_shares(ALICE, [share.guid]) == [Released(share)]
    assert reasons(service.release_shares(MALLORY, [share.guid])) == ["KEY_NOT_FOUND"]


def test_an_unknown_key_and_a_forbidden_one_look_alike(service):
    (share,) = stored(service)
    forbidden, unknown = service.release_shares(MALLORY, [share.guid, uuid4()])
    assert isinstance(forbidden, NotFound)
    assert isinstance(unknown, NotFound)
    assert (forbidden.reason, forbidden.message) == (unknown.reason, unknown.message)


def test_outcomes_come_in_the_order_asked(service):
    first, second = stored(service, 2)
    unknown = uuid4()
    released = service.release_shares(SRM, [second.guid, unknown, first.guid, second.guid])
    assert [released[0], released[2], released[3]] == [Released(second), Released(first), Released(second)]
    assert isinstance(released[1], NotFound)


def test_the_same_share_again_succeeds_pending_or_confirmed(service):
    share = share_of()
    assert [create_one(service, share), create_one(service, share)] == [None, None]
    assert service.confirm_keys(SRM, [ref(share), ref(share)]) == [None, None]
    assert create_one(service, share) is None
    assert service.release_shares(SRM, [share.guid]) == [Released(share)]


def test_a_second_creation_of_a_confirmed_key_is_refused_and_harms_nothing(service):
    (share,) = stored(service)
    error = create_one(service, share_of(share.guid))
    assert isinstance(error, Conflict)
    assert error.reason == "KEY_EXISTS"
    assert service.release_shares(SRM, [share.guid]) == [Released(share)]


def test_a_pending_key_is_replaced_by_its_creator_and_by_nobody_else(service, keys):
    keys.add_acl(Acl(uuid4(), MALLORY.dn))
    first = share_of()
    second = share_of(first.guid)
    assert create_one(service, first) is None
    error = create_one(service, share_of(first.guid), ALICE, OTHER_ACL)
    assert isinstance(error, Conflict)
    assert error.reason == "KEY_PENDING"
    assert create_one(service, second) is None
    replaced = service.confirm_keys(SRM, [ref(first)])[0]
    assert isinstance(replaced, FailedPrecondition)
    assert replaced.reason == "KEY_REPLACED"
    assert reasons(service.confirm_keys(ALICE, [ref(second)])) == ["KEY_NOT_FOUND"]
    assert service.confirm_keys(SRM, [ref(second)]) == [None]


def test_creation_needs_an_acl_that_exists_and_the_right_to_write_under_it(service):
    assert reasons([create_one(service, share_of(), acl_id=uuid4())]) == ["ACL_NOT_FOUND"]
    assert reasons([create_one(service, share_of(), ALICE)]) == ["ACL_NOT_FOUND"]


def test_wrong_shares_are_refused_one_by_one_and_the_good_ones_stored(service):
    good, wrong, foreign = share_of(), share_of(), shamir.split(None, 2, 3, uuid4())[0]
    value = bytearray(wrong.value)
    value[0] ^= 1
    weak = replace(share_of(), threshold=1)
    bad_point = replace(share_of(), commitments=(share_of().commitments[0], bytes(32)))
    batch = [good, replace(wrong, value=bytes(value)), foreign, weak, bad_point, replace(good, epoch=2)]
    outcomes = service.create_keys(SRM, [NewKey(share, ACL) for share in batch])
    assert reasons(outcomes) == [
        "OK",
        "SHARE_WRONG",
        "SHARE_INDEX_WRONG",
        "THRESHOLD_INVALID",
        "COMMITMENT_INVALID",
        "GUID_TWICE",
    ]
    assert service.confirm_keys(SRM, [ref(good)]) == [None]


def test_a_pending_key_expires_and_its_guid_is_free_again(keys, service):
    hasty = service_on(keys, ttl=timedelta(microseconds=1))
    share, kept = share_of(), stored(service)[0]
    assert create_one(hasty, share) is None
    assert reasons(hasty.confirm_keys(SRM, [ref(share)])) == ["KEY_NOT_FOUND"]
    assert reasons(hasty.key_attributes(SRM, [share.guid])) == ["KEY_NOT_FOUND"]
    assert hasty.purge_expired() == 1
    assert hasty.purge_expired() == 0
    assert (EXPIRY, "expire", "OK") in audited(keys)
    replacement = share_of(share.guid)
    assert create_one(hasty, share_of(share.guid)) is None
    assert create_one(service, replacement, ALICE, OTHER_ACL) is None
    assert service.release_shares(SRM, [kept.guid]) == [Released(kept)]


def test_deletion_needs_d_or_an_operator_or_being_the_creator_of_a_pending_key(service):
    one, two, three = stored(service, 3)
    pending = share_of()
    assert create_one(service, pending) is None
    refused = service.delete_keys(ALICE, [one.guid, pending.guid])
    assert [type(error) for error in refused] == [Forbidden, Forbidden]
    assert reasons(service.delete_keys(MALLORY, [one.guid, uuid4()])) == ["KEY_NOT_FOUND", "KEY_NOT_FOUND"]
    assert service.delete_keys(SRM, [one.guid, pending.guid]) == [None, None]
    assert service.delete_keys(ADMIN, [two.guid]) == [None]
    assert reasons(service.delete_keys(SRM, [one.guid])) == ["KEY_NOT_FOUND"]
    assert reasons(service.release_shares(SRM, [one.guid, three.guid])) == ["KEY_NOT_FOUND", "OK"]


def test_attributes_are_shown_to_those_who_may_know_of_the_key(service):
    (share,) = stored(service)
    pending = share_of()
    assert create_one(service, pending) is None
    (shown,) = service.key_attributes(ALICE, [share.guid])
    assert isinstance(shown, KeyRecord)
    assert (shown.state, shown.x, shown.threshold, shown.total, shown.acl_id) == (KeyState.CONFIRMED, 2, 2, 3, ACL)
    assert shown.public_key == share.public_key
    assert reasons(service.key_attributes(MALLORY, [share.guid])) == ["KEY_NOT_FOUND"]
    assert reasons(service.key_attributes(ADMIN, [share.guid, pending.guid])) == ["OK", "OK"]
    (waiting,) = service.key_attributes(SRM, [pending.guid])
    assert isinstance(waiting, KeyRecord)
    assert waiting.state is KeyState.PENDING
    assert waiting.expire_time is not None
    assert waiting.expire_time > datetime.now(UTC)


def test_assigning_an_acl_needs_p_and_changes_who_reads(service):
    (share,) = stored(service)
    assert [type(e) for e in service.assign_acls(ALICE, [AclAssignment(share.guid, OTHER_ACL)])] == [Forbidden]
    assert reasons(service.assign_acls(MALLORY, [AclAssignment(share.guid, OTHER_ACL)])) == ["KEY_NOT_FOUND"]
    assert reasons(service.assign_acls(ADMIN, [AclAssignment(share.guid, OTHER_ACL)])) == ["KEY_NOT_FOUND"]
    assert reasons(service.assign_acls(SRM, [AclAssignment(share.guid, uuid4())])) == ["ACL_NOT_FOUND"]
    assert service.assign_acls(SRM, [AclAssignment(share.guid, OTHER_ACL)]) == [None]
    assert reasons(service.release_shares(SRM, [share.guid])) == ["KEY_NOT_FOUND"]
    assert service.release_shares(ALICE, [share.guid]) == [Released(share)]


def test_listing_pages_through_what_the_caller_may_list(service):
    guids = sorted(share.guid for share in stored(service, 5))
    seen: list[UUID] = []
    after = None
    while page := service.list_keys(ALICE, after, 2):
        seen += [record.guid for record in page]
        after = page[-1].guid
    assert seen == guids
    assert list(service.list_keys(MALLORY, None, 10)) == []
    assert [record.guid for record in service.list_keys(ADMIN, None, 10)] == guids


def test_every_release_refusal_and_change_is_in_the_audit_chain(service, keys):
    (share,) = stored(service)
    service.release_shares(MALLORY, [share.guid])
    service.release_shares(ALICE, [share.guid])
    service.assign_acls(SRM, [AclAssignment(share.guid, ACL)])
    service.delete_keys(SRM, [share.guid])
    assert audited(keys) == [
        (SRM.dn, "create", "OK"),
        (SRM.dn, "confirm", "OK"),
        (MALLORY.dn, "release", "KEY_NOT_FOUND"),
        (ALICE.dn, "release", "OK"),
        (SRM.dn, "assign-acl", "OK"),
        (SRM.dn, "delete", "OK"),
    ]


def test_without_an_audit_log_nothing_is_released_and_nothing_changes(service, keys):
    (share,) = stored(service)
    keys.refuse_audit()
    other = share_of()
    for attempt in (
        lambda: service.release_shares(SRM, [share.guid]),
        lambda: service.create_keys(SRM, [NewKey(other, ACL)]),
        lambda: service.confirm_keys(SRM, [ref(share)]),
        lambda: service.delete_keys(SRM, [share.guid]),
        lambda: service.assign_acls(SRM, [AclAssignment(share.guid, OTHER_ACL)]),
    ):
        with pytest.raises(AuditUnavailable):
            attempt()
    assert reasons(service.key_attributes(SRM, [share.guid, other.guid])) == ["OK", "KEY_NOT_FOUND"]


def test_a_share_sealed_under_a_lost_key_is_unavailable_not_wrong(service, keys, caplog):
    (share,) = stored(service)
    (error,) = service_on(keys, kek=b"\x08" * 32).release_shares(SRM, [share.guid])
    assert isinstance(error, Unavailable)
    assert error.reason == "SHARE_UNREADABLE"
    assert audited(keys)[-1] == (SRM.dn, "release", "SHARE_UNREADABLE")
    assert share.value.hex() not in caplog.text


def test_batches_beyond_the_limit_are_refused_as_a_whole(service):
    with pytest.raises(Invalid) as error:
        service.release_shares(SRM, [uuid4()] * 1001)
    assert error.value.reason == "BATCH_TOO_LARGE"
    assert service.release_shares(SRM, []) == []


def test_a_dicom_srm_lists_the_keys_that_it_made_whoever_owns_their_list_by_now(service):
    (share,) = stored(service)
    (other,) = [share_of()]
    assert create_one(service, other, ALICE, OTHER_ACL) is None
    assert service.assign_acls(SRM, [AclAssignment(share.guid, OTHER_ACL)]) == [None]
    assert list(service.list_keys(SRM, None, 10)) == [], "no list gives it a right any more"
    registering = Caller(SRM.dn, roles=frozenset({DICOM_SRM}))
    assert [record.guid for record in service.list_keys(registering, None, 10)] == [share.guid]
    assert [isinstance(found, MdmError) for found in service.key_attributes(registering, [share.guid, other.guid])] == [False, True]
    assert reasons(service.release_shares(registering, [share.guid])) == ["KEY_NOT_FOUND"], "that is no right to read"
