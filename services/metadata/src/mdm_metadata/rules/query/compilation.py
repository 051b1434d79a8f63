"""Compilation: the text of a SELECT is parsed, bound to what the caller may see and compiled to SQL, or found in the cache."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

from mdm_service.identity.caller import Caller
from mdm_wire.errors import MdmError
from mdm_wire.permission import Permission
from sqlglot import exp

from mdm_metadata.rules.model import StoredCollection, fold_path
from mdm_metadata.rules.query.binding.change import bind_condition, collection_of
from mdm_metadata.rules.query.binding.select import bind, collection_paths
from mdm_metadata.rules.query.cache import CompiledQuery, QueryCache, Question, compiled_query, question
from mdm_metadata.rules.query.merge import MergePlan, split
from mdm_metadata.rules.query.sql.statement import Statement, compile_query
from mdm_metadata.rules.query.syntax.literal import Parameters
from mdm_metadata.rules.query.syntax.parse import parse
from mdm_metadata.rules.query.syntax.tree import Query, Readable

Collections = Callable[[Iterable[str], Caller], Mapping[str, StoredCollection]]
#: How often a query is compiled anew because collections changed meanwhile.
ATTEMPTS = 5


class Membership(Protocol):
    """The current groups of subjects."""

    def caller_for(self, subject: str) -> Caller:
        """Return the caller that a subject would be.

        Raises:
            MdmError: it is banned.
        """


@dataclass(frozen=True)
class Request:
    """A SELECT as a caller sends it; a partial one is answered for one of several sites."""

    caller: Caller
    sql: str
    parameters: Parameters
    partial: bool = False


class Compilation:
    """The compilation of one query."""

    def __init__(self, request: Request, cache: QueryCache, membership: Membership) -> None:
        """Take the compiled query from the cache, which has no partial ones, or else parse the text.

        Raises:
            Invalid: the text is not one SELECT that can be read.
        """
        self._request = request
        self._cache = cache
        self._membership = membership
        self._kept = None if request.partial else cache.find(request.caller, request.sql, request.parameters)
        self._parsed = parse(request.sql) if self._kept is None else None  # before the query takes a connection

    def candidates(self, collections: Collections) -> Iterator[tuple[CompiledQuery, MergePlan | None]]:
        """Yield compiled queries to try, each with its merge plan: first what is cached, then new ones. What is cached is never trusted.

        Raises:
            Invalid: the query is not allowed; unknown and forbidden collections give one error.
        """
        if self._kept is not None:
            yield self._kept, None
        try:
            compiled = self._compile(self._cached)
        except (MdmError, _NotCached):
            pass  # the collections may have changed since
        else:
            yield compiled
        for _ in range(ATTEMPTS):
            yield self._compile(self._asking(collections))

    def statement(self, collections: Collections) -> Statement:
        """Return the statement of a query, whatever the caller's permissions; it is not run."""
        return compile_query(self._bound(_Access(collections, self._membership, everything=True)))

    @cached_property
    def _tree(self) -> exp.Select:
        return parse(self._request.sql) if self._parsed is None else self._parsed

    def _bound(self, access: "_Access") -> Query:
        request = self._request
        readable = access.readable(request.caller, collection_paths(self._tree, request.sql))
        return bind(self._tree, request.sql, readable.get, request.parameters)

    def _compile(self, collections: Collections) -> tuple[CompiledQuery, MergePlan | None]:
        asked: list[Question] = []

        def noted(paths: Iterable[str], reader: Caller) -> Mapping[str, StoredCollection]:
            found = collections(paths, reader)
            asked.append(question(reader, found))
            return found

        query = self._bound(_Access(noted, self._membership))
        if self._request.partial:
            query, merge = split(query)
            return compiled_query(asked, compile_query(query)), merge
        made = compiled_query(asked, compile_query(query))
        if len(asked) == 1:  # not of views, which depend on the groups of their definers
            self._cache.keep(self._request.caller, self._request.sql, self._request.parameters, made)
        return made, None

    def _cached(self, paths: Iterable[str], reader: Caller) -> Mapping[str, StoredCollection]:
        found = self._cache.answer(frozenset(paths), reader)
        if found is None:
            raise _NotCached
        return found

    def _asking(self, collections: Collections) -> Collections:
        def ask(paths: Iterable[str], reader: Caller) -> Mapping[str, StoredCollection]:
            wanted = frozenset(paths)
            found = collections(wanted, reader)
            self._cache.keep_answer(wanted, reader, found)
            return found

        return ask


class _NotCached(Exception):
    """Which collections exist at these paths is not in the cache."""


class _Access:
    """Finds what callers may read at paths; with `everything`, whatever their permissions."""

    def __init__(self, collections: Collections, membership: Membership, *, everything: bool = False) -> None:
        self._collections = collections
        self._membership = membership
        self._everything = everything

    def readable(self, caller: Caller, paths: Iterable[str]) -> dict[str, Readable]:
        """Return what a caller may read, by folded path."""
        found: dict[str, Readable] = {}
        for path, collection in self._collections(set(paths), caller).items():
            readable = self._source(caller, collection)
            if readable is not None:
                found[path] = readable
        return found

    def _source(self, caller: Caller, collection: StoredCollection) -> Readable | None:
        """Return what a caller may read of a collection or view; None if it may not read it."""
        reader, condition = caller, None
        permissions, min_cell = int(Permission.READ), 0
        if not (self._everything or collection.permissions & Permission.READ):
            min_cell = collection.collection.min_cell
            # Counts in groups are for users: by tokens for ever more lists, the difference of two counts would be one person.
            if not min_cell or not collection.permissions & Permission.LIST or caller.delegation is not None:
                return None
            permissions |= Permission.LIST
        if (view := collection.view) is not None:
            if view.definer is not None:
                try:
                    # What a job may see through its user's views is no more than what it may see of entries.
                    reader = replace(self._membership.caller_for(view.definer), delegation=caller.delegation)
                except MdmError:
                    return None
                permissions = int(Permission.READ)
            target = next(iter(self._collections([fold_path(view.target_path)], reader).values()), None)
            if target is None or not (self._everything or target.permissions & permissions):
                return None
            if view.definer is None and min_cell and not target.permissions & Permission.READ:
                if not target.collection.min_cell:  # the creator of a link does not decide what its target reveals
                    return None
                min_cell = max(min_cell, target.collection.min_cell)
            if view.condition:
                condition = bind_condition(view.condition, collection_of(target.attributes))
        return Readable(collection, reader, permissions, condition, min_cell)
