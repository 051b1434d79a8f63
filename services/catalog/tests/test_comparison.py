"""Random operations by random callers: the service on PostgreSQL answers as a world of a few rules does."""

import uuid
from itertools import product
from operator import attrgetter

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, multiple, rule, run_state_machine_as_test
from mdm_catalog.__main__ import MIGRATIONS
from mdm_catalog.rules import replica as replica_rules
from mdm_catalog.rules.model import (
    AclAssignment,
    EntryKind,
    FileChange,
    NewDirectory,
    NewFile,
    NewLink,
    NewReplica,
    Removal,
    Renaming,
    ReplicaChange,
    ReplicaRemoval,
    ReplicaSearch,
    ReplicaStatus,
    Target,
)
from mdm_catalog.rules.namespace import creation, lookup
from mdm_catalog.rules.namespace.change import remove
from mdm_catalog.rules.namespace.listing import Listing, sum_up
from mdm_catalog.rules.subtree import modify_acls, report_access
from mdm_catalog.rules.value import MAX_SIZE, Condition, parse_replica
from mdm_catalog.store import bulk
from mdm_service.access.acl import ROOT_ACL_ID, AclChange, AclEdit, AclEntry, Action
from mdm_service.database import migrate

from services.catalog.tests.comparison import (
    ALICE,
    BITS,
    BOB,
    DIGESTS,
    ENTRIES,
    MOMENTS,
    MOST_REPLICAS,
    OWNER,
    PEOPLE,
    PRINCIPALS,
    REPLICAS,
    REVS,
    SIZES,
    P,
    Sides,
    answer,
    lfn,
    reason,
    target,
)
from services.catalog.tests.world import change, look, replica, subtree

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

GUIDS = [uuid.UUID(int=number) for number in range(1, 4)]
SURLS = [f"srm://h{number % 2}/{number}" for number in range(5)]
callers, paths, files, replicas, acls = Bundle("callers"), Bundle("paths"), Bundle("files"), Bundle("replicas"), Bundle("acls")
TARGETS = target(paths, files, replicas)
ACL = st.one_of(st.none(), acls)
NAMES = st.sampled_from(["a", "b", "b-"])
LINKS = st.one_of(paths.map(lfn), NAMES, NAMES.map("../{}".format), st.tuples(NAMES, NAMES).map("../{0[0]}/{0[1]}".format))

FILES = st.builds(
    lambda path, guid, acl, size, surl, how: NewFile(lfn(path), guid, size, b"", "new", acl, (parse_replica(surl, host="", **how),)),
    *(paths, files, ACL, st.none() | SIZES, replicas, st.fixed_dictionaries(REPLICAS)),
)
NEW_REPLICAS = st.builds(
    lambda file, surl, how: NewReplica(file, parse_replica(surl, host="", **how)), TARGETS, replicas, st.fixed_dictionaries(REPLICAS)
)
CHANGED_REPLICAS = st.builds(
    ReplicaChange,
    replicas,
    status=st.none() | REPLICAS["status"],
    type=st.none() | REPLICAS["kind"],
    set_name=st.none() | REPLICAS["set_name"],
    accesses=st.sampled_from([0, 0, 1, 5]),
    if_rev=REVS,
)
ATTRIBUTES = st.builds(
    FileChange,
    TARGETS,
    size=st.none() | SIZES,
    sha256=st.none() | DIGESTS,
    comment=st.none() | st.sampled_from(["", "c"]),
    if_rev=REVS,
    modify_time=st.none() | MOMENTS,
    access_time=st.none() | MOMENTS,
)
OF_FILES = st.one_of(ATTRIBUTES, NEW_REPLICAS, CHANGED_REPLICAS, st.builds(ReplicaRemoval, replicas))
OF_ENTRIES = st.one_of(
    st.builds(Renaming, TARGETS, paths.map(lfn), st.booleans()),
    st.builds(AclAssignment, TARGETS, acls, ACL),
    st.builds(Removal, TARGETS, st.booleans()),
)
OPERATIONS = st.one_of(
    st.builds(NewDirectory, paths.map(lfn), ACL, ACL),
    FILES,
    st.builds(NewLink, paths.map(lfn), LINKS, ACL),
    st.builds(FileChange, TARGETS, comment=st.sampled_from(["", "d"]), if_rev=REVS),
    OF_ENTRIES,
    OF_FILES,
)
DISTINCT = (attrgetter("lfn"), attrgetter("guid"), lambda file: file.replicas[0].surl)
DEPTHS = st.sampled_from([0, 1, 2])
BANNED = st.sampled_from([frozenset(), frozenset({BOB.dn})])
NEEDED = st.sampled_from([P.READ, P.WRITE | P.DELETE, P.TRAVERSE])
SEARCHES = st.builds(
    ReplicaSearch,
    st.sampled_from(["s", "t"]),
    st.sampled_from(["", "h0"]),
    st.sampled_from([frozenset(), frozenset({ReplicaStatus.AVAILABLE})]),
)
CONDITIONS = st.builds(
    Condition,
    name=st.sampled_from(["", "a", "b*"]),
    kinds=st.sampled_from([frozenset(), frozenset({EntryKind.FILE}), frozenset({EntryKind.DIRECTORY, EntryKind.SYMLINK})]),
    min_size=st.sampled_from([None, None, 1]),
)
ACL_CHANGES = st.one_of(
    st.builds(
        lambda action, principal, bits: AclChange(action, AclEntry(principal, bits)),
        st.sampled_from([Action.GRANT, Action.REVOKE, Action.SET]),
        st.sampled_from(PRINCIPALS),
        BITS,
    ),
    callers.map(lambda owner: AclChange(Action.SET_OWNER, AclEntry(f"dn:{owner.dn}", P.NONE))),
)


