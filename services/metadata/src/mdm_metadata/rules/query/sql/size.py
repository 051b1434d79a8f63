"""How large what a query makes may be: bounds on memory, known before anything runs.

PostgreSQL keeps all that it makes of one row until the next one, and reads an entry's values anew for each mention of one; this service
keeps a batch of rows. So a query's texts, mentions and sorts are bounded, and rows that may be large come in smaller batches.
"""

from collections.abc import Iterable, Sequence

from mdm_wire.errors import Invalid

from mdm_metadata.rules.model import MAX_ENTRY, MAX_INDEXED_TEXT, MAX_KEY, MAX_TEXT, Attribute, AttributeType, StoredCollection
from mdm_metadata.rules.query.syntax.limit import MAX_BATCH, MAX_BATCH_SIZE, MAX_COLUMNS, MAX_DISTINCT, MAX_MADE
from mdm_metadata.rules.query.syntax.tree import Aggregate, Call, Column, Expression, Literal, LiteralList, walk

T = AttributeType
#: Characters of a number, date or UUID as text; a decimal of an attribute has at most 501.
_PLAIN = 510
#: Operations that make a text as large as their operands, beyond what they give.
_MAKING = frozenset(("||", "LOWER", "UPPER", "TRIM", "SUBSTRING", "any→text", "ILIKE", "ILIKE ANY PATTERN"))
#: Digits that some operations add to those of their operands: as many as a CAST of text gives, or ROUND keeps.
_DIGITS = {"text→numeric": 1_400, "ROUND TO": 1_000}


class Sizes:
    """The largest sizes of expressions over some collections, in characters."""

    def __init__(self, collections: Sequence[StoredCollection]) -> None:
        self._longest = [{stored.slot: _longest(stored.attribute) for stored in item.attributes} for item in collections]
        self._known: dict[int, tuple[Expression, int]] = {}

    def of(self, expression: Expression) -> int:
        """Return how many characters a value has at most."""
        if id(expression) not in self._known:
            self._known[id(expression)] = expression, self._compute(expression)
        return self._known[id(expression)][1]

    def check(self, expressions: Iterable[Expression]) -> None:
        """Check what all expressions of a query make of one row.

        Raises:
            Invalid: too much, or of too many attributes.
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
        """Return how many rows with these columns are read at a time."""
        plain = {item for item in outputs if isinstance(item, Column)}
        row = sum(self.of(item) for item in outputs) - sum(self.of(item) for item in plain)
        for source in {column.source for column in plain}:
            row += min(MAX_ENTRY, sum(self.of(column) for column in plain if column.source == source))
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
                return _PLAIN if argument is None else self.of(argument) + _PLAIN
            case Call(operation, _, kind):
                return self._operands(expression) + _DIGITS.get(operation, 0) if kind in (T.TEXT, T.NUMERIC) else _PLAIN

    def _operands(self, call: Call) -> int:
        return sum(self.of(argument) for argument in call.arguments)


def _longest(attribute: Attribute) -> int:
    if attribute.type not in (T.TEXT, T.VARCHAR):
        return _PLAIN
    return attribute.length or (MAX_INDEXED_TEXT if attribute.indexed else MAX_TEXT)
