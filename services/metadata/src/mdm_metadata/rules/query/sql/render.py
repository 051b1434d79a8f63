"""Typed expressions to SQL with bind parameters, and the access rule of a source."""

from collections.abc import Mapping
from decimal import Decimal
from typing import LiteralString

from mdm_service.identity.caller import Caller

from mdm_metadata.rules.model import AttributeType
from mdm_metadata.rules.query.syntax.operation import AGGREGATES, OPERATIONS
from mdm_metadata.rules.query.syntax.tree import ACL_SLOT, Aggregate, Call, Column, Expression, Literal, LiteralList, Readable, walk

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
# Whether the SQL function `acl_permissions` (mdm_service/acl_migrations), which is the definition, gives any of some permissions.
# Written out, because PostgreSQL answers this form by a probe for each of few rows, or by one hash, but a call only row by row.
_RULE = (
    "(EXISTS (SELECT FROM acl WHERE acl.id = e.acl_id AND acl.owner = %({reader})s)"
    " OR EXISTS (SELECT FROM acl_entry"
    " WHERE acl_entry.acl_id = e.acl_id AND acl_entry.principal = ANY (%({principals})s)"
    " AND acl_entry.permissions & {permissions} <> 0))"
)

#: The SQL function `acl_permissions` as an expression; the function is the definition. Written out, because a call starts a second
#: statement, which costs more than the rest of a query for one row. `acl` is an expression; `caller` and `principals` name parameters.
PERMISSIONS: LiteralString = (
    "CASE WHEN EXISTS (SELECT FROM acl WHERE acl.id = {acl} AND acl.owner = %({caller})s) THEN 255 ELSE coalesce((SELECT"
    " bit_or(permissions) FROM acl_entry WHERE acl_entry.acl_id = {acl} AND acl_entry.principal = ANY (%({principals})s)), 0) END"
)


class Renderer:
    """Renders the expressions of one statement as SQL and collects its parameters."""

    def __init__(self) -> None:
        self.parameters: dict[str, object] = {}
        self.given: dict[str, tuple[str, AttributeType]] = {}
        self.min_cell = 0
        self._names: dict[tuple[object, ...], str] = {}
        self._readers: list[Caller] = []

    def rule(self, readable: Readable) -> str:
        """Return the condition, on a row `e` of `entry`, that it is an entry of the source that the reader may see."""
        # The collection's number stands in the text: PostgreSQL plans for what is known of this collection.
        terms = [f"e.collection_id = {readable.entries_of:d}", self.holds(readable.reader, readable.permissions)]
        if readable.condition is not None:
            terms.append(self.stored(readable.condition))
        return " AND ".join(terms)

    def holds(self, reader: Caller, permissions: int) -> str:
        """Return the condition that the ACL of a row `e` grants the reader any of `permissions`."""
        if reader not in self._readers:
            self._readers.append(reader)
        number = self._readers.index(reader) or ""
        self.parameters[f"caller{number}"] = reader.dn
        self.parameters[f"principals{number}"] = sorted(reader.principals)
        rule = _RULE.format(reader=f"caller{number}", principals=f"principals{number}", permissions=permissions)
        if reader.delegation is None or reader.delegation.acl_ids is None:
            return rule
        self.parameters[f"delegated{number}"] = sorted(reader.delegation.acl_ids)
        return f"(e.acl_id = ANY (%(delegated{number})s::uuid[]) AND {rule})"

    def stored(self, expression: Expression) -> str:
        """Return the SQL of an expression over the attributes of a row `e` of `entry`."""
        return self._render(expression, stored=True)

    def computed(self, expression: Expression) -> str:
        """Return the SQL of an expression over the columns of the sources `s0`, `s1`, …"""
        return self._render(expression, stored=False)

    def parameter(self, value: object, sql_type: str) -> str:
        """Return the SQL of a bind parameter; equal constants share one, so that PostgreSQL sees equal expressions as equal."""
        identity = (sql_type, type(value), str(value) if isinstance(value, float | Decimal) else value)
        return self._placed(identity, list(value) if isinstance(value, tuple) else value, sql_type)

    def _constant(self, constant: Literal) -> str:
        sql_type = _SQL_TYPES[constant.type]
        if not constant.name:
            return self.parameter(constant.value, sql_type)
        placed = self._placed(("", constant.name, sql_type), constant.value, sql_type)
        self.given[self._names["", constant.name, sql_type]] = (constant.name, constant.type)
        return placed

    def _placed(self, identity: tuple[object, ...], value: object, sql_type: str) -> str:
        name = self._names.setdefault(identity, f"p{len(self._names)}")
        self.parameters[name] = value
        return f'(%({name})s::{sql_type} COLLATE "C")' if sql_type == "text" else f"%({name})s::{sql_type}"

    def _render(self, expression: Expression, *, stored: bool) -> str:
        if isinstance(expression, Column):
            return stored_column(expression) if stored else f"s{expression.source}.{column_name(expression)}"
        if isinstance(expression, Literal):
            return self._constant(expression)
        if isinstance(expression, LiteralList):
            return self.parameter(expression.values, _SQL_TYPES[expression.type] + "[]")
        if isinstance(expression, Aggregate):
            return self._aggregate(expression, stored=stored)
        return OPERATIONS[expression.operation].render([self._render(argument, stored=stored) for argument in expression.arguments])

    def _aggregate(self, aggregate: Aggregate, *, stored: bool) -> str:
        if self.min_cell:  # COUNT(*), as the binder made sure
            return f"(count(*) / {self.min_cell} * {self.min_cell})"
        argument = "*" if aggregate.argument is None else self._render(aggregate.argument, stored=stored)
        result = AGGREGATES[aggregate.function](T.TEXT if aggregate.argument is None else _plain(aggregate.argument.type))
        assert result is not None
        return result[1].format(f"DISTINCT {argument}" if aggregate.distinct else argument)


def stored_column(column: Column) -> str:
    """Return the SQL of an attribute, of the key, or of the ACL's id, of a row `e` of `entry`."""
    if column.slot == ACL_SLOT:
        return "e.acl_id"
    return STORED[column.type].format(column.slot) if column.slot else "e.key"


def column_name(column: Column) -> str:
    """Return the name of a column of an inner select."""
    return column.slot or "k"


def is_total(expression: Expression) -> bool:
    """Return whether an expression cannot fail, whatever the values of its attributes."""
    for part in walk(expression):
        if isinstance(part, Call) and not OPERATIONS[part.operation].total:
            return False
        if isinstance(part, Aggregate) and part.function in ("sum", "avg"):
            return False
    return True


def _plain(kind: AttributeType) -> AttributeType:
    return T.TEXT if kind is T.VARCHAR else kind
