"""What the service remembers of a query never outlives what it was right for: the same text, asked again after each kind of change."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from mdm.acl.v1 import acl_pb2
from mdm.metadata.v1 import metadata_pb2 as pb

pytestmark = pytest.mark.integration

READ, LIST = 4, 32
SHORT = 'SELECT entry, n FROM "/kept" WHERE n >= 0 ORDER BY entry LIMIT 100'
LONG = 'SELECT entry, n FROM "/kept" WHERE n >= 0 ORDER BY entry'
BOTH = [SHORT, LONG]


@pytest.fixture
def kept(service):
    """`/kept` of the loader, which alice may read, with two entries; both queries were asked by both."""
    loader, alice = service.client("loader"), service.client("alice")
    acl = loader.acl({f"dn:{alice.dn}": READ | LIST})
    loader.create(pb.Collection(path="/kept", attributes=[service.attribute("n", "INT")], acl_id=acl, default_acl_id=acl))
    loader.upsert("/kept", service.entry("a", n=1), service.entry("b", n=2))
    for client in (loader, alice):
        for sql in BOTH:
            assert client.rows(sql) == [("a", 1), ("b", 2)]
    service.acl_id = acl
    return service


def refused(service: Any, client: Any, sql: str) -> str:
    with pytest.raises(service.failed) as raised:
        client.rows(sql)
    return raised.value.reason


@pytest.mark.parametrize("sql", BOTH)
def test_a_right_that_is_taken_away_is_missed_at_once(kept, sql):
    loader, alice = kept.client("loader"), kept.client("alice")
    nobody = loader.acl({})
    loader.alter("/kept", acls=pb.CollectionAcls(acl_id=nobody))
    assert refused(kept, alice, sql) == "COLLECTION_NOT_FOUND"
    loader.alter("/kept", acls=pb.CollectionAcls(acl_id=kept.acl_id))
    assert alice.rows(sql) == [("a", 1), ("b", 2)]


@pytest.mark.parametrize("sql", BOTH)
def test_an_access_list_that_changes_counts_at_once(kept, sql):
    loader, alice = kept.client("loader"), kept.client("alice")
    entry = acl_pb2.AclEntry(principal=f"dn:{alice.dn}", permissions=READ)
    revoke = acl_pb2.AclChange(action=acl_pb2.AclChange.ACTION_REVOKE, entry=entry)
    response = loader.acls.ModifyAcls(acl_pb2.ModifyAclsRequest(ids=[kept.acl_id], changes=[revoke], shared=True), timeout=30)
    assert response.results[0].status.code == 0
    assert refused(kept, alice, sql) == "COLLECTION_NOT_FOUND"
    assert loader.rows(sql) == [("a", 1), ("b", 2)]


@pytest.mark.parametrize("sql", BOTH)
def test_an_entry_that_is_hidden_is_hidden_at_once(kept, sql):
    loader, alice = kept.client("loader"), kept.client("alice")
    assert loader.call("AssignAcls", _assignment("b", loader.acl({}))).statuses[0].code == 0
    assert alice.rows(sql) == [("a", 1)]


@pytest.mark.parametrize("sql", BOTH)
def test_an_attribute_that_is_renamed_removed_or_indexed_is_noticed(kept, sql):
    loader, alice = kept.client("loader"), kept.client("alice")
    loader.alter("/kept", change_attribute=pb.AttributeChange(name="n", indexed=True))
    assert alice.rows(sql) == [("a", 1), ("b", 2)]
    loader.alter("/kept", change_attribute=pb.AttributeChange(name="n", new_name="m"))
    assert refused(kept, alice, sql) == "ATTRIBUTE_UNKNOWN"
    loader.alter("/kept", add_attribute=kept.attribute("n", "INT"))
    assert alice.rows(sql) == []
    loader.alter("/kept", remove_attribute="n")
    assert refused(kept, alice, sql) == "ATTRIBUTE_UNKNOWN"


@pytest.mark.parametrize("sql", BOTH)
def test_another_collection_at_the_path_is_another_collection(kept, sql):
    loader, alice = kept.client("loader"), kept.client("alice")
    assert loader.call("DropCollections", pb.DropCollectionsRequest(paths=["/kept"])).statuses[0].code == 0
    assert refused(kept, alice, sql) == "COLLECTION_NOT_FOUND"
    loader.create(pb.Collection(path="/KEPT", attributes=[kept.attribute("n", "FLOAT")], acl_id=kept.acl_id, default_acl_id=kept.acl_id))
    loader.upsert("/kept", kept.entry("c", n=0.5))
    assert alice.rows(sql) == [("c", 0.5)]


def test_who_may_only_count_is_not_given_what_others_are(kept):
    loader, alice = kept.client("loader"), kept.client("alice")
    count = 'SELECT COUNT(*) FROM "/kept" LIMIT 1'
    assert alice.rows(count) == [(2,)]
    counting = loader.acl({f"dn:{alice.dn}": LIST})
    loader.alter("/kept", acls=pb.CollectionAcls(acl_id=counting))
    loader.alter("/kept", min_cell=2)
    assert alice.rows(count) == [(2,)]
    loader.alter("/kept", min_cell=3)
    assert alice.rows(count) == []
    assert refused(kept, alice, SHORT) == "QUERY_COUNTS_ONLY"


def test_each_caller_has_its_own_answer(kept):
    loader, alice, mallory = (kept.client(name) for name in ("loader", "alice", "mallory"))
    loader.call("AssignAcls", _assignment("a", loader.acl({})))
    for _ in range(3):
        assert loader.rows(SHORT) == [("a", 1), ("b", 2)]
        assert alice.rows(SHORT) == [("b", 2)]
        assert refused(kept, mallory, SHORT) == "COLLECTION_NOT_FOUND"


@pytest.mark.parametrize("end", ["", "LIMIT 10", "ORDER BY n LIMIT 10", "LIMIT 1001"])
def test_a_query_that_is_allowed_no_more_is_not_run(kept, end):
    """A division by zero in what a caller may read no more is no error of its query."""
    loader, alice = kept.client("loader"), kept.client("alice")
    sql = f'SELECT 1 / n FROM "/kept" WHERE n > 0 OR TRUE {end}'
    for _ in range(12):  # until PostgreSQL has a plan for all values
        assert alice.rows(sql) == [(1,), (0,)]
    loader.upsert("/kept", kept.entry("zero", n=0))
    loader.alter("/kept", acls=pb.CollectionAcls(acl_id=loader.acl({})))
    assert refused(kept, alice, sql) == "COLLECTION_NOT_FOUND"


class Changing(RuleBasedStateMachine):
    """Rights and schema change between queries; each answer is what they say at that moment."""

    service: Any

    @initialize()
    def make(self) -> None:
        loader, alice = self.service.client("loader"), self.service.client("alice")
        loader.call("DropCollections", pb.DropCollectionsRequest(paths=["/kept"]))
        self.acls = [loader.acl({f"dn:{alice.dn}": bits}) for bits in (READ | LIST, LIST, 0)]
        attributes = [self.service.attribute("n", "INT")]
        assert loader.create(pb.Collection(path="/kept", attributes=attributes, acl_id=self.acls[0], default_acl_id=self.acls[0])) == [""]
        loader.upsert("/kept", *(self.service.entry(key, n=number) for number, key in enumerate("abcd")))
        self.guarded, self.cell, self.name = 0, 0, "n"
        self.entries = dict.fromkeys("abcd", 0)

    @rule(acl=st.integers(0, 2))
    def guard(self, acl: int) -> None:
        self.service.client("loader").alter("/kept", acls=pb.CollectionAcls(acl_id=self.acls[acl]))
        self.guarded = acl

    @rule(acl=st.integers(0, 2), key=st.sampled_from("abcd"))
    def guard_entry(self, acl: int, key: str) -> None:
        self.service.client("loader").call("AssignAcls", _assignment(key, self.acls[acl]))
        self.entries[key] = acl

    @rule(size=st.sampled_from([0, 2, 3]))
    def blur(self, size: int) -> None:
        self.service.client("loader").alter("/kept", min_cell=size)
        self.cell = size

    @rule(indexed=st.booleans())
    def index(self, indexed: bool) -> None:
        self.service.client("loader").alter("/kept", change_attribute=pb.AttributeChange(name=self.name, indexed=indexed))

    @rule(name=st.sampled_from("nm"))
    def rename(self, name: str) -> None:
        if name != self.name:
            self.service.client("loader").alter("/kept", change_attribute=pb.AttributeChange(name=self.name, new_name=name))
        self.name = name

    @rule(sql=st.sampled_from(BOTH), name=st.sampled_from(["loader", "alice"]))
    def ask(self, sql: str, name: str) -> None:
        owner = name == "loader"
        if (not owner and self.guarded == 2) or (not owner and self.guarded == 1 and not self.cell):
            expected: Any = "COLLECTION_NOT_FOUND"
        elif self.name != "n":
            expected = "ATTRIBUTE_UNKNOWN"
        elif not owner and self.guarded == 1:
            expected = "QUERY_COUNTS_ONLY"
        else:
            expected = [(key, number) for number, key in enumerate("abcd") if owner or self.entries[key] == 0]
        assert self._answer(name, sql) == expected

    @rule(end=st.sampled_from(["", "LIMIT 1"]))
    def count(self, end: str) -> None:
        counted = sum(acl <= self.guarded for acl in self.entries.values())
        if self.guarded == 0:
            expected: Any = [(counted,)]
        elif self.guarded == 1 and self.cell:
            expected = [(counted // self.cell * self.cell,)] if counted >= self.cell else []
        else:
            expected = "COLLECTION_NOT_FOUND"
        assert self._answer("alice", f'SELECT COUNT(*) FROM "/kept" {end}') == expected

    def _answer(self, name: str, sql: str) -> Any:
        try:
            return self.service.client(name).rows(sql)
        except self.service.failed as error:
            return error.reason


def test_an_answer_never_depends_on_what_was_asked_before(service):
    class Here(Changing):
        pass

    Here.service = service
    run_state_machine_as_test(Here, settings=settings(max_examples=25, stateful_step_count=20, deadline=None))


def _assignment(key: str, acl: str) -> pb.AssignAclsRequest:
    return pb.AssignAclsRequest(assignments=[pb.AclAssignment(collection="/kept", key=key, acl_id=acl)])
