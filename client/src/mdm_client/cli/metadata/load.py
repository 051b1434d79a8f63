"""meta load: reads entries from a dump, a CSV file, or a table of PostgreSQL."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import date, datetime
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TextIO

import click
from mdm_wire.batch import MAX_ENTRIES
from mdm_wire.errors import Conflict, FailedPrecondition, Invalid

from mdm_client.cli.context import RenamedOption, Session, session_command
from mdm_client.cli.error import OK, SOME_FAILED, show_client_error, show_error
from mdm_client.cli.metadata.restore import Item, Restoration
from mdm_client.cli.output import show
from mdm_client.client import Client
from mdm_client.metadata.client import Entry
from mdm_client.metadata.collections import Attribute, Collection
from mdm_client.metadata.value import value_of

#: PostgreSQL's types, by name, as attributes.
_POSTGRES_TYPES = {
    "int2": "int",
    "int4": "int",
    "int8": "int",
    "float4": "float",
    "float8": "float",
    "numeric": "numeric",
    "bool": "bool",
    "date": "date",
    "timestamptz": "timestamp",
    "uuid": "uuid",
}
_MAX_ERRORS = 20


@click.command()
@click.argument("path")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@click.option("--format", "format_name", type=click.Choice(["dump", "csv"]), help="What FILE is; CSV has a header (default: by its name).")
@click.option("--csv", "as_csv", is_flag=True, hidden=True, help="As --format csv.")
@click.option("--postgres", metavar="CONNINFO", help="Read a table of this PostgreSQL database instead of a file.")
@click.option("--table", metavar="NAME", help="The table, as schema.table or table.")
@click.option("--key", metavar="COLUMN", help="The column that holds the entries' keys (CSV, PostgreSQL).")
@click.option("--create", is_flag=True, help="Make the collection if it is not there: as dumped, or with the table's columns.")
@click.option(
    "--use-default-acl",
    "default_acl",
    cls=RenamedOption,
    old=["--default-acl"],
    is_flag=True,
    help="Guard entries by the collection's default access list, not by the dumped ones.",
)
@session_command
def load(
    run: Session,
    /,
    path: str,
    file: Path | None,
    format_name: str | None,
    as_csv: bool,
    postgres: str | None,
    table: str | None,
    key: str | None,
    **flags: bool,
) -> int:
    """Read entries into the collection PATH: from a dump (with what was dumped below it), a CSV file, or a table of PostgreSQL.

    Entries that exist are updated. Invalid ones are reported by line, and the others are stored: the command can be repeated.

    Access lists of a dump that do not exist here are made, with the same owner and principals; one that exists stays as it is.

    With --create, sequences go on where they were, and views show what you may read in their target.
    """
    client = run.client()
    if postgres is not None:
        if not table or not key:
            raise click.UsageError("--postgres needs --table NAME and --key COLUMN")
        return _store(run, client, _from_postgres(client, path, postgres, table, key, flags["create"]))
    if file is None:
        raise click.UsageError("name a FILE, or --postgres CONNINFO")
    if as_csv or (format_name or file.suffix.lower().removeprefix(".")) == "csv":
        if not key:
            raise click.UsageError("CSV needs --key COLUMN")
        return _store(run, client, _from_csv(client, path, file, key))
    restoration = Restoration(client, path, file, create=flags["create"], default_acl=flags["default_acl"])
    if (code := _store(run, client, restoration.items())) == OK:
        failures = restoration.finish()
        for item, error in failures:
            show_client_error(error, run.as_json, item)
        return SOME_FAILED if failures else OK
    if flags["create"]:
        show_error("new collections keep an access list of yours until all entries are stored: repeat", "LOAD_UNFINISHED", run.as_json)
    return code


def _store(run: Session, client: Client, entries: Iterable[Item]) -> int:
    """Store entries in batches; write the errors by line, and how many entries were stored."""
    stored = failed = 0
    for path, some in groupby(entries, key=lambda item: item[0]):
        while batch := list(islice(some, MAX_ENTRIES)):
            for (_, number, _), error in zip(batch, client.metadata.entries.upsert(path, [entry for _, _, entry in batch]), strict=True):
                if error is None:
                    stored += 1
                    continue
                failed += 1
                if failed <= _MAX_ERRORS:
                    show_client_error(error, run.as_json, f"line {number}")
    if failed > _MAX_ERRORS:
        show_error(f"and {failed - _MAX_ERRORS} more", "ENTRIES_FAILED", run.as_json)
    show(run.as_json, {"stored": stored, "failed": failed}, f"{stored} entries stored" + (f", {failed} not" if failed else ""))
    return SOME_FAILED if failed else OK


def _from_csv(client: Client, path: str, file: Path, key: str) -> Iterator[Item]:
    kinds = {attribute.name.lower(): attribute.type for attribute in client.metadata.collections.describe(path).attributes}
    with _csv_lines(file) as lines:
        reader = csv.reader(lines, strict=True)
        header = next(reader, [])
        if key not in header:
            raise Invalid("CSV_KEY", f"{file}: no column {key}; there are {', '.join(header)}")
        unknown = [name for name in header if name != key and name.lower() not in kinds]
        if unknown:
            raise Invalid("ATTRIBUTE_UNKNOWN", f"{file}: {path} has no attribute {unknown[0]}: add it with mdm meta attr add")
        try:
            for row in reader:
                number = reader.line_num
                cells = dict(zip(header, row, strict=True))
                values = {n: _cell(kinds[n.lower()], text, n) if text else None for n, text in cells.items() if n != key}
                yield path, number, Entry(cells[key], values)
        except (ValueError, csv.Error):
            problem = "as many fields as the header, and an end of each quoted one, are expected"
            raise Invalid("CSV_MALFORMED", f"{file}: line {reader.line_num}: {problem}") from None


def _cell(kind: str, text: str, name: str) -> Any:
    """Return a value; malformed text stays text, for which the service refuses this entry alone."""
    try:
        return value_of(kind, text, name)
    except (Invalid, FailedPrecondition):
        return text


@contextmanager
def _csv_lines(file: Path) -> Iterator[TextIO]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            yield lines
    except UnicodeDecodeError:
        raise Invalid("CSV_MALFORMED", f"{file}: not UTF-8") from None


def _from_postgres(client: Client, path: str, conninfo: str, table: str, key: str, create: bool) -> Iterator[Item]:
    try:
        import psycopg
        from psycopg import sql
    except ImportError:
        raise Invalid("PSYCOPG_MISSING", "Tables of PostgreSQL need psycopg: pip install 'mdm-client[postgres]'") from None
    try:
        with psycopg.connect(conninfo) as connection, connection.cursor(name="load") as cursor:
            connection.read_only = True
            cursor.itersize = MAX_ENTRIES
            cursor.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(*table.split("."))))
            columns = [(item.name, _attribute_type(connection, item.type_code)) for item in cursor.description or ()]
            if key not in dict(columns):
                raise Invalid("TABLE_KEY", f"{table}: no column {key}")
            if create:
                attributes = tuple(Attribute(name, kind) for name, kind in columns if name != key)
                (error,) = client.metadata.collections.create([Collection(path, attributes)])
                if error is not None and not isinstance(error, Conflict):
                    raise error
            for number, row in enumerate(cursor, 1):
                cells = {name: _plain(kind, value) for (name, kind), value in zip(columns, row, strict=True)}
                yield path, number, Entry(str(cells.pop(key)), cells)
    except psycopg.Error as error:
        raise Invalid("POSTGRES", f"{table}: {str(error).splitlines()[0]}") from None


def _attribute_type(connection: Any, number: int) -> str:
    found = connection.adapters.types.get(number)
    return _POSTGRES_TYPES.get(found.name if found else "", "text")


def _plain(kind: str, value: Any) -> Any:
    """Return a value of PostgreSQL for an entry; JSON and arrays as JSON, bytes as PostgreSQL writes them."""
    as_json = partial(json.dumps, ensure_ascii=False, default=str)
    convert: dict[type, Callable[[Any], Any]] = {
        datetime: datetime.isoformat,
        date: date.isoformat,
        dict: as_json,
        list: as_json,
        bytes: lambda value: "\\x" + value.hex(),
    }
    if value is None or kind in ("int", "float", "bool"):
        return value
    return convert.get(type(value), str)(value)
