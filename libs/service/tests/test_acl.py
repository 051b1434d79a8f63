"""Access control: the model, its SQL twin, and the service."""

import uuid
from collections.abc import Iterator

import grpc
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mdm.acl.v1 import acl_pb2, acl_pb2_grpc
from mdm_service import database
from mdm_service.access import store as acl_store
from mdm_service.access.acl import MOST_COUNTED, Acl, AclEntry, AclUse
from mdm_service.access.servicer import FULL_NAME, add_acl_service
from mdm_service.access.store import AclScope
from mdm_service.identity.caller import Caller
from mdm_testing.postgres import fresh_databases
from mdm_testing.server import channel, serve_in_process
from mdm_wire.errors import Invalid
from mdm_wire.permission import Permission, canonical_principal, format_permissions, parse_permissions
from psycopg_pool import ConnectionPool

MIGRATIONS = ("mdm_service.acl_migrations",)
DNS = ["CN=alice", "CN=bob", "CN=carol"]
GROUPS = ["/vo/a", "/vo/b"]
PRINCIPALS = [*(f"dn:{dn}" for dn in DNS), *(f"group:{group}" for group in GROUPS), "authenticated"]


def test_the_union_of_all_matching_entries_counts():
    acl = Acl(uuid.uuid4(), "CN=owner", (AclEntry("authenticated", Permission.LIST), AclEntry("group:/vo/a", Permission.READ)))
    assert acl.permissions_of(Caller("CN=alice", frozenset({"/vo/a"}))) == Permission.LIST | Permission.READ


def test_the_owner_may_do_everything_and_a_stranger_nothing():
    acl = Acl(uuid.uuid4(), "CN=owner")
    assert acl.permissions_of(Caller("CN=owner")) == Permission.ALL
    assert acl.permissions_of(Caller("CN=other")) == Permission.NONE


def test_permission_letters_have_the_published_bits():
    assert int(parse_permissions("p")) == 1
    assert int(parse_permissions("s")) == 128
    assert format_permissions(Permission.ALL) == "pdrwlxgs"
    with pytest.raises(Invalid):
        parse_permissions("rq")


@pytest.mark.parametrize("text", ["", "alice", "dn:", "group:vo", "everyone", "group:/a\nb"])
def test_what_is_not_a_principal_is_refused(text):
    with pytest.raises(Invalid):
        canonical_principal(text)


@pytest.fixture(scope="module")
def conninfo(postgres) -> Iterator[str]:
    with fresh_databases(postgres, "acl") as (conninfo,):
        database.migrate(conninfo, MIGRATIONS)
        yield conninfo


@pytest.fixture
def pool(conninfo) -> Iterator[ConnectionPool]:
    with ConnectionPool(conninfo, min_size=1, max_size=4, open=True) as opened:
        yield opened


acls = st.builds(
    Acl,
    st.uuids(),
    st.sampled_from(DNS),
    st.dictionaries(st.sampled_from(PRINCIPALS), st.integers(1, 255).map(Permission)).map(
        lambda found: tuple(AclEntry(*item) for item in sorted(found.items()))
    ),
)
callers = st.builds(Caller, st.sampled_from(DNS), st.frozensets(st.sampled_from(GROUPS)))


@pytest.mark.integration
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(acl=acls, caller=callers, wanted=st.integers(1, 255))
def test_sql_and_model_agree(conninfo, acl, caller, wanted):
    with psycopg.connect(conninfo) as connection:
        acl_store.insert(connection, acl)
        expected = acl.permissions_of(caller)
        arguments = (caller.dn, sorted(caller.principals))
        row = connection.execute("SELECT acl_permissions(%s, %s, %s)", (acl.id, *arguments)).fetchone()
        granting = connection.execute("SELECT acls_granting(%s, %s, %s)", (*arguments, wanted)).fetchall()
        connection.rollback()
    assert row == (int(expected),)
    assert ((acl.id,) in granting) == (int(expected) & wanted == wanted)


