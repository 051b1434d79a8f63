"""From the text of a SELECT to what can be run: parsed, resolved to what the caller may see, compiled; remembered for the next call."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Protocol

from mdm_service.identity.caller import Caller
from mdm_wire.errors import MdmError
from mdm_wire.permission import Permission
from sqlglot import exp

from mdm_metadata.rules.model import StoredCollection, fold_path
from mdm_metadata.rules.query.binding.bind import bind, collection_paths
from mdm_metadata.rules.query.binding.change import bind_condition, presented
from mdm_metadata.rules.query.compiled import CompiledQuery, QueryCache, Question, compiled_query, question
from mdm_metadata.rules.query.parameter import Parameters
from mdm_metadata.rules.query.partial import Merge, split
from mdm_metadata.rules.query.sql.compile import Statement, compile_query
from mdm_metadata.rules.query.syntax.parse import parse
from mdm_metadata.rules.query.syntax.tree import Query, Readable

Collections = Callable[[Iterable[str], Caller], Mapping[str, StoredCollection]]
#: How often a query is compiled anew because collections changed meanwhile.
ATTEMPTS = 5


class Membership(Protocol):
    """Who a subject is, with its groups, at this moment."""

    def caller_for(self, subject: str) -> Caller:
        """Return the caller a subject would be.

        Raises:
            MdmError: it is banned.
        """


class Compiler:
    """Compiles queries, and caches them and the collections that they were compiled for. What is cached is tried, never trusted."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._cache = QueryCache()

    def begin(self, caller: Caller, sql: str, parameters: Parameters, *, partial: bool) -> "Compilation":
        """Begin with a query; a partial one is not remembered.

        Raises:
            Invalid: the text is not one SELECT that can be read.
        """
        kept = None if partial else self._cache.find(sql, caller, parameters)
        tree = parse(sql) if kept is None else None
        return Compilation(self._cache, self._membership, kept, tree, caller, sql, parameters, partial=partial)


class Compilation:
    """One query between its text and its SQL."""

    def __init__(
        self,
        cache: QueryCache,
        membership: Membership,
        kept: CompiledQuery | None,
        tree: exp.Select | None,
        caller: Caller,
        sql: str,
        parameters: Parameters,
        *,
        partial: bool,
    ) -> None:
        self._cache = cache
        self._membership = membership
        self._kept = kept
        self._parsed = tree
        self._caller = caller
        self._sql = sql
        self._parameters = parameters
        self._partial = partial

    def candidates(self, collections: Collections) -> Iterator[tuple[CompiledQuery, Merge | None]]:
        """Yield compiled queries to try, each with how its answer is merged with others': what is remembered first, then new ones.

        Raises:
            Invalid: the query is not allowed; unknown and forbidden collections give one error.
        """
        if self._kept is not None:
            yield self._kept, None
        try:
            remembered = self._compile(self._remembered)
        except (MdmError, _Unknown):
            pass  # it may be an error no more
        else:
            yield remembered
        for _ in range(ATTEMPTS):
            yield self._compile(self._asking(collections))

    def statement(self, collections: Collections) -> Statement:
        """Return the statement of a query, whatever the caller's rights."""
        return compile_query(self._bound(_Sight(collections, self._membership, everything=True)))

    @cached_property
    def _tree(self) -> exp.Select:
        return parse(self._sql) if self._parsed is None else self._parsed

    def _bound(self, sight: "_Sight") -> Query:
        readable = sight.readable(self._caller, collection_paths(self._tree, self._sql))
        return bind(self._tree, self._sql, readable.get, self._parameters)

    def _compile(self, collections: Collections) -> tuple[CompiledQuery, Merge | None]:
        asked: list[Question] = []

        def noted(paths: Iterable[str], reader: Caller) -> Mapping[str, StoredCollection]:
            found = collections(paths, reader)
            asked.append(question(reader, found))
            return found

        query = self._bound(_Sight(noted, self._membership))
        if self._partial:
            query, merge = split(query)
            return compiled_query(asked, compile_query(query)), merge
        made = compiled_query(asked, compile_query(query))
        if len(asked) == 1:  # a view depends on whom its definer is at each moment
            self._cache.keep(self._sql, self._caller, self._parameters, made)
        return made, None

    def _remembered(self, paths: Iterable[str], reader: Caller) -> Mapping[str, StoredCollection]:
        found = self._cache.answer(frozenset(paths), reader)
        if found is None:
            raise _Unknown
        return found

    def _asking(self, collections: Collections) -> Collections:
        def ask(paths: Iterable[str], reader: Caller) -> Mapping[str, StoredCollection]:
            wanted = frozenset(paths)
            found = collections(wanted, reader)
            self._cache.keep_answer(wanted, reader, found)
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
                if not target.collection.min_cell:  # the maker of a link does not decide what its target gives
                    return None
                min_cell = max(min_cell, target.collection.min_cell)
            if view.condition:
                condition = bind_condition(view.condition, presented("/", target.attributes))
        return Readable(collection, reader, permissions, condition, min_cell)
