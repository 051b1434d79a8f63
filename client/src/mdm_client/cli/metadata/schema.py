"""Commands of schemas: meta attr, index, constraint, sequence, view, link."""

import click

from mdm_client.cli.context import common_options, session
from mdm_client.cli.metadata.collection import parse_attribute
from mdm_client.cli.option import Respelt
from mdm_client.cli.table import print_json, print_line
from mdm_client.metadata.collections import MetadataCollections, MetadataSequences


def _collections(context: click.Context) -> MetadataCollections:
    return session(context).client(context).metadata.collections


def _sequences(context: click.Context) -> MetadataSequences:
    return session(context).client(context).metadata.sequences


@click.group()
@common_options
def attr() -> None:
    """Add, rename, describe and remove attributes, on collections with entries too."""


@attr.command("add")
@click.argument("path")
@click.argument("attributes", nargs=-1, required=True, metavar="NAME:TYPE[:FLAG...]...")
@common_options
@click.pass_context
def add_attributes(context: click.Context, path: str, attributes: tuple[str, ...]) -> None:
    """Add attributes; entries have no value of them yet. Written as for mdm meta mkdir."""
    for attribute in [parse_attribute(text) for text in attributes]:
        _collections(context).add_attribute(path, attribute)


@attr.command("rm")
@click.argument("path")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@common_options
@click.pass_context
def remove_attributes(context: click.Context, path: str, names: tuple[str, ...]) -> None:
    """Remove attributes and erase their values."""
    for name in names:
        _collections(context).alter(path, remove_attribute=name)


@attr.command("rename")
@click.argument("path")
@click.argument("name")
@click.argument("new_name")
@common_options
@click.pass_context
def rename_attribute(context: click.Context, path: str, name: str, new_name: str) -> None:
    """Give an attribute another name."""
    _collections(context).change_attribute(path, name, new_name=new_name)


@attr.command("set")
@click.argument("path")
@click.argument("name")
@click.option("--unit", help="Unit in UCUM, such as mm.")
@click.option("--description", help="One line for a person.")
@common_options
@click.pass_context
def describe_attribute(context: click.Context, path: str, name: str, unit: str | None, description: str | None) -> None:
    """Give an attribute another unit or description."""
    given = {"unit": unit, "description": description}
    _collections(context).change_attribute(path, name, **{key: value for key, value in given.items() if value is not None})


@click.group()
@common_options
def index() -> None:
    """Build and drop indexes. Readers and writers go on meanwhile."""


@index.command("add")
@click.argument("path")
@click.argument("name")
@common_options
@click.pass_context
def add_index(context: click.Context, path: str, name: str) -> None:
    """Build an index on an attribute; returns when it is there. Interrupted, it goes on when asked again."""
    _collections(context).change_attribute(path, name, indexed=True)


@index.command("rm")
@click.argument("path")
@click.argument("name")
@common_options
@click.pass_context
def remove_index(context: click.Context, path: str, name: str) -> None:
    """Drop the index on an attribute."""
    _collections(context).change_attribute(path, name, indexed=False)


@click.group()
@common_options
def constraint() -> None:
    """What every entry must fulfil, and what those who may only count see."""


_KINDS = click.Choice(["required", "unique", "references", "check", "min-cell"])


@constraint.command("add")
@click.argument("path")
@click.argument("kind", type=_KINDS)
@click.argument("name")
@click.argument("value", default="")
@common_options
@click.pass_context
def add_constraint(context: click.Context, path: str, kind: str, name: str, value: str) -> None:
    """Add a constraint; entries that break it are an error.

    \b
    required ATTRIBUTE                 entries have a value
    unique ATTRIBUTE                   no two entries share a value
    references ATTRIBUTE /collection   values are keys of entries there
    check NAME 'CONDITION'             such as 'EndDate >= StartDate'
    min-cell NUMBER                    counts below it are not given
    """
    if (kind in ("references", "check")) != bool(value):
        raise click.UsageError(f"{kind} takes {'a name and a value' if kind in ('references', 'check') else 'one argument'}")
    if kind == "check":
        from mdm.metadata.v1.metadata_pb2 import Check

        _collections(context).alter(path, add_check=Check(name=name, condition=value))
    elif kind == "min-cell":
        _set_min_cell(context, path, name)
    else:
        changes: dict[str, dict[str, object]] = {
            "required": {"not_null": True},
            "unique": {"unique": True},
            "references": {"references": value},
        }
        _collections(context).change_attribute(path, name, **changes[kind])