class FakeUses:
    """Says of every list that it guards as much as the test sets."""

    use = AclUse()
    scopes: list[AclScope]

    def __init__(self) -> None:
        self.scopes = []

    def count(self, connection: psycopg.Connection, acl_id: uuid.UUID, scope: AclScope) -> AclUse:
        self.scopes.append(scope)
        return self.use


@pytest.mark.integration
class TestService:
    @pytest.fixture
    def stub(self, pool, pki, tmp_path):
        uses = FakeUses()

        def register(server, authenticator) -> None:
            add_acl_service(server.grpc, pool, uses, authenticator)
            server.add_service(FULL_NAME)

        bans = tmp_path / "banned.txt"
        bans.write_text("CN=banned,O=MDM Test\n")
        identity = pki.issue(pki.subject("server"))
        with serve_in_process(identity, register, namespaces=(pki.namespace,), ban_list=bans) as running:

            def call(name: str, method: str, request):
                with channel(running.address, pki.issue(pki.subject(name))) as opened:
                    return getattr(acl_pb2_grpc.AclServiceStub(opened), method)(request, timeout=5)

            call.uses = uses
            yield call

    def test_only_the_owner_and_holders_of_p_change_an_acl(self, stub, pki):
        acl_id = str(uuid.uuid4())
        stub("alice", "CreateAcls", acl_pb2.CreateAclsRequest(acls=[acl_pb2.Acl(id=acl_id)]))
        grant = acl_pb2.AclChange(
            action=acl_pb2.AclChange.ACTION_GRANT, entry=acl_pb2.AclEntry(principal="dn:/O=MDM Test/CN=bob", permissions=64)
        )
        request = acl_pb2.ModifyAclsRequest(ids=[acl_id], changes=[grant])
        assert stub("bob", "ModifyAcls", request).results[0].status.reason == "ACL_NOT_FOUND"
        assert stub("alice", "ModifyAcls", request).results[0].acl.rev == 2
        assert stub("alice", "ModifyAcls", request).results[0].acl.rev == 2, "repeating a grant changes nothing"
        assert stub("bob", "ModifyAcls", request).results[0].status.reason == "ACL_CHANGE_FORBIDDEN"
        shown = stub("bob", "GetAcls", acl_pb2.GetAclsRequest(ids=[acl_id])).results[0].acl
        assert [entry.principal for entry in shown.entries] == [f"dn:{pki.subject('bob')}"]

    def test_only_the_owner_gives_an_acl_away_and_then_has_only_what_it_grants(self, stub, pki):
        acl_id, bob = str(uuid.uuid4()), "dn:/O=MDM Test/CN=bob"
        stub("alice", "CreateAcls", acl_pb2.CreateAclsRequest(acls=[acl_pb2.Acl(id=acl_id)]))

        def change(caller: str, action: int, principal: str, permissions: int = 0) -> acl_pb2.AclResult:
            entry = acl_pb2.AclEntry(principal=principal, permissions=permissions)
            request = acl_pb2.ModifyAclsRequest(ids=[acl_id], changes=[acl_pb2.AclChange(action=action, entry=entry)])
            return stub(caller, "ModifyAcls", request).results[0]

        give, grant = acl_pb2.AclChange.ACTION_SET_OWNER, acl_pb2.AclChange.ACTION_GRANT
        change("alice", grant, bob, 1)
        assert change("bob", give, bob).status.reason == "ACL_OWNER_FORBIDDEN", "who may change entries may not take the ACL"
        assert change("alice", give, "authenticated").status.reason == "ACL_OWNER_MALFORMED"
        assert change("alice", give, bob).acl.owner == pki.subject("bob")
        assert change("alice", grant, bob, 4).status.reason == "ACL_NOT_FOUND"
        assert change("bob", give, bob).acl.rev == 3, "repeating it changes nothing"

    def test_a_list_that_guards_more_than_is_meant_is_changed_only_when_shared(self, stub, pki):
        acl_id = str(uuid.uuid4())
        stub("alice", "CreateAcls", acl_pb2.CreateAclsRequest(acls=[acl_pb2.Acl(id=acl_id)]))
        grant = acl_pb2.AclChange(action=acl_pb2.AclChange.ACTION_GRANT, entry=acl_pb2.AclEntry(principal="authenticated", permissions=4))

        def modify(who: str, **more) -> acl_pb2.AclResult:
            return stub(who, "ModifyAcls", acl_pb2.ModifyAclsRequest(ids=[acl_id], changes=[grant], **more)).results[0]

        stub.uses.use = AclUse(1, 3)
        refused = modify("alice").status
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION.value[0], "ACL_SHARED")
        assert "guards 3 other objects" in refused.message
        assert "--own" in refused.message
        assert "--shared" in refused.message
        assert modify("bob").status.reason == "ACL_NOT_FOUND", "how many share a list is for those who control it alone"
        assert modify("alice", scope=acl_pb2.AclScope(keys=["k"], path="/c")).status.reason == "ACL_SHARED"
        assert stub.uses.scopes[-1] == AclScope(("k",), "/c")
        assert modify("alice", shared=True).acl.rev == 2
        assert modify("alice").status.reason == "ACL_SHARED", "also where nothing would change"
        stub.uses.use = AclUse(1, MOST_COUNTED)
        assert f"at least {MOST_COUNTED}" in modify("alice").status.message
        stub.uses.use = AclUse(7, 0)
        assert modify("alice").status.code == 0

    def test_who_changes_a_list_that_guards_something_still_controls_it(self, stub, pki):
        acl_id, alice, bob = str(uuid.uuid4()), f"dn:{pki.subject('alice')}", f"dn:{pki.subject('bob')}"
        stub("alice", "CreateAcls", acl_pb2.CreateAclsRequest(acls=[acl_pb2.Acl(id=acl_id)]))
        stub.uses.use = AclUse(1)

        def change(who: str, *changes: tuple[int, str, int]) -> acl_pb2.AclResult:
            messages = [
                acl_pb2.AclChange(action=action, entry=acl_pb2.AclEntry(principal=principal, permissions=bits))
                for action, principal, bits in changes
            ]
            return stub(who, "ModifyAcls", acl_pb2.ModifyAclsRequest(ids=[acl_id], changes=messages)).results[0]

        grant, revoke, put, give = 1, 2, 3, 4
        assert change("alice", (give, bob, 0)).status.reason == "ACL_CONTROL_LOST"
        assert change("alice", (grant, "group:/vo/a", 1), (give, bob, 0)).status.reason == "ACL_CONTROL_LOST", "others' `p` is no proof"
        assert change("alice", (grant, alice, 1 | 2), (give, bob, 0)).acl.owner == pki.subject("bob")
        for lost in ((revoke, alice, 1), (put, alice, 2), (put, alice, 0)):
            assert change("alice", lost).status.reason == "ACL_CONTROL_LOST"
        assert change("bob", (revoke, alice, 255)).status.code == 0, "who got it takes it"
        assert change("alice", (grant, alice, 1)).status.reason == "ACL_NOT_FOUND"

    @pytest.mark.parametrize("owner", ["dn:CN=bob,O=Elsewhere", "dn:CN=banned,O=MDM Test"])
    def test_nothing_is_given_to_who_can_never_come(self, stub, owner):
        acl_id = str(uuid.uuid4())
        stub("alice", "CreateAcls", acl_pb2.CreateAclsRequest(acls=[acl_pb2.Acl(id=acl_id)]))
        give = acl_pb2.AclChange(action=acl_pb2.AclChange.ACTION_SET_OWNER, entry=acl_pb2.AclEntry(principal=owner))
        result = stub("alice", "ModifyAcls", acl_pb2.ModifyAclsRequest(ids=[acl_id], changes=[give])).results[0]
        assert result.status.reason == "ACL_OWNER_UNKNOWN"

    def test_revoking_the_last_permission_removes_the_entry(self, stub):
        acl_id = str(uuid.uuid4())
        entry = acl_pb2.AclEntry(principal="authenticated", permissions=4)
        stub("alice", "CreateAcls", acl_pb2.CreateAclsRequest(acls=[acl_pb2.Acl(id=acl_id, entries=[entry])]))
        revoke = acl_pb2.AclChange(action=acl_pb2.AclChange.ACTION_REVOKE, entry=entry)
        result = stub("alice", "ModifyAcls", acl_pb2.ModifyAclsRequest(ids=[acl_id], changes=[revoke])).results[0]
        assert not result.acl.entries

    def test_repeating_a_creation_succeeds_and_other_content_is_a_conflict(self, stub):
        acl = acl_pb2.Acl(id=str(uuid.uuid4()), entries=[acl_pb2.AclEntry(principal="authenticated", permissions=4)])
        for _ in range(2):
            assert stub("alice", "CreateAcls", acl_pb2.CreateAclsRequest(acls=[acl])).statuses[0].code == 0
        other = acl_pb2.CreateAclsRequest(acls=[acl_pb2.Acl(id=acl.id)])
        assert stub("alice", "CreateAcls", other).statuses[0].reason == "ACL_EXISTS"

    def test_an_id_that_another_owner_took_is_told_from_ones_own_changed_acl(self, stub):
        acl = acl_pb2.Acl(id=str(uuid.uuid4()), entries=[acl_pb2.AclEntry(principal="authenticated", permissions=255)])
        assert stub("mallory", "CreateAcls", acl_pb2.CreateAclsRequest(acls=[acl])).statuses[0].code == 0
        assert stub("alice", "CreateAcls", acl_pb2.CreateAclsRequest(acls=[acl])).statuses[0].reason == "ACL_TAKEN"

    def test_more_entries_than_a_call_may_cost_are_refused_unread(self, stub):
        entry = acl_pb2.AclEntry(principal="dn:CN=x,O=MDM Test", permissions=4)
        acls = [acl_pb2.Acl(id=str(uuid.uuid4()), entries=[entry] * 300) for _ in range(40)]
        change = acl_pb2.AclChange(action=acl_pb2.AclChange.ACTION_GRANT, entry=entry)
        for method, request in (
            ("CreateAcls", acl_pb2.CreateAclsRequest(acls=acls)),
            ("ModifyAcls", acl_pb2.ModifyAclsRequest(ids=[acl.id for acl in acls], changes=[change] * 300)),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                stub("alice", method, request)
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT

    def test_nobody_creates_an_acl_for_somebody_else(self, stub):
        acl = acl_pb2.Acl(id=str(uuid.uuid4()), owner="CN=bob,O=MDM Test")
        assert stub("alice", "CreateAcls", acl_pb2.CreateAclsRequest(acls=[acl])).statuses[0].reason == "ACL_OWNER_FORBIDDEN"

    def test_one_bad_id_does_not_fail_the_others(self, stub):
        good = str(uuid.uuid4())
        stub("alice", "CreateAcls", acl_pb2.CreateAclsRequest(acls=[acl_pb2.Acl(id=good)]))
        answer = stub("alice", "GetAcls", acl_pb2.GetAclsRequest(ids=["nonsense", good]))
        assert [result.status.reason for result in answer.results] == ["ACL_ID_MALFORMED", ""]

    def test_one_bad_item_does_not_fail_the_batch(self, stub):
        good = acl_pb2.Acl(id=str(uuid.uuid4()))
        answer = stub("alice", "CreateAcls", acl_pb2.CreateAclsRequest(acls=[acl_pb2.Acl(id="nonsense"), good]))
        assert [status.reason for status in answer.statuses] == ["ACL_ID_MALFORMED", ""]
