"""Rows as files for other programs: CSV, and Arrow and Parquet where pyarrow is installed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime
from typing import Any, BinaryIO

from mdm_wire.errors import Invalid

from mdm_client.cli.table import unique_names
from mdm_client.metadata.value import Column, Row

FORMATS = ("table", "jsonl", "csv", "arrow", "parquet")
#: Formats that are bytes, and belong in a file or a pipe.
BINARY = frozenset({"arrow", "parquet"})
_CSV_SPECIAL = frozenset(',"\r\n')

_CONVERT: dict[str, Callable[[str], Any]] = {"date": date.fromisoformat, "timestamp": datetime.fromisoformat}


def csv_rows(columns: Sequence[Column], rows: Iterable[Row]) -> Iterator[str]:
    """Yield records of CSV (RFC 4180, but with LF between records, as Unix tools need), header first.

    NULL is an empty field and empty text a quoted one. Values are as they are stored, also what a spreadsheet takes for a formula.
    """
    yield ",".join(map(_csv_field, unique_names(columns)))
    for row in rows:
        yield ",".join(map(_csv_field, row))


def _csv_field(value: Any) -> str:
    if value is None:
        return ""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    # Blanks at the ends belong to the value (RFC 4180, 2.4), and not all readers know it.
    quoted = not text or text != text.strip() or not _CSV_SPECIAL.isdisjoint(text)
    return '"' + text.replace('"', '""') + '"' if quoted else text


def write_arrow(format_name: str, columns: Sequence[Column], batches: Iterable[Sequence[Row]], sink: BinaryIO) -> None:
    """Write batches of rows as an Arrow IPC stream or as Parquet, as they arrive.

    Types: int64, float64, bool, text, date32, timestamp in microseconds UTC; NUMERIC and UUID are text, exactly. Units of attributes are
    field metadata under `unit`.

    Raises:
        Invalid: PYARROW_MISSING.
    """
    try:
        import pyarrow as pa
        from pyarrow import ipc, parquet
    except ImportError:
        raise Invalid("PYARROW_MISSING", "Arrow and Parquet need pyarrow: pip install 'mdm-client[arrow]'") from None
    kinds = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "date": pa.date32(), "timestamp": pa.timestamp("us", tz="UTC")}
    fields = [
        pa.field(name, kinds.get(column.type, pa.string()), metadata={"unit": column.unit} if column.unit else None)
        for name, column in zip(unique_names(columns), columns, strict=True)
    ]
    schema = pa.schema(fields)
    opened: Any = ipc.new_stream(sink, schema) if format_name == "arrow" else parquet.ParquetWriter(sink, schema, compression="zstd")
    with opened as writer:
        for rows in batches:
            writer.write_batch(_batch(pa, schema, columns, rows))


def _batch(pa: Any, schema: Any, columns: Sequence[Column], rows: Sequence[Row]) -> Any:
    arrays = []
    for field, column, values in zip(schema, columns, zip(*rows, strict=True), strict=True):
        convert = _CONVERT.get(column.type)
        arrays.append(pa.array([None if v is None else convert(v) for v in values] if convert else values, type=field.type))
    return pa.record_batch(arrays, schema=schema)
