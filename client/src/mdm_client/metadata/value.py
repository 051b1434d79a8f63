"""Values, columns and rows of the metadata service, between Python and what is sent."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from mdm.metadata.v1 import metadata_pb2 as pb
from mdm_wire.errors import Corrupt, Invalid

#: The types of attributes by name.
TYPES = {name.removeprefix("ATTRIBUTE_TYPE_").lower(): value for name, value in pb.AttributeType.items() if value}
TYPE_NAMES = {value: name for name, value in TYPES.items()}
_FROM_TEXT: dict[str, Callable[[str], Any]] = {
    "numeric": Decimal,
    "date": date.fromisoformat,
    "timestamp": datetime.fromisoformat,
    "uuid": UUID,
}

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Column:
    """A column of an answer: name, type (`int`, `float`, `numeric`, `text`, …), unit or empty."""

    name: str
    type: str
    unit: str


def to_value(value: Any) -> pb.Value:
    """Return a value of Python's as it is sent; what is neither int, float, bool nor None goes as its text."""
    match value:
        case None:
            return pb.Value()
        case bool():
            return pb.Value(bool=value)
        case int():
            return pb.Value(int=value)
        case float():
            return pb.Value(float=value)
        case _:
            return pb.Value(text=str(value))


def to_values(values: Mapping[str, Any] | None) -> dict[str, pb.Value]:
    """Return values by name as they are sent."""
    return {name: to_value(value) for name, value in (values or {}).items()}


def columns_of(header: pb.QueryHeader) -> list[Column]:
    """Return the columns that a header describes."""
    return [Column(column.name, TYPE_NAMES.get(column.type, "text"), column.unit) for column in header.columns]


def decode_batch(batch: pb.RowBatch, types: Sequence[int]) -> list[Row]:
    """Return the rows of a columnar batch.

    Raises:
        Corrupt: a column is missing or has another length than the batch.
    """
    if len(batch.columns) != len(types):
        raise Corrupt("ANSWER_MALFORMED", "metadata: a batch of rows has other columns than its header")
    columns = [_values(column, kind, batch.count) for column, kind in zip(batch.columns, types, strict=True)]
    return list(zip(*columns, strict=True)) if columns else [()] * batch.count


def value_of(kind: str, text: str, name: str) -> Any:
    """Return the value of the attribute `name`, of type `kind`, that `text` means, in the form entries take.

    Raises:
        Invalid: VALUE_TYPE: it is none.
    """
    try:
        if kind == "int":
            return int(text)
        if kind == "float":
            return float(text)
        if kind == "bool":
            return {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}[text.lower()]
    except (ValueError, KeyError):
        raise Invalid("VALUE_TYPE", f"{name}: a value of type {kind} is expected") from None
    return text


def _values(column: pb.ColumnData, kind: int, count: int) -> Sequence[Any]:
    values: list[Any]
    if kind == pb.ATTRIBUTE_TYPE_INT:
        values = list(column.ints)
    elif kind == pb.ATTRIBUTE_TYPE_FLOAT:
        values = list(column.floats)
    elif kind == pb.ATTRIBUTE_TYPE_BOOL:
        values = list(column.bools)
    else:
        values = list(column.texts)
    if len(values) != count:
        raise Corrupt("ANSWER_MALFORMED", "metadata: a column of a batch has the wrong number of values")
    if column.nulls:
        nulls = column.nulls
        for index in range(min(count, len(nulls) * 8)):
            if nulls[index >> 3] >> (index & 7) & 1:
                values[index] = None
    return values


def python_rows(rows: Sequence[Row], columns: Sequence[Column]) -> Sequence[Row]:
    """Return rows whose values have Python's types: Decimal, date, datetime and UUID too."""
    converters = [(i, _FROM_TEXT[c.type]) for i, c in enumerate(columns) if c.type in _FROM_TEXT]
    return [_converted(row, converters) for row in rows] if converters else rows


def _converted(row: Row, converters: Sequence[tuple[int, Callable[[str], Any]]]) -> Row:
    values = list(row)
    for index, convert in converters:
        if values[index] is not None:
            values[index] = convert(values[index])
    return tuple(values)
