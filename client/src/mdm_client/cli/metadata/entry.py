"""Commands of entries: meta entry, update, take, explain."""

from collections.abc import Mapping
from typing import Any

import click
from mdm_wire.errors import Invalid, MdmError

from mdm_client.cli.context import Session, common_options, session
from mdm_client.cli.error import SOME_FAILED, exit_code_of_items, show_client_error, show_error
from mdm_client.cli.option import Respelt, parameter_option
from mdm_client.cli.table import json_rows, print_json, print_line, table_rows
from mdm_client.metadata.collections import Collection
from mdm_client.metadata.entries import Changed, Entry
from mdm_client.metadata.value import value_of


def quoted_path(path: str) -> str:
    """Return a path as an identifier of the query language."""
    return '"' + path.replace('"', '""') + '"'


def quoted_text(text: str) -> str:
    """Return a constant of the query language."""
    return "'" + text.replace("'", "''") + "'"


@click.group()
@common_options
def entry() -> None:
    """Set, show and remove single entries."""


@entry.command("set")
@click.argument("path")
@click.argument("key")
@click.argument("values", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--acl", "acl_id", default="", metavar="ACL_ID", help="Guard it by this access list.")
@common_options
@click.pass_context
def set_entry(context: click.Context, path: str, key: str, values: tuple[str, ...], acl_id: str) -> int:
    """Make or change an entry. NAME= removes a value."""
    run = session(context)
    metadata = run.client(context).metadata
    wanted = Entry(key, _values(metadata.collections.describe(path), values), acl_id)
    (error,) = metadata.entries.upsert(path, [wanted])
    if error is not None:
        show_client_error(error, run.as_json, path)
    return exit_code_of_items(1, [error] if error else [])


@entry.command("get")
@click.argument("path")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@common_options
@click.pass_context
def get_entries(context: click.Context, path: str, keys: tuple[str, ...]) -> int:
    """Show entries with all their attributes."""
    run = session(context)
    chosen = ", ".join(quoted_text(key) for key in keys)
    result = run.client(context).metadata.query(f"SELECT * FROM {quoted_path(path)} WHERE entry IN ({chosen}) ORDER BY entry")  # noqa: S608
    rows = [row for batch in result.batches() for row in batch]
    for number, row in enumerate(rows):
        if run.as_json:
            print_line(next(iter(json_rows(result.columns, [row]))))
            continue
        if number:
            print_line("")
        for column, value in zip(result.columns, row, strict=True):
            if value is not None:
                print_line(f"{column.name:<28}  {value}{' ' + column.unit if column.unit else ''}")
    missing = set(keys) - {row[0] for row in rows}
    for key in sorted(missing):
        show_error(f"{key}: no such entry, or you may not read it", "ENTRY_NOT_FOUND", run.as_json)
    return SOME_FAILED if missing else 0


@entry.command("rm")
@click.argument("path")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@common_options
@click.pass_context
def remove_entries(context: click.Context, path: str, keys: tuple[str, ...]) -> int:
    """Remove entries."""
    run = session(context)
    failures: list[MdmError] = []
    for key, error in zip(keys, run.client(context).metadata.entries.delete(path, keys), strict=True):
        if error is not None:
            failures.append(error)
            show_client_error(error, run.as_json, key)
    return exit_code_of_items(len(keys), failures)


@click.command()
@click.argument("sql")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds after which it is given up.")
@parameter_option
@common_options
@click.pass_context
def update(context: click.Context, sql: str, timeout: float | None, parameters: Mapping[str, str]) -> None:
    """Change or delete the entries that a condition finds, at most 10,000, wholly or not at all.

    UPDATE "/vo/jobs" SET state = 'new' WHERE state = 'lost', or DELETE FROM "/vo/jobs" WHERE age > 30
    """
    run = session(context)
    _show(run, run.client(context).metadata.entries.change(sql, timeout, parameters))


@click.command()
@click.argument("path")
@click.argument("values", nargs=-1, required=True, metavar="NAME=VALUE...")
@click.option("--where", default="TRUE", help="Which entries may be taken, as in SQL: state = 'new'.")
@click.option("--order-by", default="entry", show_default=True, help="Which come first.")
@click.option("--count", cls=Respelt, old=["-n"], type=click.IntRange(1, 10_000), default=1, show_default=True, help="How many at most.")
@common_options
@click.pass_context
def take(context: click.Context, path: str, values: tuple[str, ...], where: str, order_by: str, count: int) -> int:
    """Find entries, set values, and return them, in one step that no other taker can come between.

    mdm meta take /vo/jobs state=taken worker=w7 --where "state = 'new'" --order-by priority

    Exit code 1 when there was nothing to take.
    """
    run = session(context)
    metadata = run.client(context).metadata
    described = metadata.collections.describe(path)
    pairs = _pairs(values)
    sets = ", ".join(f"{name} = :set{number}" for number, (name, _) in enumerate(pairs))
    parameters = {f"set{number}": _value(described, name, value) for number, (name, value) in enumerate(pairs)}
    sql = f"UPDATE {quoted_path(path)} SET {sets} WHERE {where} ORDER BY {order_by} LIMIT {count} RETURNING *"  # noqa: S608 - parsed again there
    changed = metadata.entries.change(sql, parameters=parameters)
    if changed.count:
        _show(run, changed)
    return 0 if changed.count else SOME_FAILED


@click.command()
@click.argument("sql")
@parameter_option
@common_options
@click.pass_context
def explain(context: click.Context, sql: str, parameters: Mapping[str, str]) -> None:
    """Show how the database would answer a SELECT, without running it."""
    run = session(context)
    for line in run.client(context).metadata.entries.explain(sql, parameters):
        print_json({"line": line}) if run.as_json else print_line(line)


def _show(run: Session, changed: Changed) -> None:
    if changed.columns:
        for line in (json_rows if run.as_json else table_rows)(changed.columns, iter(changed.rows)):
            print_line(line)
    elif run.as_json:
        print_json({"count": changed.count})
    else:
        print_line(f"{changed.count} entries")


def _pairs(texts: tuple[str, ...]) -> list[tuple[str, str]]:
    pairs = []
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name.isidentifier():
            raise Invalid("VALUE_MALFORMED", f"{name}: write NAME=VALUE")
        pairs.append((name, value))
    return pairs


def _kind(described: Collection, name: str) -> str:
    kind = next((attribute.type for attribute in described.attributes if attribute.name.lower() == name.lower()), None)
    if kind is None:
        raise Invalid("ATTRIBUTE_UNKNOWN", f"{described.path} has no attribute {name}")
    return kind


def _values(described: Collection, texts: tuple[str, ...]) -> dict[str, Any]:
    return {name: _value(described, name, value) for name, value in _pairs(texts)}


def _value(described: Collection, name: str, text: str) -> Any:
    return value_of(_kind(described, name), text, name) if text else None
