"""The typed tree of a query: it can express every allowed query and nothing else."""

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from mdm_service.identity.caller import Caller
from mdm_wire.permission import Permission

from mdm_metadata.rules.model import AttributeType, StoredAttribute, StoredCollection

Constant = int | float | str | bool | Decimal | date | datetime | UUID | None


ACL_SLOT = "acl"


@dataclass(frozen=True, slots=True)
class Column:
    """An attribute of one source; `slot` is empty for the key and `ACL_SLOT` for the id of the entry's ACL."""

    source: int
    slot: str
    type: AttributeType


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant. It becomes a bind parameter. `name` is that of the caller's parameter, empty where the constant stands in the text."""

    value: Constant
    type: AttributeType
    name: str = ""


@dataclass(frozen=True, slots=True)
class LiteralList:
    """The constants of an IN list, all of one type. They become one bind parameter."""

    values: tuple[Constant, ...]
    type: AttributeType


@dataclass(frozen=True, slots=True)
class Call:
    """An operator or function of the table in `operation`."""

    operation: str
    arguments: tuple["Expression", ...]
    type: AttributeType


@dataclass(frozen=True, slots=True)
class Aggregate:
    """An aggregate function; no argument means COUNT(*)."""

    function: str
    argument: "Expression | None"
    distinct: bool
    type: AttributeType


Expression = Column | Literal | LiteralList | Call | Aggregate


def walk(expression: Expression) -> list[Expression]:
    """Return an expression and all its parts."""
    found = []
    pending = [expression]
    while pending:
        part = pending.pop()
        found.append(part)
        if isinstance(part, Call):
            pending.extend(part.arguments)
        elif isinstance(part, Aggregate) and part.argument is not None:
            pending.append(part.argument)
    return found


@dataclass(frozen=True)
class Readable:
    """A collection or view and its visible rows: those on which `reader` holds one of `permissions`, and that fulfil `condition`.

    With `min_cell`, only counts of at least that many rows may be returned. `condition` cannot fail on any value.
    """

    collection: StoredCollection
    reader: Caller
    permissions: int = int(Permission.READ)
    condition: Expression | None = None
    min_cell: int = 0

    @property
    def entries_of(self) -> int:
        """The collection that contains the entries."""
        return self.collection.id if self.collection.view is None else self.collection.view.target_id


@dataclass(frozen=True)
class Source:
    """An item of FROM; `join` is empty for the first and after a comma."""

    readable: Readable
    join: str = ""
    on: Expression | None = None


@dataclass(frozen=True)
class Output:
    """A column of the answer."""

    name: str
    expression: Expression
    type: AttributeType
    unit: str = ""


@dataclass(frozen=True)
class Order:
    """A criterion of ORDER BY."""

    expression: Expression
    descending: bool
    nulls_first: bool


@dataclass(frozen=True)
class Query:
    """A whole SELECT."""

    sources: tuple[Source, ...]
    outputs: tuple[Output, ...]
    where: Expression | None
    group_by: tuple[Expression, ...]
    having: Expression | None
    order_by: tuple[Order, ...]
    distinct: bool
    limit: int | None
    offset: int | None
    min_cell: int = 0


@dataclass(frozen=True)
class Change:
    """An UPDATE (with `sets`) or DELETE (without) of one collection; with a limit, rows that others have locked are skipped."""

    readable: Readable
    sets: tuple[tuple[StoredAttribute, Expression], ...]
    where: Expression | None
    order_by: tuple[Order, ...]
    limit: int | None
    returning: tuple[Output, ...]
