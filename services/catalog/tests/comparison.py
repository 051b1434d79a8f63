"""The two sides of the comparison: the service on one connection to PostgreSQL, and the world that says what it must answer."""

import copy
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
from hypothesis import strategies as st
from mdm_catalog.rules import replica as replica_rules
from mdm_catalog.rules.model import (
    ROOT_ID,
    AclAssignment,
    EntryKind,
    EntryView,
    FileChange,
    NewDirectory,
    NewFile,
    NewLink,
    NewReplica,
    Removal,
    Renaming,
    Replica,
    ReplicaChange,
    ReplicaRemoval,
    ReplicaStatus,
    ReplicaType,
    Target,
)
from mdm_catalog.rules.namespace import creation
from mdm_catalog.rules.namespace.change import assign_acls, remove, rename, set_attributes
from mdm_catalog.rules.transaction import Failed, apply
from mdm_catalog.store.store import PostgresStore
from mdm_service.access import store as acl_store
from mdm_service.access.acl import ROOT_ACL_ID, Acl, AclEntry
from mdm_service.identity.caller import Caller
from mdm_service.policy import OPERATOR
from mdm_wire.errors import MdmError, Unauthenticated
from mdm_wire.path import Lfn
from mdm_wire.permission import Permission

from services.catalog.tests.world import change, replica
from services.catalog.tests.world.access import NOW, OK, AccessList, Path, Thing, World

P = Permission
OWNER, ALICE, BOB = Caller("CN=owner"), Caller("CN=alice", frozenset({"/g"})), Caller("CN=bob", frozenset({"/h"}))
AUDITOR = Caller("CN=auditor", frozenset(), frozenset({OPERATOR}))
PEOPLE = (ALICE, AUDITOR, BOB, OWNER)
PRINCIPALS = ["dn:CN=alice", "group:/g", "dn:CN=bob", "group:/h", "authenticated"]
MOST_REPLICAS = 3  # instead of a hundred
EVERYTHING = Acl(ROOT_ACL_ID, OWNER.dn, (AclEntry("authenticated", P.TRAVERSE | P.LIST),))

BITS = st.one_of(
    st.just(P.ALL),
    st.integers(0, 255).map(lambda bits: P(bits) | P.TRAVERSE | P.LIST),
    st.integers(0, 255).map(lambda bits: P(bits) | P.TRAVERSE),
    st.integers(0, 255).map(P),
)
ENTRIES = st.dictionaries(st.sampled_from(PRINCIPALS), BITS.filter(bool), max_size=3)
MOMENTS = st.sampled_from([datetime(1999, 12, 31, tzinfo=UTC), datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)])
SIZES = st.sampled_from([0, 7, 2**62])
DIGESTS = st.sampled_from([b"", b"d" * 32])
REVS = st.sampled_from([None, None, 1, 2])
REPLICAS = {"status": st.sampled_from(ReplicaStatus), "kind": st.sampled_from(ReplicaType), "set_name": st.sampled_from(["", "s", "t"])}


def lfn(path: Path) -> Lfn:
    """Return a path as text."""
    return Lfn("/" + "/".join(path))


def reason(outcome: object) -> str:
    """Return the reason of a refusal, nothing for anything else."""
    return outcome.reason if isinstance(outcome, MdmError) else OK


def answer(call: Callable[[], Any]) -> Any:
    """Return what a call returns, or the reason of what it raises."""
    try:
        return call()
    except MdmError as error:
        return error.reason


