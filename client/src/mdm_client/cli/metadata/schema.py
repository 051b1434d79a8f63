"""Commands of schemas: meta attr, index, constraint, sequence, view, link."""

import click

from mdm_client.cli.context import RenamedOption, Session, common_options, session_command
from mdm_client.cli.metadata.collection import parse_attribute
from mdm_client.cli.output import show
from mdm_client.metadata.collections import MetadataCollections, MetadataSequences


def _collections(run: Session) -> MetadataCollections:
    return run.client().metadata.collections


def _sequences(run: Session) -> MetadataSequences:
    return run.client().metadata.sequences


@click.group()
@common_options
def attr() -> None:
    """Add, rename, describe and remove attributes, on collections with entries too."""


@attr.command("add")
@click.argument("path")
@click.argument("attributes", nargs=-1, required=True, metavar="NAME:TYPE[:FLAG...]...")
@session_command
def add_attributes(run: Session, path: str, attributes: tuple[str, ...]) -> None:
    """Add attributes; entries have no value of them yet. Written as for mdm meta mkdir."""
    for attribute in [parse_attribute(text) for text in attributes]:
        _collections(run).add_attribute(path, attribute)


@attr.command("rm")
@click.argument("path")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@session_command
def remove_attributes(run: Session, path: str, names: tuple[str, ...]) -> None:
    """Remove attributes and erase their values."""
    for name in names:
        _collections(run).alter(path, remove_attribute=name)


@attr.command("rename")
@click.argument("path")
@click.argument("name")
@click.argument("new_name")
@session_command
def rename_attribute(run: Session, path: str, name: str, new_name: str) -> None:
    """Give an attribute another name."""
    _collections(run).change_attribute(path, name, new_name=new_name)


@attr.command("set")
@click.argument("path")
@click.argument("name")
@click.option("--unit", help="Unit in UCUM, such as mm.")
@click.option("--description", help="One line for a person.")
@session_command
def describe_attribute(run: Session, path: str, name: str, unit: str | None, description: str | None) -> None:
    """Give an attribute another unit or description."""
    given = {"unit": unit, "description": description}
    _collections(run).change_attribute(path, name, **{key: value for key, value in given.items() if value is not None})


@click.group()
@common_options
def index() -> None:
    """Build and drop indexes, while readers and writers go on."""


@index.command("add")
@click.argument("path")
@click.argument("name")
@session_command
def add_index(run: Session, path: str, name: str) -> None:
    """Build an index on an attribute; returns when it is built. After an interrupt, run the command again to go on."""
    _collections(run).change_attribute(path, name, indexed=True)


@index.command("rm")
@click.argument("path")
@click.argument("name")
@session_command
def remove_index(run: Session, path: str, name: str) -> None:
    """Drop the index on an attribute."""
    _collections(run).change_attribute(path, name, indexed=False)


@click.group()
@common_options
def constraint() -> None:
    """Conditions that every entry must meet, and the least count for those who may only count."""


_PROPERTIES = {"required": "not_null", "unique": "unique", "references": "references"}
_KINDS = click.Choice([*_PROPERTIES, "check", "min-cell"])


@constraint.command("add")
@click.argument("path")
@click.argument("kind", type=_KINDS)
@click.argument("name")
@click.argument("value", default="")
@session_command
def add_constraint(run: Session, path: str, kind: str, name: str, value: str) -> None:
    """Add a constraint; entries that break it are an error.

    \b
    required ATTRIBUTE                 entries have a value
    unique ATTRIBUTE                   no two entries share a value
    references ATTRIBUTE /collection   values are keys of entries there
    check NAME 'CONDITION'             such as 'EndDate >= StartDate'
    min-cell NUMBER                    counts below it are not given
    """
    takes_value = kind in ("references", "check")
    if takes_value != bool(value):
        raise click.UsageError(f"{kind} takes {'a name and a value' if takes_value else 'one argument'}")
    if kind == "check":
        from mdm.metadata.v1.metadata_pb2 import Check

        _collections(run).alter(path, add_check=Check(name=name, condition=value))
    elif kind == "min-cell":
        _set_min_cell(run, path, name)
    else:
        _collections(run).change_attribute(path, name, **{_PROPERTIES[kind]: value or True})


