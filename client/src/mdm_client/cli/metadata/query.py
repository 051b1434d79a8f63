"""mdm query: rows as a table, JSON lines, CSV, Arrow or Parquet."""

import io
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, cast

import click

from mdm_client.cli.context import Session, force_option, parameter_option, session_command
from mdm_client.cli.error import OK, SOME_FAILED, show_client_error, show_error
from mdm_client.cli.output import json_rows, print_line, table_rows
from mdm_client.client import Client
from mdm_client.federation.query import FederatedAnswer, query_sites
from mdm_client.local_file import Writer, new_file
from mdm_client.metadata.client import MetadataClient
from mdm_client.metadata.table import arrow_schema, record_batch
from mdm_client.metadata.value import Column, Row, unique_names

FORMATS = ("table", "jsonl", "csv", "arrow", "parquet")
#: Formats that are bytes, and belong in a file or a pipe.
BINARY = frozenset({"arrow", "parquet"})
_CSV_SPECIAL = frozenset(',"\r\n')


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
    """Write batches of rows as an Arrow IPC stream or as Parquet, as they arrive; types and errors as `arrow_schema`."""
    schema = arrow_schema(columns)
    from pyarrow import ipc, parquet

    opened: Any = ipc.new_stream(sink, schema) if format_name == "arrow" else parquet.ParquetWriter(sink, schema, compression="zstd")
    with opened as writer:
        for rows in batches:
            writer.write_batch(record_batch(schema, columns, rows))


_Ask = Callable[[Mapping[str, MetadataClient]], AbstractContextManager[FederatedAnswer]]
_LINES: dict[str, Callable[[Sequence[Column], Iterator[Row]], Iterator[str]]] = {"table": table_rows, "jsonl": json_rows, "csv": csv_rows}


@click.command()
@click.argument("sql")
@click.option("--format", "format_name", type=click.Choice(FORMATS), help="How rows are written; table unless --json.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to a file, which appears when it is whole.")
@force_option
@click.option("--sites", metavar="SITE,…|all", help="Ask the metadata of several sites and merge; {site} in SQL is each site's name.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds for the whole answer.")
@parameter_option
@session_command
def query(
    run: Session,
    sql: str,
    format_name: str | None,
    output: Path | None,
    force: bool,
    sites: str | None,
    timeout: float | None,
    parameters: Mapping[str, str],
) -> int:
    """Ask the metadata in SQL (SELECT); rows are written as they arrive.

    Collections are quoted: SELECT guid, lfn FROM "/biomed/hospital-a/images" WHERE Modality = 'CT' LIMIT 10

    With --sites, rows of sites that answer are written; those that do not are named, and the exit code is 1.
    """
    chosen = format_name or ("jsonl" if run.as_json else "table")
    if chosen in BINARY and output is None and sys.stdout.isatty():
        raise click.UsageError(f"{chosen} is for a file or a pipe: give -o FILE")
    client = run.client()
    with new_file(output, replace=force) if output else nullcontext() as file:
        if sites is not None:
            return _query_sites(run, client, sites, lambda asked: query_sites(asked, sql, timeout, parameters), chosen, file)
        result = client.metadata.query(sql, timeout, parameters=parameters)
        try:
            write_rows(chosen, result.columns, result.batches(), file)
        finally:
            result.close()
    return OK


def _query_sites(run: Session, client: Client, sites: str, ask: _Ask, chosen: str, file: Writer | None) -> int:
    names = sorted(client.config.metadata_sites) if sites == "all" else [name for name in sites.split(",") if name]
    with ask({name: client.metadata_at(name) for name in names}) as answer:
        write_rows(chosen, answer.columns, answer.batches(), file)
    for site, error in answer.failures.items():
        show_client_error(error, run.as_json, site)
    for site in answer.empty:
        message = f"{site}: no rows: nothing there matches, or you may not read what does"
        show_error(message if run.as_json else f"note: {message}", "SITE_EMPTY", run.as_json, item=site)
    return SOME_FAILED if answer.failures else OK


def write_rows(format_name: str, columns: Sequence[Column], batches: Iterable[Sequence[Row]], file: Writer | None) -> None:
    """Write an answer in one of `FORMATS` to a file, or else to standard output, as it arrives; errors as `write_arrow`."""
    if format_name in BINARY:
        write_arrow(format_name, columns, batches, cast(BinaryIO, _Sink(file)) if file else sys.stdout.buffer)
        return
    write = (lambda line: file.write(f"{line}\n".encode())) if file else print_line
    for line in _LINES[format_name](columns, chain.from_iterable(batches)):
        write(line)


class _Sink(io.RawIOBase):
    """A writer as the file object that pyarrow wants."""

    def __init__(self, writer: Writer) -> None:
        super().__init__()
        self._writer = writer

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._writer.write(data)
        return len(data)
