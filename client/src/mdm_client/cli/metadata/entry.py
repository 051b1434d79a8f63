"""Commands of entries: meta entry, update, take, explain."""

from collections.abc import Mapping
from typing import Any

import click
from mdm_wire.errors import Invalid

from mdm_client.cli.context import RenamedOption, Session, common_options, parameter_option, session_command
from mdm_client.cli.error import SOME_FAILED, report_items, show_error
from mdm_client.cli.output import json_rows, print_line, show, table_rows
from mdm_client.metadata.client import Changed, Entry
from mdm_client.metadata.collections import Collection
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
@session_command
def set_entry(run: Session, path: str, key: str, values: tuple[str, ...], acl_id: str) -> int:
    """Make or change an entry. NAME= removes a value."""
    metadata = run.client().metadata
    described = metadata.collections.describe(path)
    wanted = Entry(key, {name: _value(described, name, text) for name, text in _pairs(values)}, acl_id)
    return report_items([path], metadata.entries.upsert(path, [wanted]), run.as_json)


@entry.command("get")
@click.argument("path")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@session_command
def get_entries(run: Session, path: str, keys: tuple[str, ...]) -> int:
    """Show entries with all their attributes."""
    chosen = ", ".join(quoted_text(key) for key in keys)
    result = run.client().metadata.query(f"SELECT * FROM {quoted_path(path)} WHERE entry IN ({chosen}) ORDER BY entry")  # noqa: S608
    rows = [row for batch in result.batches() for row in batch]
    for number, row in enumerate(rows):
        if run.as_json:
            print_line(next(json_rows(result.columns, [row])))
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
@session_command
def remove_entries(run: Session, path: str, keys: tuple[str, ...]) -> int:
    """Remove entries."""
    return report_items(keys, run.client().metadata.entries.delete(path, keys), run.as_json)


@click.command()
@click.argument("sql")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds after which it is given up.")
@parameter_option
@session_command
def update(run: Session, sql: str, timeout: float | None, parameters: Mapping[str, str]) -> None:
    """Change or delete the entries that meet a condition, at most 10,000, wholly or not at all.

    UPDATE "/vo/jobs" SET state = 'new' WHERE state = 'lost', or DELETE FROM "/vo/jobs" WHERE age > 30
    """
    _show(run, run.client().metadata.entries.change(sql, timeout, parameters))


@click.command()
@click.argument("path")
@click.argument("values", nargs=-1, required=True, metavar="NAME=VALUE...")
@click.option("--where", default="TRUE", help="Which entries may be taken, as in SQL: state = 'new'.")
@click.option("--order-by", default="entry", show_default=True, help="Which come first.")
@click.option(
    "--count", cls=RenamedOption, old=["-n"], type=click.IntRange(1, 10_000), default=1, show_default=True, help="How many at most."
)
@session_command
def take(run: Session, path: str, values: tuple[str, ...], where: str, order_by: str, count: int) -> int:
    """Find entries, set values, and return the entries, in one step: nobody else can take the same ones.

    mdm meta take /vo/jobs state=taken worker=w7 --where "state = 'new'" --order-by priority

    Exit code 1 when there was nothing to take.
    """
    metadata = run.client().metadata
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
@session_command
def explain(run: Session, sql: str, parameters: Mapping[str, str]) -> None:
    """Show how the database would answer a SELECT, without running it."""
    for line in run.client().metadata.entries.explain(sql, parameters):
        show(run.as_json, {"line": line}, line)


def _show(run: Session, changed: Changed) -> None:
    if changed.columns:
        for line in (json_rows if run.as_json else table_rows)(changed.columns, iter(changed.rows)):
            print_line(line)
    else:
        show(run.as_json, {"count": changed.count}, f"{changed.count} entries")


def _pairs(texts: tuple[str, ...]) -> list[tuple[str, str]]:
    pairs = []
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name.isidentifier():
            raise Invalid("VALUE_MALFORMED", f"{name}: write NAME=VALUE")
        pairs.append((name, value))
    return pairs


def _value(described: Collection, name: str, text: str) -> Any:
    kind = next((attribute.type for attribute in described.attributes if attribute.name.lower() == name.lower()), None)
    if kind is None:
        raise Invalid("ATTRIBUTE_UNKNOWN", f"{described.path} has no attribute {name}")
    return value_of(kind, text, name) if text else None
