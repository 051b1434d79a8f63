"""Answers of the metadata service: columns become rows."""

import json
from datetime import date
from decimal import Decimal
from uuid import UUID

import pytest
from mdm.metadata.v1 import metadata_pb2
from mdm_client.cli.output import json_rows, table_rows
from mdm_client.metadata.client import MetadataClient
from mdm_client.metadata.value import Column, decode_batch
from mdm_wire.channel import open_channel
from mdm_wire.errors import Corrupt

TEXT, INT = metadata_pb2.ATTRIBUTE_TYPE_TEXT, metadata_pb2.ATTRIBUTE_TYPE_INT
GUID = "0190b0a0-1234-4abc-8def-0123456789ab"


def test_nulls_are_marked_by_bits_least_significant_first():
    column = metadata_pb2.ColumnData(ints=range(10), nulls=bytes([0b0000_0010, 0b0000_0010]))
    rows = decode_batch(metadata_pb2.RowBatch(count=10, columns=[column]), [INT])
    assert [row[0] for row in rows] == [0, None, 2, 3, 4, 5, 6, 7, 8, None]


@pytest.mark.parametrize(
    "batch",
    [
        metadata_pb2.RowBatch(count=2, columns=[metadata_pb2.ColumnData(ints=[1])]),
        metadata_pb2.RowBatch(count=1, columns=[]),
        metadata_pb2.RowBatch(count=1, columns=[metadata_pb2.ColumnData(texts=["1"])]),
    ],
)
def test_a_batch_that_does_not_match_its_header_is_refused(batch):
    with pytest.raises(Corrupt):
        decode_batch(batch, [INT])


def test_rows_have_the_types_of_python(grid):
    kinds = metadata_pb2.AttributeType.Value
    grid.metadata.columns = [(name, kinds(f"ATTRIBUTE_TYPE_{name}"), "") for name in ("UUID", "DATE", "NUMERIC", "TEXT")]
    columns = [metadata_pb2.ColumnData(texts=[text]) for text in (GUID, "2026-02-03", "1.50", "x")]
    null = [metadata_pb2.ColumnData(texts=[""], nulls=b"\x01") for _ in columns]
    grid.metadata.batches = [metadata_pb2.RowBatch(count=1, columns=some) for some in (columns, null)]
    with open_channel([grid.addresses["metadata"]], grid.alice) as channel:
        rows = list(MetadataClient(channel).query("SELECT"))
    assert rows == [(UUID(GUID), date(2026, 2, 3), Decimal("1.50"), "x"), (None, None, None, None)]


def test_an_answer_without_header_is_refused(grid):
    grid.metadata.headerless = True
    grid.metadata.batches = [metadata_pb2.RowBatch()]
    with open_channel([grid.addresses["metadata"]], grid.alice) as channel, pytest.raises(Corrupt):
        MetadataClient(channel).query("SELECT")


def test_columns_of_one_name_stay_apart_in_json():
    columns = [Column("guid", "text", ""), Column("guid", "text", "")]
    assert list(json_rows(columns, [("a", "b")])) == ['{"guid": "a", "guid_2": "b"}']


def test_numbers_that_json_lacks_are_not_lost():
    rows = [(value,) for value in (float("nan"), float("inf"), float("-inf"), 0.5, None)]
    found = [json.loads(line)["f"] for line in json_rows([Column("f", "float", "")], iter(rows))]
    assert found == ["NaN", "Infinity", "-Infinity", 0.5, None]


def test_a_decimal_keeps_its_digits_in_json():
    texts = ["12345678901234567890.125", "-0.50", "1E+3", "NaN", "Infinity", None]
    lines = list(json_rows([Column("n", "numeric", "")], iter([(text,) for text in texts])))
    assert lines[0] == '{"n": 12345678901234567890.125}'
    found = [json.loads(line, parse_float=Decimal)["n"] for line in lines]
    assert found == [Decimal(texts[0]), Decimal("-0.50"), Decimal("1E+3"), "NaN", "Infinity", None]


def test_a_cell_cannot_drive_the_terminal():
    lines = list(table_rows([Column("note", "text", "")], iter([("\x1b[2J red",)])))
    assert lines[-1] == "\\x1b[2J red"


def test_wide_characters_keep_columns_aligned():
    lines = list(table_rows([Column("a", "text", ""), Column("b", "int", "")], iter([("日本", 1), ("x", 22)])))
    assert lines[2:] == ["日本   1", "x     22"]
