"""From the text of a SELECT to what can be run: parsed, resolved to what the caller may see, compiled; remembered for the next call."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Protocol

from mdm_service.identity.caller import Caller
from mdm_wire.errors import MdmError
from mdm_wire.permission import Permission
from sqlglot import exp

from mdm_metadata.rules.model import StoredCollection, fold_path
from mdm_metadata.rules.query.bind import bind, collection_paths
from mdm_metadata.rules.query.change import bind_condition, presented
from mdm_metadata.rules.query.compile import Statement, compile_query
from mdm_metadata.rules.query.parameter import Parameters
from mdm_metadata.rules.query.parse import parse
from mdm_metadata.rules.query.partial import Merge, split
from mdm_metadata.rules.query.plan import Plan, PlanMemory, Question, plan, question
from mdm_metadata.rules.query.tree import Query, Readable

Collections = Callable[[Iterable[str], Caller], Mapping[str, StoredCollection]]
#: How often a query is planned anew because collections changed meanwhile.
ATTEMPTS = 5


class Membership(Protocol):
    """Who a subject is, with its groups, at this moment."""

    def caller_for(self, subject: str) -> Caller:
        """Return the caller a subject would be.

        Raises:
            MdmError: it is banned.
        """


class Planner:
    """Plans queries, and remembers plans and what collections there were. What is remembered is tried, never trusted: see `Plan`."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._memory = PlanMemory()

    def begin(self, caller: Caller, sql: str, parameters: Parameters, *, partial: bool) -> "Planning":
        """Begin with a query; a partial one is not remembered.

        Raises:
            Invalid: the text is not one SELECT that can be read.
        """
        kept = None if partial else self._memory.find(sql, caller, parameters)
        tree = parse(sql) if kept is None else None
        return Planning(self._memory, self._membership, kept, tree, caller, sql, parameters, partial=partial)


class Planning:
    """One query on its way."""

    def __init__(
        self,
        memory: PlanMemory,
        membership: Membership,
        kept: Plan | None,
        tree: exp.Select | None,
        caller: Caller,
        sql: str,
        parameters: Parameters,
        *,
        partial: bool,
    ) -> None:
        self._memory = memory
        self._membership = membership
        self._kept = kept
        self._parsed = tree
        self._caller = caller
        self._sql = sql
        self._parameters = parameters
        self._partial = partial

    def plans(self, collections: Collections) -> Iterator[tuple[Plan, Merge | None]]:
        """Yield plans to try, each with how its answer is merged with others': what is remembered first, then new ones.

        Raises:
            Invalid: the query is not allowed; unknown and forbidden collections are told alike.
        """
        if self._kept is not None:
            yield self._kept, None
        try:
            remembered = self._planned(self._remembered)
        except (MdmError, _Unknown):
            pass  # it may be an error no more
        else:
            yield remembered
        for _ in range(ATTEMPTS):
            yield self._planned(self._asking(collections))

    def statement(self, collections: Collections) -> Statement:
        """Return the statement of a query whoever asks, whatever the caller's rights."""
        return compile_query(self._bound(_Sight(collections, self._membership, everything=True)))

    @cached_property
    def _tree(self) -> exp.Select:
        return parse(self._sql) if self._parsed is None else self._parsed

    def _bound(self, sight: "_Sight") -> Query:
        readable = sight.readable(self._caller, collection_paths(self._tree, self._sql))
        return bind(self._tree, self._sql, readable.get, self._parameters)

    def _planned(self, collections: Collections) -> tuple[Plan, Merge | None]:
        asked: list[Question] = []

        def noted(paths: Iterable[str], reader: Caller) -> Mapping[str, StoredCollection]:
            found = collections(paths, reader)
            asked.append(question(reader, found))
            return found

        query = self._bound(_Sight(noted, self._membership))
        if self._partial:
            query, merge = split(query)
            return plan(asked, compile_query(query)), merge
        made = plan(asked, compile_query(query))
        if len(asked) == 1:  # a view depends on whom its definer is at each moment
            self._memory.keep(self._sql, self._caller, self._parameters, made)
        return made, None

    def _remembered(self, paths: Iterable[str], reader: Caller) -> Mapping[str, StoredCollection]:
        found = self._memory.answer(frozenset(paths), reader)
        if found is None:
            raise _Unknown
        return found

    def _asking(self, collections: Collections) -> Collections:
        def ask(paths: Iterable[str], reader: Caller) -> Mapping[str, StoredCollection]:
            wanted = frozenset(paths)
            found = collections(wanted, reader)
            self._memory.keep_answer(wanted, reader, found)
            return found

        return ask


class _Unknown(Exception):
    """What collections there are was not asked before."""


class _Sight:
    """What callers may see at paths; with `everything`, whatever their rights."""

    def __init__(self, collections: Collections, membership: Membership, *, everything: bool = False) -> None:
        self._collections = collections
        self._membership = membership
        self._everything = everything

    def readable(self, caller: Caller, paths: Iterable[str]) -> dict[str, Readable]:
        """Return what there is for a caller, by folded path."""
        found: dict[str, Readable] = {}
        for path, collection in self._collections(set(paths), caller).items():
            readable = self._source(caller, collection)
            if readable is not None:
                found[path] = readable
        return found

    def _source(self, caller: Caller, collection: StoredCollection) -> Readable | None:
        """Return what a caller may see of a collection or view; None for nothing."""
        reader, condition = caller, None
        permissions, min_cell = int(Permission.READ), 0
        if not (self._everything or collection.permissions & Permission.READ):
            min_cell = collection.collection.min_cell
            if not min_cell or not collection.permissions & Permission.LIST:
                return None
            permissions |= Permission.LIST
        if (view := collection.view) is not None:
            if view.definer is not None:
                try:
                    reader = self._membership.caller_for(view.definer)
                except MdmError:
                    return None
                permissions = int(Permission.READ)
            target = next(iter(self._collections([fold_path(view.target_path)], reader).values()), None)
            if target is None or not (self._everything or target.permissions & permissions):
                return None
            if view.definer is None and min_cell and not target.permissions & Permission.READ:
                if not target.collection.min_cell:  # whoever made a link does not decide what is told of its target
                    return None
                min_cell = max(min_cell, target.collection.min_cell)
            if view.condition:
                condition = bind_condition(view.condition, presented("/", target.attributes))
        return Readable(collection, reader, permissions, condition, min_cell)
