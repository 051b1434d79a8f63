"""Random operations by random callers, compared with a model of a few lines that keeps everything in a dictionary."""

import itertools
import uuid
from dataclasses import dataclass, field

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mdm_catalog.__main__ import MIGRATIONS
from mdm_catalog.model import NewDirectory, NewFile, NewLink, Removal, Renaming, Target
from mdm_catalog.path import Lfn, names, split
from mdm_catalog.pattern import Condition
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
FORBIDDEN, ABSENT, TAKEN, FULL, WRONG, OK = 7, 5, 6, 9, 3, 0
CIRCLE = FULL  # both are FAILED_PRECONDITION
P = Permission

PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
BITS = st.one_of(
    st.just(int(P.ALL)),
    st.builds(lambda bits: bits | int(P.TRAVERSE | P.LIST), st.integers(0, 255)),
    st.builds(lambda bits: bits | int(P.TRAVERSE), st.integers(0, 255)),
    st.integers(0, 255),
)
ACLS = st.lists(st.dictionaries(st.sampled_from(PRINCIPALS), BITS, max_size=3), min_size=3, max_size=3)
WHO = st.sampled_from([0, 0, 1, 2])
ACL_INDEX = st.sampled_from([None, 0, 1, 2])
LINKS = st.one_of(PATHS, PATHS.map("../{}".format), PATHS.map("TOP/{}".format))
CHANGES = st.one_of(
    st.tuples(st.just("mkdir"), WHO, PATHS, ACL_INDEX, st.booleans()),
    st.tuples(st.just("register"), WHO, PATHS, ACL_INDEX),
    st.tuples(st.just("link"), WHO, PATHS, ACL_INDEX, LINKS),
    st.tuples(st.just("rename"), WHO, PATHS, PATHS, st.booleans()),
    st.tuples(st.just("remove"), st.integers(0, 2), PATHS, st.booleans()),
)
OPERATIONS = st.lists(
    st.one_of(CHANGES, st.tuples(st.just("look"), st.integers(1, 2), PATHS), st.tuples(st.just("all"), WHO, st.lists(CHANGES, max_size=4))),
    max_size=25,
)


@dataclass
class Thing:
    """An entry of the model."""

    directory: bool
    acl: int
    default: int
    link: tuple[str, ...] | None = None  # from the top directory down; for links only


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

    def lead(self, who, path, last):
        """Return where a path leads when links are followed, at its end too if `last`; or a code."""
        followed = 0
        while True:
            stop = next((d for d in range(len(path)) if path[: d + 1] in self.things and self.things[path[: d + 1]].link is not None), None)
            if stop is None or (stop == len(path) - 1 and not last):
                return path
            link = path[: stop + 1]
            if self.way(who, link) or not self.visible(who, link):
                return path
            followed += 1
            if followed > 16:
                return CIRCLE
            path = (*self.things[link].link, *path[stop + 1 :])

    def new(self, who, path):
        """Return the path of something to be made or taken away: links are followed in the directory's."""
        above = self.lead(who, path[:-1], True)
        return above if isinstance(above, int) else (*above, path[-1])

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

    def make(self, who, path, acl, *, directory, parents=False, link=None) -> int:
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
            if link is not None:
                refused = code or (ABSENT if acl is not None and not self.held(who, acl) & P.CHANGE_ACL else OK)
                return refused or (OK if self.things[path].link == link else TAKEN)
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
        self.things[path] = Thing(directory, inherited if acl is None else acl, inherited if acl is None else acl, link)
        return OK

    def may_remove(self, who, path) -> int:
        code = self.may(who, path, P.DELETE)
        if code:
            return code
        if self.may_make(who, path):
            return FORBIDDEN if self.visible(who, path) else ABSENT
        return OK

    def below(self, path):
        return [other for other in self.things if len(other) > len(path) and other[: len(path)] == path]

    def rename(self, who, old, new, replace) -> int:
        code = old if isinstance(old, int) else self.may_remove(who, old)
        code = code or (new if isinstance(new, int) else self.may_make(who, new))
        if code:
            return code
        thing, present = self.things[old], self.things.get(new)
        if new == old:
            return OK
        into_itself = thing.directory and new[: len(old)] == old
        if present is not None:
            if not replace:
                return TAKEN
            code = self.may_remove(who, new)
            if code:
                return code
            if present.directory != thing.directory:
                return TAKEN
            if into_itself:
                return WRONG
            if self.below(new):
                return FULL
            del self.things[new]
        if into_itself:
            return WRONG
        for path in [old, *self.below(old)]:
            self.things[(*new, *path[len(old) :])] = self.things.pop(path)
        return OK

    def usage(self, who, top):
        """Return files, directories, links and closed directories below, as far as may be listed."""
        wanted = P.LIST | P.TRAVERSE
        sums = [0, 0, 0, 0]
        for path in [other for other in self.things if len(other) == len(top) + 1 and other[:-1] == top]:
            thing = self.things[path]
            sums[1 if thing.directory else 0 if thing.link is None else 2] += 1
            if thing.directory:
                if self.held(who, thing.acl) & wanted == wanted:
                    sums = [one + more for one, more in zip(sums, self.usage(who, path), strict=True)]
                else:
                    sums[3] += 1
        return sums

    def remove(self, who, path, recursive) -> int:
        code = path if isinstance(path, int) else self.may_remove(who, path)
        if code:
            return code
        below = self.below(path)
        if below and not recursive and self.things[path].directory:
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
            _compare_usage(service, model, who, top, start)