@constraint.command("rm")
@click.argument("path")
@click.argument("kind", type=_KINDS)
@click.argument("name", default="0")
@common_options
@click.pass_context
def remove_constraint(context: click.Context, path: str, kind: str, name: str) -> None:
    """Drop a constraint: of an attribute, of a check's name, or min-cell."""
    if kind == "check":
        _collections(context).alter(path, drop_check=name)
    elif kind == "min-cell":
        _set_min_cell(context, path, "0")
    else:
        changes: dict[str, dict[str, object]] = {
            "required": {"not_null": False},
            "unique": {"unique": False},
            "references": {"references": ""},
        }
        _collections(context).change_attribute(path, name, **changes[kind])


def _set_min_cell(context: click.Context, path: str, number: str) -> None:
    if not number.isdecimal() or len(number) > 9:
        raise click.UsageError("min-cell takes a number")
    _collections(context).alter(path, min_cell=int(number))


@click.group()
@common_options
def sequence() -> None:
    """Sequences: numbers that are given once."""


@sequence.command("create")
@click.argument("path")
@click.argument("name")
@click.option("--start", default=1, show_default=True, help="The first number.")
@click.option("--step", default=1, show_default=True, help="From one number to the next.")
@common_options
@click.pass_context
def create_sequence(context: click.Context, path: str, name: str, start: int, step: int) -> None:
    """Create a sequence of the collection PATH."""
    _sequences(context).create(path, name, start, step)


@sequence.command("rm")
@click.argument("path")
@click.argument("name")
@common_options
@click.pass_context
def drop_sequence(context: click.Context, path: str, name: str) -> None:
    """Drop a sequence."""
    _sequences(context).drop(path, name)


@sequence.command("ls")
@click.argument("path")
@common_options
@click.pass_context
def list_sequences(context: click.Context, path: str) -> None:
    """List the sequences of the collection PATH; with --json also where they are, to those who may take numbers."""
    for state in _sequences(context).of_collection(path):
        if session(context).as_json:
            print_json({name: value for name, value in vars(state).items() if value is not None})
        else:
            print_line(state.name)


@sequence.command("next")
@click.argument("path")
@click.argument("name")
@click.option("--count", cls=Respelt, old=["-n"], type=click.IntRange(1, 1_000_000), default=1, show_default=True, help="How many.")
@common_options
@click.pass_context
def next_numbers(context: click.Context, path: str, name: str, count: int) -> None:
    """Take the next numbers of a sequence."""
    for number in _sequences(context).take(path, name, count):
        print_json(number) if session(context).as_json else print_line(str(number))


@click.command()
@click.argument("path")
@click.argument("target")
@click.argument("attributes", nargs=-1, metavar="[ATTRIBUTE[=NAME_IN_VIEW]]...")
@click.option("--where", "condition", default="", help="Which entries it shows, as in SQL: Sex = 'M'.")
@click.option("--with-key", cls=Respelt, old=["--key"], is_flag=True, help="Show the entries' keys too.")
@click.option("--acl", "acl_id", default="", metavar="ACL_ID", help="Who may read it; else the parent's default.")
@common_options
@click.pass_context
def view(context: click.Context, path: str, target: str, attributes: tuple[str, ...], condition: str, with_key: bool, acl_id: str) -> None:
    """Show attributes of the collection TARGET under PATH to whom the access list of PATH lets read.

    It shows what you may read in TARGET; you need the right to change TARGET's access list.
    """
    shown = {}
    for text in attributes:
        original, _, name = text.partition("=")
        shown[name or original] = original
    _collections(context).create_view(path, target, shown, condition, with_key=with_key, is_link=False, acl_id=acl_id)


@click.command()
@click.argument("path")
@click.argument("target")
@click.option("--acl", "acl_id", default="", metavar="ACL_ID", help="Who may use it; else the parent's default.")
@common_options
@click.pass_context
def link(context: click.Context, path: str, target: str, acl_id: str) -> None:
    """Make PATH another name of the collection TARGET. Readers need the rights on TARGET."""
    _collections(context).create_view(path, target, {}, "", with_key=True, is_link=True, acl_id=acl_id)