class Comparison(RuleBasedStateMachine):
    """A catalog that callers change and look at, and the world that says what each must be told."""

    connection: psycopg.Connection

    def __init__(self) -> None:
        super().__init__()
        self.sides = Sides(self.connection)
        self.world = self.sides.world

    @initialize(target=callers)
    def people(self):
        return multiple(*PEOPLE, OWNER, OWNER, OWNER)

    @initialize(target=paths)
    def names(self):
        return multiple((), ("a",), ("b",), ("a", "b"), ("a", "b-"), ("b", "a"), ("a", "b", "a"), ("a", "b", "b"), ("b", "a", "b-"))

    @initialize(target=files)
    def guids(self):
        return multiple(*GUIDS)

    @initialize(target=replicas)
    def surls(self):
        return multiple(*SURLS)

    @initialize(target=acls, entries=st.lists(ENTRIES, min_size=4, max_size=4))
    def lists(self, entries):
        return multiple(*map(self.sides.new_acl, (OWNER, OWNER, ALICE, BOB), entries))

    @initialize(of_each=st.lists(ENTRIES, min_size=6, max_size=6), generous=st.sampled_from([0, 1, 2, 6]))
    def somewhere_to_begin(self, of_each, generous):
        entries = [{"authenticated": P.ALL}] * generous + of_each
        for path, own, default in zip((("a",), ("a", "b"), ("b",)), entries[::2], entries[1::2], strict=False):
            directory = NewDirectory(lfn(path), self.sides.new_acl(OWNER, own), self.sides.new_acl(OWNER, default))
            self.sides.do(OWNER, directory)
        for path, guid, surl in zip((("a", "b", "a"), ("b", "a")), GUIDS, SURLS, strict=False):
            self.sides.do(OWNER, NewFile(lfn(path), guid, replicas=(parse_replica(surl, ReplicaStatus.AVAILABLE, ""),)))
        self.sides.do(OWNER, NewLink(lfn(("a", "b-")), "../b"))

    @rule(target=paths, who=callers, above=paths, name=NAMES, acl=ACL, default=ACL)
    def make_directory_and_those_above(self, who, above, name, acl, default):
        path = (*above[:3], name)
        wanted = NewDirectory(lfn(path), acl, default)
        [made] = self.sides.write(creation.make_directories, who, [wanted], parents=True)
        assert reason(made) == change.make_directory(self.world, who, wanted, parents=True)
        return path

    @rule(who=callers, wanted=st.lists(FILES, min_size=1, max_size=3, unique_by=DISTINCT))
    def register(self, who, wanted):
        expected = [self.sides.expected(who, file) for file in wanted]
        assert list(map(reason, self.sides.write(creation.register_files, who, wanted))) == expected

    @rule(who=callers, operations=st.lists(OPERATIONS, min_size=3, max_size=8))
    def operate(self, who, operations):
        for operation in operations:
            self.sides.do(who, operation)

    @rule(who=callers, operations=st.lists(OF_ENTRIES, min_size=2, max_size=4))
    def move_and_remove(self, who, operations):
        for operation in operations:
            self.sides.do(who, operation)

    @rule(who=callers, operations=st.lists(OF_FILES, min_size=1, max_size=5))
    def change_files(self, who, operations):
        for operation in operations:
            self.sides.do(who, operation)

    @rule(who=callers, wanted=st.lists(OPERATIONS, min_size=2, max_size=5, unique_by=type))
    def apply(self, who, wanted):
        # One of each kind: neighbours of a kind are a batch, whose order is its own.
        self.sides.do_all(who, wanted)

    @rule(who=callers, top=paths, pattern=st.sampled_from(["a", "b*", "*"]), recursive=st.booleans())
    def remove_by_pattern(self, who, top, pattern, recursive):
        found = look.found(self.world, who, lfn(top), Condition(name=pattern), 0)
        targets = [Target(lfn=lfn(path)) for path in found] if isinstance(found, list) else []
        expected = change.remove(self.world, who, targets, recursive=recursive)
        assert list(map(reason, self.sides.write(remove, who, targets, recursive=recursive))) == expected

    @rule(who=callers, top=TARGETS, changes=st.lists(ACL_CHANGES, min_size=1, max_size=2), shared=st.booleans())
    def change_subtree(self, who, top, changes, shared):
        before = subtree.lists(self.world, who, top)
        expected = subtree.modify(self.world, who, top, changes, shared=shared)
        edit = AclEdit(changes, self.sides.check_owner, shared)
        got = answer(lambda: self.sides.write(modify_acls, who, top, edit))
        if isinstance(got, str):
            assert got == expected
            return
        assert {item.acl_id: reason(after) for item, after in got[0]} == expected
        assert (before[1], {item.acl_id: after.rev for item, after in got[0] if not reason(after)}) == (
            got[1],
            {acl: self.world.acls[acl].rev for acl, refused in expected.items() if not refused},
        )

    @rule(who=callers, what=TARGETS, top=paths, needed=NEEDED, search=SEARCHES, condition=CONDITIONS, depth=DEPTHS, banned=BANNED)
    def look_around(self, who, what, top, needed, search, condition, depth, banned):
        self.world.banned = banned
        self._stat(who, [what], follow=depth != 1)
        self._resolve(who, [what])
        self._check_access(who, what, needed)
        self._report(who, what, needed)
        self._replicas(who, what, search)
        self._list(who, top, depth)
        self._sum_up(who, top)
        searching = Listing(self.sides.store, who, depth=depth, with_replicas=False, condition=condition)
        found = answer(lambda: list(searching.batches(lfn(top), None)))
        expected = look.found(self.world, who, lfn(top), condition, depth)
        got = found if isinstance(found, str) else [view.lfn for batch in found for view in batch]
        assert got == (expected if isinstance(expected, str) else [lfn(path) for path in expected])

    def _stat(self, who, what, *, follow):
        for named, seen in zip(what, self.sides.read(lookup.stat, who, what, with_replicas=True, follow=follow), strict=True):
            path = self.world.find(who, named, follow=follow)
            assert reason(seen) == self.world.may_see(who, path)
            if not reason(seen):
                self.sides.compare_view(who, path, path, seen)

    def _resolve(self, who, what):
        for named, read in zip(what, self.sides.read(lookup.resolve, who, what), strict=True):
            path = self.world.find(who, named)
            assert reason(read) == self.world.may_with_file(who, path, P.READ)
            if not reason(read):
                available = [each.surl for each in self.world.things[path].replicas.values() if each.status is ReplicaStatus.AVAILABLE]
                assert (read.lfn, list(read.surls), read.size) == (lfn(path), available, self.world.things[path].size)

    def _check_access(self, subject, what, needed):
        [got] = lookup.check_access(self.sides.store, self.sides, subject.dn, [what], needed)
        allowed = self.world.may_with_file(subject, self.world.find(subject, what), needed)
        assert reason(got) == ("SUBJECT_BANNED" if subject.dn in self.world.banned else allowed)

    def _report(self, who, what, needed):
        expected = subtree.report(self.world, who, what, needed, PEOPLE, self.sides.named)
        got = answer(lambda: self.sides.read(report_access, who, what, needed, self.sides))
        if isinstance(got, str) or isinstance(expected, str):
            assert got == expected
            return
        holders = {holder.subject: (holder.files, set(holder.by)) for holder in got.holders}
        assert (got.files, got.hidden, holders) == (expected.files, expected.hidden, expected.holders)

    def _replicas(self, who, what, search):
        found = [item for batch in replica_rules.find(self.sides.store, who, search, "") for item in batch]
        expected = [(lfn(path), surl) for path, surl in replica.search(self.world, who, search)]
        assert [(item.lfn, item.replicas[0].surl) for item in found] == expected
        [got] = self.sides.read(replica_rules.list_of, who, [what])
        listed = replica.list_of(self.world, who, what)
        if isinstance(listed, str):
            assert reason(got) == listed
        else:
            assert (got.lfn, [each.surl for each in got.replicas]) == (lfn(listed[0]), [each.surl for each in listed[1]])

    def _list(self, who, top, depth):
        expected = look.listing(self.world, who, lfn(top), int(depth != 0))
        listing = Listing(self.sides.store, who, depth=int(depth != 0), with_replicas=True)
        batches = answer(lambda: list(listing.batches(lfn(top), None)))
        if isinstance(batches, str) or isinstance(expected, str):
            assert batches == expected
            return
        views = [view for batch in batches for view in batch]
        assert [view.lfn for view in views] == [lfn(shown) for shown, _ in expected]
        for (shown, path), view in zip(expected, views, strict=True):
            self.sides.compare_view(who, shown, path, view)
        if len(views) > 1:
            middle = len(views) // 2
            rest = listing.batches(lfn(top), views[middle].lfn)
            assert [view.lfn for batch in rest for view in batch] == [view.lfn for view in views[middle + 1 :]]

    def _sum_up(self, who, top):
        expected = look.usage(self.world, who, lfn(top))
        usage = answer(lambda: self.sides.read(sum_up, who, lfn(top), 0)[0])
        if isinstance(usage, str) or isinstance(expected, str):
            assert usage == expected
            return
        files, directories, links, size, closed = expected
        assert (usage.files, usage.directories, usage.links, usage.closed) == (files, directories, links, closed)
        assert usage.bytes == min(size, MAX_SIZE)

    def _probe(self):
        """Compare what everybody could do with everything: each operation in a transaction that fails by its end."""
        for number, (who, path) in enumerate(product(PEOPLE, sorted(self.world.things))):
            there, inside = Target(lfn=lfn(path)), lfn((*path, "new"))
            probes = (
                Renaming(there, lfn(("b", "b-")), True),
                NewFile(inside, uuid.UUID(int=9)),
                AclAssignment(there, ROOT_ACL_ID),
                NewDirectory(inside),
                Removal(there, False),
            )
            fails = FileChange(Target(guid=uuid.UUID(int=8)), comment="")
            for probe in (Removal(there, True), probes[number % len(probes)]):
                self.sides.do_all(who, [probe, fails])

    def teardown(self):
        """At the end everybody sees the world as it is, by every name of everything, and the database's own sums are right."""
        everything = [Target(lfn=lfn(path)) for path in self.world.things] + [Target(guid=guid) for guid in GUIDS]
        for who in PEOPLE:
            self._stat(who, everything, follow=False)
            self._stat(who, everything, follow=True)
            self._resolve(who, everything)
            self._sum_up(who, ())
            self._list(who, (), 0)
            for path, thing in self.world.things.items():
                if thing.kind is not EntryKind.FILE:
                    self._list(who, path, 1)
        self._probe()
        assert self.sides.count_of_entries() == len(self.world.things) - 1
        with self.connection.transaction():
            assert (bulk.miscounted(self.connection), bulk.unreachable(self.connection)) == ([], [])


def test_the_service_answers_as_the_world_of_rules_does(database, monkeypatch):
    for module in (creation, replica_rules):
        monkeypatch.setattr(module, "MAX_REPLICAS", MOST_REPLICAS)
    migrate(database.conninfo, MIGRATIONS)
    with psycopg.connect(database.conninfo) as Comparison.connection:
        checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
        chosen = settings(max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=checks)
        run_state_machine_as_test(Comparison, settings=chosen)
