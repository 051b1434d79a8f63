"""The typed tree to parameterised SQL, with the access rule inside every source.

Each source is an inner select over `entry`, limited to one collection and to ACLs under which the caller may read, so that the user's
expressions only ever see rows the caller may read. Conditions that cannot fail on any value may be evaluated earlier, by PostgreSQL's
choice, which is what lets indexes work: they can neither raise an error nor tell anything about a row that the access rule then removes.
When anything in the query can fail (a division, a cast), every inner select gets `OFFSET 0`: PostgreSQL moves no condition across it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from mdm_service.acl import Permission
from mdm_service.identity import Caller

from mdm_metadata.model import AttributeType
from mdm_metadata.query.operation import AGGREGATES, OPERATIONS
from mdm_metadata.query.tree import Aggregate, Call, Column, Expression, Literal, LiteralList, Output, Query, Source, walk

T = AttributeType

#: SQL of a stored value; the migrations index the same expressions.
STORED: Mapping[AttributeType, str] = {
    T.INT: "(e.attributes->>'{0}')::bigint",
    T.FLOAT: "(e.attributes->>'{0}')::double precision",
    T.NUMERIC: "(e.attributes->>'{0}')::numeric",
    T.TEXT: "(e.attributes->>'{0}') COLLATE \"C\"",
    T.VARCHAR: "(e.attributes->>'{0}') COLLATE \"C\"",
    T.BOOL: "(e.attributes->>'{0}')::boolean",
    T.DATE: "(date '1970-01-01' + (e.attributes->>'{0}')::integer)",
    T.TIMESTAMP: "to_timestamp((e.attributes->>'{0}')::double precision / 1000000)",
    T.UUID: "(e.attributes->>'{0}')::uuid",
}
_SQL_TYPES: Mapping[AttributeType, str] = {
    T.INT: "bigint",
    T.FLOAT: "double precision",
    T.NUMERIC: "numeric",
    T.TEXT: "text",
    T.VARCHAR: "text",
    T.BOOL: "boolean",
    T.DATE: "date",
    T.TIMESTAMP: "timestamptz",
    T.UUID: "uuid",
}
# What `acl_permissions` says for one permission, in a form that PostgreSQL answers by a probe for each of few rows, or by a hash for many.
_READABLE = (
    "(EXISTS (SELECT FROM acl WHERE acl.id = e.acl_id AND acl.owner = %(caller)s)"  # noqa: S608 - constants only
    " OR EXISTS (SELECT FROM acl_entry"
    " WHERE acl_entry.acl_id = e.acl_id AND acl_entry.principal = ANY (%(principals)s)"
    f" AND acl_entry.permissions & {int(Permission.READ)} <> 0))"
)


@dataclass(frozen=True)
class Statement:
    """SQL with named parameters, the columns of its answer, and how many rows it has at most (None: any number)."""

    sql: str
    parameters: Mapping[str, object]
    outputs: tuple[Output, ...]
    limit: int | None


def compile_query(query: Query, caller: Caller) -> Statement:
    """Return the SQL that answers `query` with what `caller` may read."""
    return _Compiler(query, caller).statement()


class _Compiler:
    def __init__(self, query: Query, caller: Caller) -> None:
        self._query = query
        self._parameters: dict[str, object] = {"caller": caller.dn, "principals": sorted(caller.principals)}
        self._names: dict[tuple[object, ...], str] = {}
        self._stored = False

    def statement(self) -> Statement:
        query = self._query
        pushed, kept = self._split_where()
        barrier = "" if all(is_total(expression) for expression in self._expressions(kept)) else " OFFSET 0"
        parts = ["SELECT DISTINCT" if query.distinct else "SELECT"]
        parts.append(", ".join(f"{self._render(output.expression)} AS o{number}" for number, output in enumerate(query.outputs)))
        sources = " ".join(self._source(number, source, pushed[number], barrier) for number, source in enumerate(query.sources))
        parts.append(f"FROM {sources}")
        if kept:
            parts.append("WHERE " + " AND ".join(self._render(term) for term in kept))
        if query.group_by:
            parts.append("GROUP BY " + ", ".join(self._render(expression) for expression in query.group_by))
        if query.having is not None:
            parts.append("HAVING " + self._render(query.having))
        if query.order_by:
            parts.append("ORDER BY " + ", ".join(self._order(number) for number in range(len(query.order_by))))
        if query.limit is not None:
            parts.append(f"LIMIT {query.limit}")
        if query.offset is not None:
            parts.append(f"OFFSET {query.offset}")
        return Statement(" ".join(parts), self._parameters, query.outputs, query.limit)

    def _split_where(self) -> tuple[list[list[Expression]], list[Expression]]:
        """Return the terms of WHERE that belong inside each source, and the rest."""
        pushed: list[list[Expression]] = [[] for _ in self._query.sources]
        kept: list[Expression] = []
        where = self._query.where
        terms = where.arguments if isinstance(where, Call) and where.operation == "AND" else () if where is None else (where,)
        for term in terms:
            sources = {part.source for part in walk(term) if isinstance(part, Column)}
            if len(sources) == 1 and is_total(term) and self._query.sources[min(sources)].join != "LEFT JOIN":
                pushed[min(sources)].append(term)
            else:
                kept.append(term)
        return pushed, kept

    def _expressions(self, conditions: Sequence[Expression]) -> list[Expression]:
        """Return every expression of the query, with `conditions` for its WHERE."""
        query = self._query
        optional = (query.having, *(source.on for source in query.sources))
        return [
            *(output.expression for output in query.outputs),
            *conditions,
            *query.group_by,
            *(order.expression for order in query.order_by),
            *(expression for expression in optional if expression is not None),
        ]

    def _source(self, number: int, source: Source, conditions: list[Expression], barrier: str) -> str:
        self._stored = True
        selected = ", ".join(f"{self._render(column)} AS {_column_name(column)}" for column in self._columns(number)) or "1"
        collection = self._parameter(source.collection.id, "bigint")
        terms = [f"e.collection_id = {collection}", _READABLE, *(self._render(condition) for condition in conditions)]
        self._stored = False
        inner = f"(SELECT {selected} FROM entry AS e WHERE {' AND '.join(terms)}{barrier}) AS s{number}"  # noqa: S608 - no text of the user's
        if not number:
            return inner
        return f"{source.join} {inner}" + ("" if source.on is None else f" ON {self._render(source.on)}")

    def _columns(self, number: int) -> list[Column]:
        """Return the columns of one source that the query mentions."""
        conditions = [] if self._query.where is None else [self._query.where]
        parts = (part for expression in self._expressions(conditions) for part in walk(expression))
        return sorted({part for part in parts if isinstance(part, Column) and part.source == number}, key=lambda column: column.slot)

    def _order(self, number: int) -> str:
        order = self._query.order_by[number]
        for position, output in enumerate(self._query.outputs, 1):
            if output.expression == order.expression:
                rendered = str(position)
                break
        else:
            rendered = self._render(order.expression)
        return f"{rendered} {'DESC' if order.descending else 'ASC'} NULLS {'FIRST' if order.nulls_first else 'LAST'}"

    def _render(self, expression: Expression) -> str:
        if isinstance(expression, Column):
            return self._render_column(expression)
        if isinstance(expression, Literal):
            return self._parameter(expression.value, _SQL_TYPES[expression.type])
        if isinstance(expression, LiteralList):
            return self._parameter(expression.values, _SQL_TYPES[expression.type] + "[]")
        if isinstance(expression, Aggregate):
            return self._render_aggregate(expression)
        return OPERATIONS[expression.operation].render([self._render(argument) for argument in expression.arguments])

    def _render_column(self, column: Column) -> str:
        if not self._stored:
            return f"s{column.source}.{_column_name(column)}"
        return STORED[column.type].format(column.slot) if column.slot else "e.key"

    def _render_aggregate(self, aggregate: Aggregate) -> str:
        argument = "*" if aggregate.argument is None else self._render(aggregate.argument)
        result = AGGREGATES[aggregate.function](AttributeType.TEXT if aggregate.argument is None else _plain(aggregate.argument.type))
        assert result is not None
        return result[1].format(f"DISTINCT {argument}" if aggregate.distinct else argument)

    def _parameter(self, value: object, sql_type: str) -> str:
        """Return the SQL of a bind parameter; equal constants share one, so that PostgreSQL sees equal expressions as equal."""
        identity = (sql_type, type(value), str(value) if isinstance(value, float | Decimal) else value)
        name = self._names.setdefault(identity, f"p{len(self._names)}")
        self._parameters[name] = list(value) if isinstance(value, tuple) else value
        return f'(%({name})s::{sql_type} COLLATE "C")' if sql_type == "text" else f"%({name})s::{sql_type}"


def is_total(expression: Expression) -> bool:
    """Tell whether an expression cannot fail, whatever the values of its attributes."""
    for part in walk(expression):
        if isinstance(part, Call) and not OPERATIONS[part.operation].total:
            return False
        if isinstance(part, Aggregate) and part.function in ("sum", "avg"):
            return False
    return True


def _column_name(column: Column) -> str:
    return column.slot or "k"


def _plain(kind: AttributeType) -> AttributeType:
    return AttributeType.TEXT if kind is AttributeType.VARCHAR else kind
