"""Compiled queries together with what they rest on, and those that are kept for the next call with the same text."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cachetools import LRUCache
from mdm_service.identity.caller import Caller

from mdm_metadata.rules.model import StoredCollection
from mdm_metadata.rules.query.parameter import Parameters, adapted, shape
from mdm_metadata.rules.query.sql.compile import Statement
from mdm_metadata.rules.query.sql.render import PERMISSIONS

#: What is remembered: at most about 30 MB of compiled queries, and 50 MB of what collections there were.
MAX_QUERIES = 512
MAX_KEPT_LENGTH = 2_000
MAX_KEPT_SQL = 16_384
MAX_ANSWERS = 128
MAX_KEPT_ATTRIBUTES = 1_000
#: What a question asks for of one path: number, changes so far, permissions, minimum cell, and the changes so far of what a view shows.
_FACTS = (
    "(SELECT ARRAY[c.id, c.rev, {permissions}, c.min_cell, {shown}]::bigint[] FROM collection AS c"
    " WHERE c.folded_path = %({name}path)s) = %({name}facts)s::bigint[]"
)
_SHOWN = "(SELECT t.rev FROM view AS v JOIN collection AS t ON t.id = v.target_id WHERE v.collection_id = c.id)"
#: A statement with the condition under which it is the right one. Gives one row at least. A condition that is a select of its own, in one
#: that OFFSET keeps whole, is a filter that PostgreSQL asks once and first: where it does not hold, the statement is not run.
_WHOLE = (
    "WITH c AS MATERIALIZED (SELECT {condition} AS holds)"
    " SELECT c.holds, a.* FROM c LEFT JOIN"
    " (SELECT true AS found, q.* FROM ({statement}) AS q WHERE (SELECT holds FROM c) OFFSET 0) AS a ON true"
)


@dataclass(frozen=True)
class Question:
    """Which collections there are at some folded paths for one caller, and what was answered: facts by path."""

    caller: Caller
    facts: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class CompiledQuery:
    """A statement, and the condition under which it is the right one: that what it rests on is as it was.

    `whole` is the statement together with the condition: each row begins with whether that holds, and whether the row is one of the answer.
    """

    statement: Statement
    condition: str
    whole: bytes
    parameters: Mapping[str, object]


def question(caller: Caller, found: Mapping[str, StoredCollection]) -> Question:
    """Return a question as it was answered."""
    facts = {
        path: (item.id, item.rev, item.permissions, item.collection.min_cell, item.target_rev if item.view is not None else 0)
        for path, item in found.items()
    }
    return Question(caller, facts)


def compiled_query(basis: Sequence[Question], statement: Statement) -> CompiledQuery:
    """Return the compiled query of a statement that was compiled from the answers to some questions."""
    terms: list[str] = []
    parameters: dict[str, object] = dict(statement.parameters)
    for number, asked in enumerate(basis):
        caller, principals = f"q{number}caller", f"q{number}principals"
        parameters |= {caller: asked.caller.dn, principals: sorted(asked.caller.principals)}
        permissions = PERMISSIONS.format(acl="c.acl_id", caller=caller, principals=principals)
        for place, (path, facts) in enumerate(asked.facts.items()):
            name = f"q{number}_{place}"
            terms.append(_FACTS.format(permissions=permissions, shown=_SHOWN if facts[-1] else "0", name=name))
            parameters |= {f"{name}path": path, f"{name}facts": "{" + ",".join(map(str, facts)) + "}"}
    condition = " AND ".join(terms)
    return CompiledQuery(statement, condition, _WHOLE.format(condition=condition, statement=statement.sql).encode(), parameters)


class QueryCache:
    """Compiled queries by text, caller and form of parameters, and the collections that callers saw; the condition of each is tried."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queries: LRUCache[tuple[object, ...], CompiledQuery] = LRUCache(MAX_QUERIES)
        self._answers: LRUCache[tuple[frozenset[str], Caller], Mapping[str, StoredCollection]] = LRUCache(MAX_ANSWERS)

    def find(self, sql: str, caller: Caller, parameters: Parameters) -> CompiledQuery | None:
        """Return the compiled query of a text, for these values of its parameters; None where none fits."""
        with self._lock:
            kept = self._queries.get((sql, caller, shape(parameters)))
        if kept is None or not parameters:
            return kept
        try:
            return replace(kept, parameters={**kept.parameters, **adapted(kept.statement, parameters)})
        except ValueError:
            return None  # compiling it says what is wrong, and where

    def keep(self, sql: str, caller: Caller, parameters: Parameters, made: CompiledQuery) -> None:
        """Keep a compiled query, unless it is large."""
        if len(sql) <= MAX_KEPT_LENGTH and len(made.whole) <= MAX_KEPT_SQL:
            with self._lock:
                self._queries[sql, caller, shape(parameters)] = made

    def answer(self, paths: frozenset[str], caller: Caller) -> Mapping[str, StoredCollection] | None:
        """Return what collections there were at folded paths for a caller; None where it was not asked."""
        with self._lock:
            return self._answers.get((paths, caller))

    def keep_answer(self, paths: frozenset[str], caller: Caller, found: Mapping[str, StoredCollection]) -> None:
        """Keep what collections there are at folded paths for a caller, unless they are large."""
        if sum(len(item.attributes) for item in found.values()) <= MAX_KEPT_ATTRIBUTES:
            with self._lock:
                self._answers[paths, caller] = found
