"""Rows of the metadata service as Arrow tables; needs pyarrow, which is imported when it is used."""

from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime
from typing import Any

from mdm_wire.errors import Invalid

from mdm_client.metadata.value import Column, Row, unique_names

_CONVERT: dict[str, Callable[[str], Any]] = {"date": date.fromisoformat, "timestamp": datetime.fromisoformat}


def arrow_schema(columns: Sequence[Column]) -> Any:
    """Return the Arrow schema of columns.

    Types: int64, float64, bool, text, date32, timestamp in microseconds UTC; NUMERIC and UUID are text, exactly. Units of attributes are
    field metadata under `unit`.

    Raises:
        Invalid: PYARROW_MISSING.
    """
    try:
        import pyarrow as pa
    except ImportError:
        raise Invalid("PYARROW_MISSING", "Arrow and Parquet need pyarrow: pip install 'mdm-client[arrow]'") from None
    kinds = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "date": pa.date32(), "timestamp": pa.timestamp("us", tz="UTC")}
    return pa.schema(
        [
            pa.field(name, kinds.get(column.type, pa.string()), metadata={"unit": column.unit} if column.unit else None)
            for name, column in zip(unique_names(columns), columns, strict=True)
        ]
    )


def record_batch(schema: Any, columns: Sequence[Column], rows: Sequence[Row]) -> Any:
    """Return rows as an Arrow record batch of the schema."""
    import pyarrow as pa

    arrays = []
    for field, column, values in zip(schema, columns, zip(*rows, strict=True), strict=True):
        convert = _CONVERT.get(column.type)
        arrays.append(pa.array([None if v is None else convert(v) for v in values] if convert else values, type=field.type))
    return pa.record_batch(arrays, schema=schema)


def arrow_table(columns: Sequence[Column], batches: Iterable[Sequence[Row]]) -> Any:
    """Return an answer as a pyarrow.Table; errors as `arrow_schema`."""
    schema = arrow_schema(columns)
    import pyarrow as pa

    return pa.Table.from_batches([record_batch(schema, columns, rows) for rows in batches if rows], schema=schema)


def data_frame(columns: Sequence[Column], batches: Iterable[Sequence[Row]]) -> Any:
    """Return an answer as a pandas.DataFrame with Arrow's types, which keep whole numbers with gaps and dates as they are.

    Raises:
        Invalid: PANDAS_MISSING, PYARROW_MISSING.
    """
    try:
        import pandas
    except ImportError:
        raise Invalid("PANDAS_MISSING", "a data frame needs pandas: pip install 'mdm-client[table]'; or ask for kind=\"arrow\"") from None
    return arrow_table(columns, batches).to_pandas(types_mapper=pandas.ArrowDtype)
