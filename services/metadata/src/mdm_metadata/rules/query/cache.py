"""Compiled queries, each with the condition under which it is valid, and the cache of them."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cachetools import LRUCache
from mdm_service.identity.caller import Caller

from mdm_metadata.rules.model import AttributeType, StoredCollection
from mdm_metadata.rules.query.sql.render import PERMISSIONS
from mdm_metadata.rules.query.sql.statement import Statement
from mdm_metadata.rules.query.syntax.literal import Parameters, adapt

#: The cache has at most 30 MB of compiled queries, and 50 MB of collections.
MAX_QUERIES = 512
MAX_KEPT_LENGTH = 2_000
MAX_KEPT_SQL = 16_384
MAX_ANSWERS = 128
MAX_KEPT_ATTRIBUTES = 1_000
#: The facts about one path: id, changes so far, permissions, minimum cell size, and the changes so far of a view's target.
_FACTS = (
    "(SELECT ARRAY[c.id, c.rev, {permissions}, c.min_cell, {shown}]::bigint[] FROM collection AS c"
    " WHERE c.folded_path = %({name}path)s) = %({name}facts)s::bigint[]"
)
_SHOWN = "(SELECT t.rev FROM view AS v JOIN collection AS t ON t.id = v.target_id WHERE v.collection_id = c.id)"
#: A statement with the condition under which it is valid. It gives at least one row. PostgreSQL evaluates a condition that is a select of
#: its own, within one that OFFSET keeps whole, once and first: if it does not hold, the statement is not run.
_WHOLE = (
    "WITH c AS MATERIALIZED (SELECT {condition} AS holds)"
    " SELECT c.holds, a.* FROM c LEFT JOIN"
    " (SELECT true AS found, q.* FROM ({statement}) AS q WHERE (SELECT holds FROM c) OFFSET 0) AS a ON true"
)


@dataclass(frozen=True)
class Question:
    """The question which collections a caller sees at some folded paths, with the answer: facts by path."""

    caller: Caller
    facts: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class CompiledQuery:
    """A statement, and the condition under which it is valid: that its collections have not changed.

    `whole` is the statement with the condition: each row begins with whether that holds, and whether the row belongs to the answer.
    """

    statement: Statement
    condition: str
    whole: bytes
    parameters: Mapping[str, object]


def question(caller: Caller, found: Mapping[str, StoredCollection]) -> Question:
    """Return the question to which `found` is the answer."""
    facts = {
        path: (item.id, item.rev, item.permissions, item.collection.min_cell, item.target_rev if item.view is not None else 0)
        for path, item in found.items()
    }
    return Question(caller, facts)


def compiled_query(basis: Sequence[Question], statement: Statement) -> CompiledQuery:
    """Return the compiled query of a statement, which is valid while the questions have these answers."""
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
    """Compiled queries by caller, text and shape of parameters, and the collections that callers saw."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queries: LRUCache[tuple[object, ...], CompiledQuery] = LRUCache(MAX_QUERIES)
        self._answers: LRUCache[tuple[frozenset[str], Caller], Mapping[str, StoredCollection]] = LRUCache(MAX_ANSWERS)

    def find(self, caller: Caller, sql: str, parameters: Parameters) -> CompiledQuery | None:
        """Return the compiled query of a text, with these values of its parameters; None if none fits."""
        with self._lock:
            kept = self._queries.get((caller, sql, _shape(parameters)))
        if kept is None or not parameters:
            return kept
        try:
            return replace(kept, parameters={**kept.parameters, **_adapted(kept.statement, parameters)})
        except ValueError:
            return None  # compiling it will report what is wrong, and where

    def keep(self, caller: Caller, sql: str, parameters: Parameters, made: CompiledQuery) -> None:
        """Cache a compiled query, unless it is large."""
        if len(sql) <= MAX_KEPT_LENGTH and len(made.whole) <= MAX_KEPT_SQL:
            with self._lock:
                self._queries[caller, sql, _shape(parameters)] = made

    def answer(self, paths: frozenset[str], caller: Caller) -> Mapping[str, StoredCollection] | None:
        """Return the collections that a caller saw at folded paths; None if they are not cached."""
        with self._lock:
            return self._answers.get((paths, caller))

    def keep_answer(self, paths: frozenset[str], caller: Caller, found: Mapping[str, StoredCollection]) -> None:
        """Cache the collections that a caller sees at folded paths, unless they are large."""
        if sum(len(item.attributes) for item in found.values()) <= MAX_KEPT_ATTRIBUTES:
            with self._lock:
                self._answers[paths, caller] = found


def _shape(parameters: Parameters) -> tuple[tuple[str, AttributeType, bool], ...]:
    """Return the properties of parameters that a compiled statement depends on: names, types, and which are NULL."""
    return tuple(sorted((name, constant.type, constant.value is None) for name, constant in parameters.items()))


def _adapted(statement: Statement, parameters: Parameters) -> dict[str, object]:
    """Return the values of a statement's SQL parameters for other parameters of the same shape.

    Raises:
        ValueError: one cannot be converted as the first one was, such as to a date.
    """
    found: dict[str, object] = {}
    for place, (name, kind) in statement.given.items():
        constant = adapt(parameters[name], kind)
        if constant is None:
            raise ValueError(f"{kind.name} is expected")
        found[place] = constant.value
    return found