class _OnePool:
    """The part of a connection pool that a store uses, with one connection and no thread."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection]:
        """Lend the connection for a transaction."""
        try:
            yield self._connection
        except BaseException:
            self._connection.rollback()
            raise
        self._connection.commit()


class Sides:
    """Service and world, which begin with nothing but a root."""

    def __init__(self, connection: psycopg.Connection) -> None:
        with connection.transaction():
            connection.execute("TRUNCATE replica, entry, directory_content, acl_entry, acl")
        self.connection = connection
        self.store = PostgresStore(_OnePool(connection))  # type: ignore[arg-type]
        self.store.ensure_root(EVERYTHING)
        root = Thing(EntryKind.DIRECTORY, ROOT_ACL_ID, ROOT_ACL_ID)
        entries = {entry.principal: entry.permissions for entry in EVERYTHING.entries}
        self.world = World({ROOT_ACL_ID: AccessList(OWNER.dn, entries)}, {(): root})

    def read(self, rule: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Return what a rule of the service finds on a view of its own."""
        return self.store.read(lambda reading: rule(reading, *arguments, **options))

    def write(self, rule: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Return what a rule of the service does in a transaction of its own."""
        return self.store.write(lambda writing: rule(writing, *arguments, **options))

    # What the service knows of people.
    def caller_for(self, subject: str) -> Caller:
        if subject in self.world.banned:
            raise Unauthenticated("SUBJECT_BANNED", "banned")
        return next((person for person in PEOPLE if person.dn == subject), Caller(subject))

    def check_owner(self, subject: str) -> None:
        """Everyone here can come."""

    def members_of(self, group: str) -> Sequence[str]:
        return [person.dn for person in PEOPLE if group in person.groups]

    def named(self, acls: set[uuid.UUID]) -> set[str]:
        """Return everyone whom access lists name, alone or by a group."""
        found = {self.world.acls[acl].owner for acl in acls}
        for principal in (principal for acl in acls for principal in self.world.acls[acl].entries):
            kind, _, value = principal.partition(":")
            found |= {value} if kind == "dn" else set(self.members_of(value))
        return found

    def new_acl(self, owner: Caller, entries: dict[str, P]) -> uuid.UUID:
        """Make an access list on both sides."""
        acl = Acl(uuid.uuid4(), owner.dn, tuple(AclEntry(principal, bits) for principal, bits in entries.items()))
        acl_store.insert(self.connection, acl)
        self.connection.commit()
        self.world.acls[acl.id] = AccessList(owner.dn, dict(entries))
        return acl.id

    def do(self, who: Caller, wanted: Any) -> None:
        """Let both sides do one operation, and compare what they say."""
        [got] = self._call(who, wanted)
        assert (wanted, reason(got)) == (wanted, self.expected(who, wanted))

    def do_all(self, who: Caller, wanted: Sequence[Any]) -> None:
        """Let both sides do operations wholly or not at all."""
        before = copy.deepcopy(self.world.things)
        expected = None
        for index, operation in enumerate(wanted):
            if refused := self.expected(who, operation):
                self.world.things = before
                expected = (index, refused)
                break
        failed = None
        try:
            self.write(apply, who, wanted)
        except Failed as failure:
            failed = (failure.index, failure.error.reason)
        assert (wanted, failed) == (wanted, expected)

    def expected(self, who: Caller, wanted: Any) -> str:
        """Let the world do an operation; return what it says."""
        rules: dict[type, Callable[..., str]] = {
            NewDirectory: change.make_directory,
            NewLink: change.make_link,
            Renaming: change.rename,
            Removal: change.removal,
            FileChange: change.set_attributes,
            AclAssignment: change.assign,
            ReplicaChange: replica.change,
            ReplicaRemoval: replica.remove,
            NewFile: lambda *items: change.register(*items, MOST_REPLICAS),
            NewReplica: lambda *items: replica.add(*items, MOST_REPLICAS),
        }
        return rules[type(wanted)](self.world, who, wanted)

    def _call(self, who: Caller, wanted: Any) -> list[MdmError | None]:
        calls: dict[type, Callable[..., list[MdmError | None]]] = {
            NewDirectory: lambda items: self.write(creation.make_directories, who, items, parents=False),
            NewFile: lambda items: self.write(creation.register_files, who, items),
            NewLink: lambda items: self.write(creation.make_links, who, items),
            Renaming: lambda items: self.write(rename, who, items),
            Removal: lambda items: self.write(remove, who, [items[0].target], recursive=items[0].recursive),
            FileChange: lambda items: self.write(set_attributes, who, items),
            AclAssignment: lambda items: self.write(assign_acls, who, items),
            NewReplica: lambda items: self.write(replica_rules.add, who, items),
            ReplicaChange: lambda items: self.write(replica_rules.change, who, items),
            ReplicaRemoval: lambda items: self.write(replica_rules.remove, who, [items[0].surl]),
        }
        return calls[type(wanted)]([wanted])

    def compare_view(self, who: Caller, shown: Path, path: Path, view: EntryView) -> None:
        """Compare all that the service tells of an entry."""
        thing, entry = self.world.things[path], view.entry
        assert (view.lfn, view.permissions) == (lfn(shown), self.world.held(who, thing.acl))
        owner = self.world.acls[thing.acl].owner
        assert (entry.kind, entry.owner, entry.acl_id, entry.default_acl_id) == (thing.kind, owner, thing.acl, thing.default)
        assert (entry.guid, entry.size, entry.sha256, entry.comment) == (thing.guid, thing.size, thing.sha256, thing.comment)
        assert (entry.link, entry.rev) == (thing.link, thing.rev)
        for time, expected in ((entry.modify_time, thing.modified), (entry.access_time, thing.accessed)):
            assert time == expected if expected != NOW else (datetime.now(UTC) - time).total_seconds() < 600
        assert [_known(copy_) for copy_ in view.replicas] == [_known(copy_) for copy_ in thing.replicas.values()]

    def count_of_entries(self) -> int:
        """Return how many entries there are, the root left out."""
        row = self.connection.execute("SELECT count(*) FROM entry WHERE id <> %s", (ROOT_ID,)).fetchone()
        self.connection.commit()
        return row[0]


def _known(copy_: Replica) -> tuple[object, ...]:
    return (copy_.surl, copy_.status, copy_.host, copy_.type, copy_.set_name, copy_.access_count, copy_.rev)


def target(names: st.SearchStrategy[Path], guids: st.SearchStrategy[uuid.UUID], surls: st.SearchStrategy[str]) -> st.SearchStrategy[Target]:
    """Return what a caller may name, mostly by path."""
    by_path = names.map(lambda path: Target(lfn=lfn(path)))
    return st.one_of(by_path, by_path, guids.map(lambda guid: Target(guid=guid)), surls.map(lambda surl: Target(surl=surl)))
