"""Values, columns and rows of the metadata service: from Python to messages, and back."""

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

_LISTS: dict[int, str] = {pb.ATTRIBUTE_TYPE_INT: "ints", pb.ATTRIBUTE_TYPE_FLOAT: "floats", pb.ATTRIBUTE_TYPE_BOOL: "bools"}

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Column:
    """A column of an answer: name, type (`int`, `float`, `numeric`, `text`, …), unit or empty."""

    name: str
    type: str
    unit: str


def to_value(value: Any) -> pb.Value:
    """Return the message of a value; one that is neither int, float, bool nor None is sent as text."""
    if value is None:
        return pb.Value()
    kind = next((kind.__name__ for kind in (bool, int, float) if isinstance(value, kind)), "")
    return pb.Value(**{kind: value}) if kind else pb.Value(text=str(value))


def to_values(values: Mapping[str, Any] | None) -> dict[str, pb.Value]:
    """Return the messages of values by name."""
    return {name: to_value(value) for name, value in (values or {}).items()}


def columns_of(header: pb.QueryHeader) -> list[Column]:
    """Return the columns that a header describes."""
    return [Column(column.name, TYPE_NAMES.get(column.type, "text"), column.unit) for column in header.columns]


def unique_names(columns: Sequence[Column]) -> list[str]:
    """Return column names, each of them once: one that occurs again gets a number."""
    names: list[str] = []
    for column in columns:
        name, number = column.name, 2
        while name in names:
            name, number = f"{column.name}_{number}", number + 1
        names.append(name)
    return names


def decode_batch(batch: pb.RowBatch, types: Sequence[int]) -> list[Row]:
    """Return the rows of a columnar batch.

    Raises:
        Corrupt: a column is missing or has another length than the batch.
    """
    if len(batch.columns) != len(types):
        raise Corrupt("ANSWER_MALFORMED", "metadata: the columns of a batch differ from the header")
    columns = [_values(column, kind, batch.count) for column, kind in zip(batch.columns, types, strict=True)]
    return list(zip(*columns, strict=True)) if columns else [()] * batch.count


def value_of(kind: str, text: str, name: str) -> Any:
    """Return the value of the attribute `name`, of type `kind`, from text, as entries have it.

    Raises:
        Invalid: VALUE_TYPE: the text is not a value of this type.
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
    values: list[Any] = list(getattr(column, _LISTS.get(kind, "texts")))
    if len(values) != count:
        raise Corrupt("ANSWER_MALFORMED", "metadata: a column of a batch has the wrong number of values")
    if column.nulls:
        nulls = column.nulls
        for index in range(min(count, len(nulls) * 8)):
            if nulls[index >> 3] >> (index & 7) & 1:
                values[index] = None
    return values


def python_rows(rows: Sequence[Row], columns: Sequence[Column]) -> Sequence[Row]:
    """Return rows with Python's types: Decimal, date, datetime and UUID too."""
    converters = [(i, _FROM_TEXT[c.type]) for i, c in enumerate(columns) if c.type in _FROM_TEXT]
    return [_converted(row, converters) for row in rows] if converters else rows


def _converted(row: Row, converters: Sequence[tuple[int, Callable[[str], Any]]]) -> Row:
    values = list(row)
    for index, convert in converters:
        if values[index] is not None:
            values[index] = convert(values[index])
    return tuple(values)
