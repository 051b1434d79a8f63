"""Statements: the typed tree becomes parameterised SQL, with the access rule inside every source.

Each source is an inner select over `entry`, limited to one collection and to ACLs under which its reader may see, so that the user's
expressions only ever see rows the caller may read. Conditions that cannot fail on any value may be evaluated earlier, by PostgreSQL's
choice, so that indexes can be used: they can neither raise an error nor reveal anything about a row that the access rule then removes.
When anything in the query can fail (a division, a cast), every inner select gets `OFFSET 0`: PostgreSQL moves no condition across it.
The inner selects also get `OFFSET 0` when a query mentions attributes very often, because each mention that PostgreSQL moves
to the entry reads the whole entry again.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mdm_wire.errors import Invalid

from mdm_metadata.rules.model import MAX_ENTRY, MAX_INDEXED_TEXT, MAX_KEY, MAX_TEXT, Attribute, AttributeType, StoredCollection
from mdm_metadata.rules.query.sql.render import Renderer, column_name, is_total, stored_column
from mdm_metadata.rules.query.syntax.tree import (
    Aggregate,
    Call,
    Change,
    Column,
    Expression,
    Literal,
    LiteralList,
    Output,
    Query,
    Source,
    walk,
)

T = AttributeType
#: Different attributes that a query mentions: an entry is read once for each.
MAX_COLUMNS = 1_000
#: Mentions of attributes, beyond their number, that PostgreSQL may move to the entries, where each reads the entry again.
MAX_MENTIONS = 100
#: Characters of all texts made of one row.
MAX_MADE = 67_108_864
#: Aggregates of DISTINCT values, each of which sorts.
MAX_DISTINCT = 20
#: Rows, and characters, that are read from the database at a time.
MAX_BATCH = 1_000
MAX_BATCH_SIZE = 8_388_608
#: Characters of a number, date or UUID as text; a decimal of an attribute has at most 501.
_PLAIN = 510
#: Operations that make a text as large as their operands, beyond what they give.
_MAKING = frozenset(("||", "LOWER", "UPPER", "TRIM", "SUBSTRING", "any→text", "ILIKE", "ILIKE ANY PATTERN"))
#: Digits that some operations add to those of their operands: as many as a CAST of text gives, or ROUND keeps.
_DIGITS = {"text→numeric": 1_400, "ROUND TO": 1_000}


@dataclass(frozen=True)
class Statement:
    """SQL with named parameters, the columns of its answer, the most rows it has (None: any number), and how many to read at a time.

    `given` maps SQL parameters to the caller's parameters that they hold, by name and the type it became.
    """

    sql: str
    parameters: Mapping[str, object]
    outputs: tuple[Output, ...]
    limit: int | None
    batch: int = MAX_BATCH
    given: Mapping[str, tuple[str, AttributeType]] = field(default_factory=dict)


def compile_query(query: Query) -> Statement:
    """Return the SQL that answers `query` from the rows that the readers of its sources may see.

    Raises:
        Invalid: QUERY_TOO_LARGE: it would make too much text of one row.
    """
    return _Compiler(query).statement()


def compile_change(change: Change, permissions: int, limit: int) -> Statement:
    """Return the SQL that locks at most `limit` entries to change and returns their keys and new values.

    The entries are those that the reader may see and, unless `permissions` is 0, has any of `permissions` on. A condition that can
    fail is evaluated under a CASE that tests the rule first, because PostgreSQL keeps that order.

    Raises:
        Invalid: as `compile_query`.
    """
    sizes, values = _Sizes([change.readable.collection]), [value for _, value in change.sets]
    sizes.check([*values, *(item.expression for item in change.order_by), *([] if change.where is None else [change.where])])
    renderer = Renderer()
    rule = renderer.rule(change.readable)
    if permissions:
        rule += " AND " + renderer.holds(change.readable.reader, permissions)
    terms = [rule]
    if change.where is not None:
        condition = renderer.stored(change.where)
        terms.append(condition if is_total(change.where) else f"CASE WHEN {rule} THEN {condition} ELSE false END")
    columns = ["e.key", *(renderer.stored(value) for _, value in change.sets)]
    order = ", ".join(_direction(renderer.stored(item.expression), item.descending, item.nulls_first) for item in change.order_by)
    parts = [f"SELECT {', '.join(columns)} FROM entry AS e WHERE {' AND '.join(terms)}"]  # noqa: S608 - no text of the user's
    parts.append(f"ORDER BY {order}" if order else "")
    parts.append(f"LIMIT {limit} FOR UPDATE OF e" + ("" if change.limit is None else " SKIP LOCKED"))
    outputs = tuple(Output(stored.attribute.name, value, stored.attribute.type) for stored, value in change.sets)
    return Statement(" ".join(part for part in parts if part), renderer.parameters, outputs, limit, sizes.batch(values), renderer.given)


def compile_checks(conditions: Sequence[Expression]) -> tuple[str, Mapping[str, object]]:
    """Return SQL, with its parameters, that returns the number of the first condition that a row `e` does not fulfil, else NULL."""
    renderer = Renderer()
    cases = " ".join(f"WHEN {renderer.stored(condition)} IS FALSE THEN {number}" for number, condition in enumerate(conditions))
    return f"CASE {cases} END", renderer.parameters


class _Compiler:
    def __init__(self, query: Query) -> None:
        self._query = query
        self._sizes = _Sizes([source.readable.collection for source in query.sources])
        self._sizes.check(self._expressions([] if query.where is None else [query.where]))
        self._renderer = Renderer()
        self._renderer.min_cell = query.min_cell
        self._positions: dict[Expression, int] = {}
        for position, output in enumerate(query.outputs, 1):
            self._positions.setdefault(output.expression, position)

    def statement(self) -> Statement:
        query, computed = self._query, self._renderer.computed
        often = self._mentions_often()
        pushed, kept = self._split_where(none=often)
        barrier = " OFFSET 0" if often or not all(is_total(expression) for expression in self._expressions(kept)) else ""
        parts = ["SELECT DISTINCT" if query.distinct else "SELECT"]
        parts.append(", ".join(f"{computed(output.expression)} AS o{number}" for number, output in enumerate(query.outputs)))
        sources = " ".join(self._source(number, source, pushed[number], barrier) for number, source in enumerate(query.sources))
        parts.append(f"FROM {sources}")
        if kept:
            parts.append("WHERE " + " AND ".join(computed(term) for term in kept))
        if query.group_by:
            parts.append("GROUP BY " + ", ".join(computed(expression) for expression in query.group_by))
        if query.having is not None:
            parts.append("HAVING " + computed(query.having))
        if query.min_cell:
            parts.append(f"HAVING count(*) >= {query.min_cell}")
        if query.order_by:
            parts.append("ORDER BY " + ", ".join(self._order(number) for number in range(len(query.order_by))))
        if query.limit is not None:
            parts.append(f"LIMIT {query.limit}")
        if query.offset is not None:
            parts.append(f"OFFSET {query.offset}")
        batch = self._sizes.batch([output.expression for output in query.outputs])
        return Statement(" ".join(parts), self._renderer.parameters, query.outputs, query.limit, batch, self._renderer.given)

    def _mentions_often(self) -> bool:
        where = [] if self._query.where is None else [self._query.where]
        mentions = [part for expression in self._expressions(where) for part in walk(expression) if isinstance(part, Column)]
        return len(mentions) - len(set(mentions)) > MAX_MENTIONS

    def _split_where(self, *, none: bool) -> tuple[list[list[Expression]], list[Expression]]:
        """Return the terms of WHERE that belong inside each source (with `none`, no term does), and the rest."""
        pushed: list[list[Expression]] = [[] for _ in self._query.sources]
        kept: list[Expression] = []
        where = self._query.where
        terms = where.arguments if isinstance(where, Call) and where.operation == "AND" else () if where is None else (where,)
        for term in terms:
            sources = {part.source for part in walk(term) if isinstance(part, Column)}
            if not none and len(sources) == 1 and is_total(term) and self._query.sources[min(sources)].join != "LEFT JOIN":
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
        selected = ", ".join(f"{stored_column(column)} AS {column_name(column)}" for column in self._columns(number)) or "1"
        terms = [self._renderer.rule(source.readable), *(self._renderer.stored(condition) for condition in conditions)]
        inner = f"(SELECT {selected} FROM entry AS e WHERE {' AND '.join(terms)}{barrier}) AS s{number}"  # noqa: S608 - no text of the user's
        if not number:
            return inner
        return f"{source.join} {inner}" + ("" if source.on is None else f" ON {self._renderer.computed(source.on)}")

    def _columns(self, number: int) -> list[Column]:
        """Return the columns of one source that the query mentions."""
        conditions = [] if self._query.where is None else [self._query.where]
        parts = (part for expression in self._expressions(conditions) for part in walk(expression))
        return sorted({part for part in parts if isinstance(part, Column) and part.source == number}, key=lambda column: column.slot)

    def _order(self, number: int) -> str:
        order = self._query.order_by[number]
        position = self._positions.get(order.expression)
        rendered = self._renderer.computed(order.expression) if position is None else str(position)
        return _direction(rendered, order.descending, order.nulls_first)


def _direction(rendered: str, descending: bool, nulls_first: bool) -> str:
    return f"{rendered} {'DESC' if descending else 'ASC'} NULLS {'FIRST' if nulls_first else 'LAST'}"


class _Sizes:
    """The largest sizes of expressions over some collections, in characters: bounds on memory, known before anything runs.

    PostgreSQL keeps all that it makes of one row until the next one, and reads an entry's values again for each mention of one; this
    service keeps a batch of rows. So a query's texts, mentions and sorts are bounded, and rows that may be large come in smaller batches.
    """

    def __init__(self, collections: Sequence[StoredCollection]) -> None:
        self._longest = [{stored.slot: _longest(stored.attribute) for stored in item.attributes} for item in collections]
        self._known: dict[int, tuple[Expression, int]] = {}

    def largest(self, expression: Expression) -> int:
        """Return the greatest number of characters of a value."""
        if id(expression) not in self._known:
            self._known[id(expression)] = expression, self._compute(expression)
        return self._known[id(expression)][1]

    def check(self, expressions: Iterable[Expression]) -> None:
        """Check the size of what all expressions of a query make of one row.

        Raises:
            Invalid: QUERY_TOO_LARGE: too much, or from too many attributes.
        """
        parts = [part for expression in expressions for part in walk(expression)]
        made = sum(self._operands(part) for part in parts if isinstance(part, Call) and part.operation in _MAKING)
        if made > MAX_MADE:
            raise Invalid(
                "QUERY_TOO_LARGE", f"The query makes texts of more than {MAX_MADE} characters of one entry: use || and LOWER less often."
            )
        if len({part for part in parts if isinstance(part, Column)}) > MAX_COLUMNS:
            raise Invalid("QUERY_TOO_LARGE", f"A query mentions at most {MAX_COLUMNS} different attributes.")
        if len({part for part in parts if isinstance(part, Aggregate) and part.distinct}) > MAX_DISTINCT:
            raise Invalid("QUERY_TOO_LARGE", f"A query has at most {MAX_DISTINCT} aggregates of DISTINCT values.")

    def batch(self, outputs: Sequence[Expression]) -> int:
        """Return how many rows with these columns to read at a time."""
        plain = {item for item in outputs if isinstance(item, Column)}
        row = sum(self.largest(item) for item in outputs) - sum(self.largest(item) for item in plain)
        for source in {column.source for column in plain}:
            row += min(MAX_ENTRY, sum(self.largest(column) for column in plain if column.source == source))
        return max(1, min(MAX_BATCH, MAX_BATCH_SIZE // max(1, row)))

    def _compute(self, expression: Expression) -> int:
        match expression:
            case Literal(_, T.TEXT, name) if name:
                return MAX_TEXT  # the statement may be used again, for a longer value
            case Literal(value):
                return len(value) if isinstance(value, str) else _PLAIN
            case LiteralList():
                return 0
            case Column(source, slot):
                return self._longest[source].get(slot, MAX_KEY)
            case Aggregate(argument=argument):
                return _PLAIN if argument is None else self.largest(argument) + _PLAIN
            case Call(operation, _, kind):
                return self._operands(expression) + _DIGITS.get(operation, 0) if kind in (T.TEXT, T.NUMERIC) else _PLAIN

    def _operands(self, call: Call) -> int:
        return sum(self.largest(argument) for argument in call.arguments)


def _longest(attribute: Attribute) -> int:
    if attribute.type not in (T.TEXT, T.VARCHAR):
        return _PLAIN
    return attribute.length or (MAX_INDEXED_TEXT if attribute.indexed else MAX_TEXT)