@constraint.command("rm")
@click.argument("path")
@click.argument("kind", type=_KINDS)
@click.argument("name", default="0")
@session_command
def remove_constraint(run: Session, path: str, kind: str, name: str) -> None:
    """Drop a constraint: of an attribute, of a check's name, or min-cell."""
    if kind == "check":
        _collections(run).alter(path, drop_check=name)
    elif kind == "min-cell":
        _set_min_cell(run, path, "0")
    else:
        _collections(run).change_attribute(path, name, **{_PROPERTIES[kind]: "" if kind == "references" else False})


def _set_min_cell(run: Session, path: str, number: str) -> None:
    if not number.isdecimal() or len(number) > 9:
        raise click.UsageError("min-cell needs a number")
    _collections(run).alter(path, min_cell=int(number))


@click.group()
@common_options
def sequence() -> None:
    """Sequences: numbers that are given once."""


@sequence.command("create")
@click.argument("path")
@click.argument("name")
@click.option("--start", default=1, show_default=True, help="The first number.")
@click.option("--step", default=1, show_default=True, help="From one number to the next.")
@session_command
def create_sequence(run: Session, path: str, name: str, start: int, step: int) -> None:
    """Create a sequence of the collection PATH."""
    _sequences(run).create(path, name, start, step)


@sequence.command("rm")
@click.argument("path")
@click.argument("name")
@session_command
def drop_sequence(run: Session, path: str, name: str) -> None:
    """Drop a sequence."""
    _sequences(run).drop(path, name)


@sequence.command("ls")
@click.argument("path")
@session_command
def list_sequences(run: Session, path: str) -> None:
    """List the sequences of the collection PATH; with --json also their next numbers, for those who may take numbers."""
    for state in _sequences(run).of_collection(path):
        show(run.as_json, {name: value for name, value in vars(state).items() if value is not None}, state.name)


@sequence.command("next")
@click.argument("path")
@click.argument("name")
@click.option("--count", cls=RenamedOption, old=["-n"], type=click.IntRange(1, 1_000_000), default=1, show_default=True, help="How many.")
@session_command
def next_numbers(run: Session, path: str, name: str, count: int) -> None:
    """Take the next numbers of a sequence."""
    for number in _sequences(run).take(path, name, count):
        show(run.as_json, number, str(number))


@click.command()
@click.argument("path")
@click.argument("target")
@click.argument("attributes", nargs=-1, metavar="[ATTRIBUTE[=NAME_IN_VIEW]]...")
@click.option("--where", "condition", default="", help="Which entries it shows, as in SQL: Sex = 'M'.")
@click.option("--with-key", cls=RenamedOption, old=["--key"], is_flag=True, help="Show the entries' keys too.")
@click.option("--acl", "acl_id", default="", metavar="ACL_ID", help="Who may read it; else the parent's default.")
@session_command
def view(run: Session, path: str, target: str, attributes: tuple[str, ...], condition: str, with_key: bool, acl_id: str) -> None:
    """Show attributes of the collection TARGET, as PATH, to those who may read PATH.

    It shows what you may read in TARGET; you need the right to change TARGET's access list.
    """
    shown = {}
    for text in attributes:
        original, _, name = text.partition("=")
        shown[name or original] = original
    _collections(run).create_view(path, target, shown, condition, with_key=with_key, is_link=False, acl_id=acl_id)


@click.command()
@click.argument("path")
@click.argument("target")
@click.option("--acl", "acl_id", default="", metavar="ACL_ID", help="Who may use it; else the parent's default.")
@session_command
def link(run: Session, path: str, target: str, acl_id: str) -> None:
    """Make PATH another name of the collection TARGET. Readers need the rights on TARGET."""
    _collections(run).create_view(path, target, {}, "", with_key=True, is_link=True, acl_id=acl_id)
