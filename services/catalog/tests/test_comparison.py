"""Random operations by random callers, compared with a model of a few lines that keeps everything in a dictionary."""

import itertools
import uuid
from dataclasses import dataclass, field

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mdm_catalog.__main__ import MIGRATIONS
from mdm_catalog.model import NewDirectory, NewFile, Target
from mdm_catalog.path import Lfn, names, split
from mdm_catalog.service import CatalogService
from mdm_catalog.store import PostgresStore
from mdm_service import acl_store
from mdm_service.acl import Acl, AclEntry, Permission
from mdm_service.acl_settings import ROOT_ACL_ID
from mdm_service.database import migrate
from mdm_service.errors import MdmError
from mdm_service.identity import Caller
from psycopg_pool import ConnectionPool

pytestmark = pytest.mark.integration

OWNER = Caller("CN=owner")
CALLERS = [OWNER, Caller("CN=alice", frozenset({"/g"})), Caller("CN=bob")]
PRINCIPALS = ["dn:CN=alice", "group:/g", "dn:CN=bob", "authenticated"]
NAMES = ["a", "b", "b-"]
FORBIDDEN, ABSENT, TAKEN, FULL, OK = 7, 5, 6, 9, 0
P = Permission

PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
BITS = st.one_of(
    st.just(int(P.ALL)),
    st.builds(lambda bits: bits | int(P.TRAVERSE | P.LIST), st.integers(0, 255)),
    st.builds(lambda bits: bits | int(P.TRAVERSE), st.integers(0, 255)),
    st.integers(0, 255),
)
ACLS = st.lists(st.dictionaries(st.sampled_from(PRINCIPALS), BITS, max_size=3), min_size=3, max_size=3)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("mkdir"), st.sampled_from([0, 0, 1, 2]), PATHS, st.sampled_from([None, 0, 1, 2]), st.booleans()),
        st.tuples(st.just("register"), st.sampled_from([0, 0, 1, 2]), PATHS, st.sampled_from([None, 0, 1, 2])),
        st.tuples(st.just("remove"), st.integers(0, 2), PATHS, st.booleans()),
        st.tuples(st.just("look"), st.integers(1, 2), PATHS),
    ),
    max_size=25,
)


@dataclass
class Thing:
    """An entry of the model."""

    directory: bool
    acl: int
    default: int


@dataclass
class Model:
    """The rules, said again as simply as possible; paths are tuples of names below a top directory `()`."""

    acls: list[dict[str, int]]
    things: dict[tuple[str, ...], Thing] = field(default_factory=dict)

    def held(self, who: Caller, acl: int) -> Permission:
        if who is OWNER:
            return P.ALL
        bits = 0
        for principal, granted in self.acls[acl].items():
            bits |= granted if principal in who.principals else 0
        return P(bits)

    def visible(self, who, path) -> bool:
        above = path == () or bool(self.held(who, self.things[path[:-1]].acl) & P.LIST)
        return above or bool(self.held(who, self.things[path].acl) & P.GET)

    def way(self, who, path) -> int:
        """Code of getting through every directory above `path`."""
        for depth in range(len(path)):
            directory = path[:depth]
            if directory not in self.things or not self.things[directory].directory:
                return ABSENT
            if not self.held(who, self.things[directory].acl) & P.TRAVERSE:
                return FORBIDDEN if self.visible(who, directory) else ABSENT
        return OK

    def may(self, who, path, needed) -> int:
        code = self.way(who, path)
        if code or path not in self.things:
            return code or ABSENT
        held = self.held(who, self.things[path].acl)
        if held & needed == needed:
            return OK
        return FORBIDDEN if self.visible(who, path) else ABSENT

    def may_make(self, who, path) -> int:
        code = self.way(who, path)
        if code or self.held(who, self.things[path[:-1]].acl) & P.WRITE:
            return code
        return FORBIDDEN if self.visible(who, path[:-1]) else ABSENT

    def look(self, who, path) -> int:
        return self.way(who, path) or (OK if path in self.things and self.visible(who, path) else ABSENT)

    def make(self, who, path, acl, *, directory, parents=False) -> int:
        if parents and len(path) > 1 and self.way(who, path) == ABSENT:
            missing = next((path[:d] for d in range(1, len(path)) if path[:d] not in self.things), None)
            if missing is not None and self.way(who, missing) == OK:
                code = self.make(who, missing, None, directory=True)
                if code:
                    return code
                return self.make(who, path, acl, directory=True, parents=True)
            blocking = next(
                (path[:d] for d in range(1, len(path)) if path[:d] in self.things and not self.things[path[:d]].directory), None
            )
            if blocking is not None and self.way(who, blocking) == OK:
                code = self.may_make(who, blocking)
                return code if code and not self.visible(who, blocking) else TAKEN
        code = self.way(who, path)
        if code:
            return code
        code = self.may_make(who, path)
        if path in self.things:
            if not directory:  # a file's ACL is looked at before its name, so that a whole batch needs one look each
                return code or (ABSENT if acl is not None and not self.held(who, acl) & P.CHANGE_ACL else TAKEN)
            if code and not self.visible(who, path):
                return code
            return OK if parents and self.things[path].directory else TAKEN
        if code:
            return code
        if acl is not None and not self.held(who, acl) & P.CHANGE_ACL:
            return ABSENT
        inherited = self.things[path[:-1]].default
        self.things[path] = Thing(directory, inherited if acl is None else acl, inherited if acl is None else acl)
        return OK

    def remove(self, who, path, recursive) -> int:
        code = self.may(who, path, P.DELETE)
        if code:
            return code
        if self.may_make(who, path):
            return FORBIDDEN if self.visible(who, path) else ABSENT
        below = [other for other in self.things if len(other) > len(path) and other[: len(path)] == path]
        if below and not recursive:
            return FULL
        wanted = P.WRITE | P.TRAVERSE
        for other in below:
            if self.held(who, self.things[other[:-1]].acl) & wanted != wanted or not self.held(who, self.things[other].acl) & P.DELETE:
                return FORBIDDEN
        for other in [path, *below]:
            del self.things[other]
        return OK

    def listing(self, who, top, recursive):
        held = self.held(who, self.things[top].acl)
        for path in sorted(other for other in self.things if len(other) == len(top) + 1 and other[:-1] == top):
            yield path
            thing = self.things[path]
            if recursive and thing.directory and held & P.TRAVERSE and self.held(who, thing.acl) & P.LIST:
                yield from self.listing(who, path, recursive)


