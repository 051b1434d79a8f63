"""Metadata queries: columns and rows, streamed."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import grpc
from mdm.metadata.v1 import metadata_pb2, metadata_pb2_grpc
from mdm_wire.errors import Corrupt
from mdm_wire.status import from_rpc_error

from mdm_client.calls import Patience, Service

_INT = metadata_pb2.ATTRIBUTE_TYPE_INT
_FLOAT = metadata_pb2.ATTRIBUTE_TYPE_FLOAT
_BOOL = metadata_pb2.ATTRIBUTE_TYPE_BOOL
_TYPE_NAMES = {value: name.removeprefix("ATTRIBUTE_TYPE_").lower() for name, value in metadata_pb2.AttributeType.items()}
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


class QueryResult:
    """An answer: its columns, and its rows as they arrive. Iterate once; `close` gives the rest up."""

    def __init__(self, place: str, call: Any, first: metadata_pb2.QueryResponse) -> None:
        self.columns = columns_of(first.header)
        self.merge = first.header.merge
        self.kinds = [column.type for column in first.header.columns]
        self._place = place
        self._call = call
        self._first = first

    def batches(self) -> Iterator[list[Row]]:
        """Yield lists of rows as they were sent; values are int, float, bool, text or None."""
        try:
            for response in itertools.chain([self._first], self._call):
                if response.HasField("rows"):
                    yield decode_batch(response.rows, self.kinds)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._place) from error

    def __iter__(self) -> Iterator[Row]:
        """Yield rows whose values have Python's types: Decimal, date, datetime and UUID too."""
        converters = [(i, _FROM_TEXT[c.type]) for i, c in enumerate(self.columns) if c.type in _FROM_TEXT]
        for batch in self.batches():
            for row in batch:
                yield _converted(row, converters) if converters else row

    def close(self) -> None:
        """Stop the query on the server."""
        self._call.cancel()


class MetadataClient(Service):
    """Calls of `mdm.metadata.v1` that a user needs."""

    def __init__(self, channel: grpc.Channel, patience: Patience = Patience()) -> None:  # noqa: B008 - frozen
        super().__init__("metadata", channel, patience)
        self._stub = metadata_pb2_grpc.MetadataServiceStub(channel)

    def query(
        self, sql: str, timeout: float | None = None, *, partial: bool = False, parameters: Mapping[str, Any] | None = None
    ) -> QueryResult:
        """Return the answer to a SQL SELECT once its first rows are there; `timeout` in seconds covers all rows.

        `parameters` are the values of `:name` in the text: never write values into it that others gave you. A text asked again with other
        values is answered faster than another text.
        With `partial`, a site's part of a query over several, with the `merge` plan; see `mdm_client.federation.query`.

        Raises:
            MdmError: Invalid where the SQL is not accepted; also later, while rows are read.
        """

        request = metadata_pb2.QueryRequest(sql=sql, partial=partial, parameters=to_values(parameters))

        def attempt() -> QueryResult:
            call = self._stub.Query(request, timeout=timeout)
            first = next(call, None)
            if first is None or not first.HasField("header"):
                raise Corrupt("ANSWER_MALFORMED", "metadata: the answer does not begin with its header")
            return QueryResult(self.place, call, first)

        result: QueryResult = self.repeat(attempt)
        return result


def to_value(value: Any) -> metadata_pb2.Value:
    """Return a value of Python's as it is sent; what is neither int, float, bool nor None goes as its text."""
    match value:
        case None:
            return metadata_pb2.Value()
        case bool():
            return metadata_pb2.Value(bool=value)
        case int():
            return metadata_pb2.Value(int=value)
        case float():
            return metadata_pb2.Value(float=value)
        case _:
            return metadata_pb2.Value(text=str(value))


def to_values(values: Mapping[str, Any] | None) -> dict[str, metadata_pb2.Value]:
    """Return values by name as they are sent."""
    return {name: to_value(value) for name, value in (values or {}).items()}


def columns_of(header: metadata_pb2.QueryHeader) -> list[Column]:
    """Return the columns that a header describes."""
    return [Column(column.name, _TYPE_NAMES.get(column.type, "text"), column.unit) for column in header.columns]


def decode_batch(batch: metadata_pb2.RowBatch, types: Sequence[int]) -> list[Row]:
    """Return the rows of a columnar batch.

    Raises:
        Corrupt: a column is missing or has another length than the batch.
    """
    if len(batch.columns) != len(types):
        raise Corrupt("ANSWER_MALFORMED", "metadata: a batch of rows has other columns than its header")
    columns = [_values(column, kind, batch.count) for column, kind in zip(batch.columns, types, strict=True)]
    return list(zip(*columns, strict=True)) if columns else [()] * batch.count


def _values(column: metadata_pb2.ColumnData, kind: int, count: int) -> Sequence[Any]:
    values: list[Any]
    if kind == _INT:
        values = list(column.ints)
    elif kind == _FLOAT:
        values = list(column.floats)
    elif kind == _BOOL:
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


def _converted(row: Row, converters: Sequence[tuple[int, Callable[[str], Any]]]) -> Row:
    values = list(row)
    for index, convert in converters:
        if values[index] is not None:
            values[index] = convert(values[index])
    return tuple(values)