def _apply(service, model, ids, top, operation) -> None:
    kind, who, *rest = operation
    caller = CALLERS[who]
    # The top directory stands in a listable root, so that, as in the model, everybody knows of it.
    if kind == "look":
        _look(service, model, caller, rest[0], top)
    elif kind == "all":
        _all_or_nothing(service, model, ids, top, caller, _alternating(rest[0]))
    else:
        [got] = _do(service, caller, _wanted(ids, top, operation), operation)
        assert _code(got) == _expected(model, caller, operation), operation


def _wanted(ids, top, operation):
    """Return what the service is asked for."""
    kind, _, relative, *rest = operation
    lfn = Lfn(f"{top}/{relative}")
    acl_id = None if rest[0] is None or kind in ("rename", "remove") else ids[rest[0]]
    if kind == "mkdir":
        return NewDirectory(lfn, acl_id)
    if kind == "register":
        return NewFile(lfn, uuid.uuid4(), acl_id=acl_id)
    if kind == "link":
        return NewLink(lfn, _inside(relative, rest[1]).replace("TOP", top), acl_id)
    if kind == "rename":
        return Renaming(Target(lfn=lfn), Lfn(f"{top}/{rest[0]}"), rest[1])
    return Removal(Target(lfn=lfn), rest[0])


def _do(service, caller, wanted, operation):
    if operation[0] == "mkdir":
        return service.make_directories(caller, [wanted], parents=operation[4])
    if operation[0] == "remove":
        return service.remove(caller, [wanted.target], recursive=wanted.recursive)
    return {"register": service.register_files, "link": service.make_links, "rename": service.rename}[operation[0]](caller, [wanted])


def _expected(model, caller, operation) -> int:
    """Let the model do it; return its code."""
    kind, _, relative, *rest = operation
    path = model.new(caller, tuple(relative.split("/")))
    if kind == "rename":
        return model.rename(caller, path, model.new(caller, tuple(rest[0].split("/"))), rest[1])
    if kind == "remove":
        return model.remove(caller, path, rest[0])
    if isinstance(path, int):
        return path
    if kind == "link":
        return model.make(caller, path, rest[0], directory=False, link=_target(path, _inside(relative, rest[1])))
    return model.make(caller, path, rest[0], directory=kind == "mkdir", parents=kind == "mkdir" and rest[1])


def _inside(relative, link):
    """Return where a link leads; one in the top directory does not lead out of it, where the model ends."""
    return link if "/" in relative else link.removeprefix("../")


def _target(path, link):
    """Return where a link at `path` leads, from the top directory down."""
    names_of = tuple(link.split("/"))
    if names_of[0] == "TOP":
        return names_of[1:]
    return (*path[:-2], *names_of[1:]) if names_of[0] == ".." else (*path[:-1], *names_of)


def _alternating(operations):
    """Return the operations without those of the kind of their neighbour: a run of one kind is a batch, whose order is its own."""
    kept = []
    for operation in operations:
        if not kept or kept[-1][0] != operation[0]:
            kept.append(operation)
    return [(*operation[:4], False) if operation[0] == "mkdir" else operation for operation in kept]


def _all_or_nothing(service, model, ids, top, caller, operations) -> None:
    before = dict(model.things)
    codes = []
    for operation in operations:
        codes.append(_expected(model, caller, operation))
        if codes[-1]:
            model.things = before
            break
    failed = service.apply(caller, [_wanted(ids, top, operation) for operation in operations])
    expected = (len(codes) - 1, codes[-1]) if codes and codes[-1] else None
    assert (failed and (failed.index, failed.error.code)) == expected, operations


def _look(service, model, caller, relative, top) -> None:
    path, target = model.lead(caller, tuple(relative.split("/")), True), Target(lfn=Lfn(f"{top}/{relative}"))
    [seen] = service.stat(caller, [target], with_replicas=False)
    [read] = service.resolve(caller, [target])
    if isinstance(path, int):
        assert _code(seen) == _code(read) == path
        return
    assert _code(seen) == model.look(caller, path), relative
    expected = model.may(caller, path, P.READ)
    is_file = path in model.things and not model.things[path].directory and model.things[path].link is None
    assert _code(read) == (WRONG if not expected and not is_file else expected), relative


def _compare_usage(service, model, who, top, start) -> None:
    lfn = Lfn("/".join((top, *start)))
    expected = model.look(who, start) or model.may(who, start, P.LIST | P.TRAVERSE)
    try:
        [usage] = service.usage(who, lfn, 0)
    except MdmError as error:
        assert error.code == expected
        return
    assert (expected, [usage.files, usage.directories, usage.links, usage.closed]) == (OK, model.usage(who, start))
    assert sum(each.directories for each in service.usage(who, lfn, 1)[:1]) == usage.directories


def _compare_listing(service, model, who, top, start, depth) -> None:
    lfn = Lfn("/".join((top, *start)))
    for recursive in (False, True):
        try:
            batches = list(service.listing(who, lfn, recursive=recursive, with_replicas=False, after=None))
        except MdmError as error:
            assert error.code == (model.may(who, start, P.LIST) or model.look(who, start))
            continue
        given_paths = [view.lfn for batch in batches for view in batch]
        if recursive:
            found = service.find(who, lfn, Condition(name="b*"), depth=0, with_replicas=False, after=None)
            assert [view.lfn for batch in found for view in batch] == [path for path in given_paths if names(path)[-1].startswith("b")]
        assert [names(path)[depth:] for path in given_paths] == list(model.listing(who, start, recursive))
        for index, path in enumerate(given_paths):
            rest = service.listing(who, lfn, recursive=recursive, with_replicas=False, after=path)
            assert [view.lfn for batch in rest for view in batch] == given_paths[index + 1 :]
            assert split(path)[0].startswith(lfn)