def _code(outcome) -> int:
    return outcome.code if isinstance(outcome, MdmError) else OK


@pytest.fixture
def service(database):
    migrate(database.conninfo, MIGRATIONS)
    with ConnectionPool(database.conninfo, min_size=1, max_size=2, open=True) as pool:
        store = PostgresStore(pool)
        store.ensure_root(Acl(ROOT_ACL_ID, OWNER.dn, (AclEntry("authenticated", P.TRAVERSE | P.LIST),)))
        yield CatalogService(store, _Nobody())


class _Nobody:
    """People of whom nothing is known."""

    def caller_for(self, subject):
        return Caller(subject)

    def members_of(self, group):
        return ()


_tops = itertools.count()


@settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(ACLS, OPERATIONS)
def test_the_service_decides_as_the_model_does(service, database, acls, operations):
    ids = [uuid.uuid4() for _ in acls]
    with psycopg.connect(database.conninfo) as connection:
        for acl_id, entries in zip(ids, acls, strict=True):
            held = (AclEntry(principal, P(bits)) for principal, bits in entries.items() if bits)
            acl_store.insert(connection, Acl(acl_id, OWNER.dn, tuple(held)))
    top = f"/top{next(_tops)}"
    model = Model(acls, {(): Thing(True, 0, 0)})
    assert service.make_directories(OWNER, [NewDirectory(Lfn(top), ids[0])], parents=False) == [None]
    for operation in operations:
        _apply(service, model, ids, top, operation)
    depth = len(names(Lfn(top)))
    for who in CALLERS:
        for start in [path for path, thing in model.things.items() if thing.directory]:
            _compare_listing(service, model, who, top, start, depth)


def _apply(service, model, ids, top, operation) -> None:
    kind, who, relative, *rest = operation
    caller, path, lfn = CALLERS[who], tuple(relative.split("/")), Lfn(f"{top}/{relative}")
    # The top directory stands in a listable root, so that, as in the model, everybody knows of it.
    if kind == "mkdir":
        acl, parents = rest
        [got] = service.make_directories(caller, [NewDirectory(lfn, None if acl is None else ids[acl])], parents=parents)
        assert _code(got) == model.make(caller, path, acl, directory=True, parents=parents), operation
    elif kind == "register":
        [acl] = rest
        [got] = service.register_files(caller, [NewFile(lfn, uuid.uuid4(), acl_id=None if acl is None else ids[acl])])
        assert _code(got) == model.make(caller, path, acl, directory=False), operation
    elif kind == "remove":
        [got] = service.remove(caller, [Target(lfn=lfn)], recursive=rest[0])
        assert _code(got) == model.remove(caller, path, rest[0]), operation
    else:
        [seen] = service.stat(caller, [Target(lfn=lfn)], with_replicas=False)
        assert _code(seen) == model.look(caller, path), operation
        [read] = service.resolve(caller, [Target(lfn=lfn)])
        expected = model.may(caller, path, P.READ)
        assert _code(read) == (3 if not expected and model.things[path].directory else expected), operation


def _compare_listing(service, model, who, top, start, depth) -> None:
    lfn = Lfn("/".join((top, *start)))
    for recursive in (False, True):
        try:
            batches = list(service.listing(who, lfn, recursive=recursive, with_replicas=False, after=None))
        except MdmError as error:
            assert error.code == (model.may(who, start, P.LIST) or model.look(who, start))
            continue
        given_paths = [view.lfn for batch in batches for view in batch]
        assert [names(path)[depth:] for path in given_paths] == list(model.listing(who, start, recursive))
        for index, path in enumerate(given_paths):
            rest = service.listing(who, lfn, recursive=recursive, with_replicas=False, after=path)
            assert [view.lfn for batch in rest for view in batch] == given_paths[index + 1 :]
            assert split(path)[0].startswith(lfn)
