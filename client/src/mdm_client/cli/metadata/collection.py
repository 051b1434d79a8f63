"""Commands of the metadata's collections: meta mkdir, rmdir, ls, describe, replica; the places of the other ones."""

from typing import Any

import click
from mdm_wire.errors import Invalid, MdmError

from mdm_client.cli.context import Session, common_options, session_command
from mdm_client.cli.error import OK, SOME_FAILED, report_items
from mdm_client.cli.group import LazyGroup
from mdm_client.cli.output import print_json, print_line, printable
from mdm_client.metadata.collections import Attribute, Collection

#: The places of further commands, and their lines of the help.
_COMMANDS = {
    "acl": ("mdm_client.cli.metadata.acl:acl", "Show and change who may do what with a collection or an entry."),
    "attr": ("mdm_client.cli.metadata.schema:attr", "Add, rename, describe and remove attributes."),
    "constraint": ("mdm_client.cli.metadata.schema:constraint", "Demand values, unique values, references, conditions, minimum counts."),
    "dump": ("mdm_client.cli.metadata.dump:dump", "Write collections, entries, views, sequences to a file."),
    "entry": ("mdm_client.cli.metadata.entry:entry", "Set, show and remove entries."),
    "explain": ("mdm_client.cli.metadata.entry:explain", "Show how a SELECT would be answered (operators only)."),
    "index": ("mdm_client.cli.metadata.schema:index", "Build and drop indexes; nobody waits."),
    "link": ("mdm_client.cli.metadata.schema:link", "Give a collection another path."),
    "load": ("mdm_client.cli.metadata.load:load", "Read entries from a dump, CSV or a PostgreSQL table."),
    "sequence": ("mdm_client.cli.metadata.schema:sequence", "Numbers that are given once."),
    "take": ("mdm_client.cli.metadata.entry:take", "Take entries from a work queue: find, change and return them at once."),
    "update": ("mdm_client.cli.metadata.entry:update", "Change or delete entries by condition (SQL UPDATE or DELETE)."),
    "view": ("mdm_client.cli.metadata.schema:view", "Show chosen attributes and rows of a collection to others."),
}


@click.group(cls=LazyGroup, lazy=_COMMANDS)
@common_options
def meta() -> None:
    """Make, change, fill and copy collections of metadata. To search them: mdm query."""


def parse_attribute(text: str) -> Attribute:
    """Return the attribute that `NAME:TYPE[:FLAG…]` describes.

    TYPE is int, float, numeric, text, varchar(N), bool, date, timestamp or uuid; a FLAG is index, unique, required, unit=… or
    references=/path.

    Raises:
        Invalid: ATTRIBUTE_MALFORMED.
    """
    name, _, rest = text.partition(":")
    kind, *flags = rest.split(":")
    length = 0
    if kind.startswith("varchar(") and kind.endswith(")") and kind[8:-1].isdecimal():
        kind, length = "varchar", int(kind[8:-1])
    properties: dict[str, Any] = {}
    for flag in flags:
        word, _, value = flag.partition("=")
        if word in ("unit", "references") and value:
            properties[word] = value
        elif word in _FLAGS and not value:
            properties[_FLAGS[word]] = True
        else:
            raise _malformed(text)
    if not name or not kind:
        raise _malformed(text)
    return Attribute(name, kind, length, **properties)


_FLAGS = {"index": "indexed", "unique": "unique", "required": "not_null"}


def _malformed(text: str) -> MdmError:
    form = "NAME:TYPE[:index][:unique][:required][:unit=mm][:references=/path], TYPE such as int or varchar(64)"
    return Invalid("ATTRIBUTE_MALFORMED", f"{text}: write {form}")


@meta.command()
@click.argument("path")
@click.argument("attributes", nargs=-1, metavar="[NAME:TYPE[:FLAG...]]...")
@click.option("--acl", "acl_id", default="", metavar="ACL_ID", help="Guard it by this access list; else the parent's default.")
@click.option("--default-acl", "default_acl_id", default="", metavar="ACL_ID", help="Guards entries; else the parent's default.")
@click.option("--sensitive", is_flag=True, help="It holds identifying data: never copied to replicas.")
@click.option("--min-cell", type=click.IntRange(min=0), default=0, help="Those who may only list may count, in numbers of at least this.")
@click.option("-p", "--parents", is_flag=True, help="Make what is missing above it too.")
@session_command
def mkdir(run: Session, /, path: str, attributes: tuple[str, ...], parents: bool, **properties: Any) -> int:
    """Make a collection with attributes such as Modality:varchar(16):index or SliceThickness:float:unit=mm.

    TYPE is int, float, numeric, text, varchar(N), bool, date, timestamp or uuid. FLAG is index, unique, required, unit=… or
    references=/path.
    """
    wanted = [Collection(path, tuple(parse_attribute(text) for text in attributes), **properties)]
    if parents:
        names = [name for name in path.split("/") if name]
        wanted = [Collection("/" + "/".join(names[:depth])) for depth in range(1, len(names))] + wanted
    return report_items([path], run.client().metadata.collections.create(wanted)[-1:], run.as_json)


@meta.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@session_command
def rmdir(run: Session, paths: tuple[str, ...]) -> int:
    """Remove collections with all their entries, and views and links; nothing may be below them."""
    return report_items(paths, run.client().metadata.collections.drop(paths), run.as_json)


@meta.command("ls")
@click.argument("path", default="/")
@click.option("-l", "--long", is_flag=True, help="How many attributes, and what kind it is, too.")
@session_command
def list_collections(run: Session, path: str, long: bool) -> None:
    """List the collections at and below PATH."""
    for item in run.client().metadata.collections.walk(path):
        if run.as_json:
            print_json(facts_of(item))
        else:
            kind = "view" if item.definer else "link" if item.target else "sensitive" if item.sensitive else ""
            print_line(f"{len(item.attributes):>4}  {kind:<9}  {printable(item.path)}".rstrip() if long else printable(item.path))


@meta.command()
@click.argument("path")
@session_command
def describe(run: Session, path: str) -> None:
    """Show the schema of a collection: attributes with units, constraints, checks, what a view shows."""
    item = run.client().metadata.collections.describe(path)
    if run.as_json:
        print_json(facts_of(item))
        return
    for name, value in facts_of(item).items():
        if name not in ("attributes", "checks", "shows") and value not in ("", 0, False):
            print_line(f"{name.replace('_', ' '):<14}  {printable(value)}")
    for attribute in item.attributes:
        print_line(f"  {_described(attribute)}")
    for name, original in item.shown.items():
        if name != original:
            print_line(f"  {name} is {original} of the target")
    for name, condition in item.checks.items():
        print_line(f"  check {name}: {printable(condition)}")


def facts_of(item: Collection) -> dict[str, Any]:
    """Return a collection for JSON."""
    facts: dict[str, Any] = {
        "path": item.path,
        "acl_id": item.acl_id,
        "default_acl_id": item.default_acl_id,
        "sensitive": item.sensitive,
        "min_cell": item.min_cell,
        "attributes": [{name: value for name, value in vars(attribute).items() if value} for attribute in item.attributes],
        "checks": dict(item.checks),
    }
    if item.target:
        facts |= {"target": item.target, "condition": item.condition, "definer": item.definer, "has_key": item.has_key}
        facts["shows"] = dict(item.shown)
    if item.withheld:
        facts["withheld"] = True
    return facts


def _described(attribute: Attribute) -> str:
    kind = f"varchar({attribute.length})" if attribute.type == "varchar" else attribute.type
    words = [word for word, name in _FLAGS.items() if getattr(attribute, name)]
    words += [f"references {attribute.references}"] if attribute.references else []
    unit = f"[{attribute.unit}]" if attribute.unit else ""
    return printable(" ".join(part for part in (f"{attribute.name:<28} {kind:<12}", unit, *words, attribute.description) if part)).rstrip()


@meta.command()
@session_command
def replica(run: Session) -> int:
    """Show each copied subtree, how far it is behind its origin, and its problem if it has stopped.

    The service's configuration says which subtrees are copied. Exit code 1 if one has stopped.
    """
    states = run.client().metadata.collections.replicas()
    for state in states:
        if run.as_json:
            print_json(vars(state))
            continue
        how = "being copied" if state.copying else f"{state.behind} changes, {state.lag_seconds:.1f} s behind"
        print_line(printable(f"{state.origin:<16} {state.subtree:<40} {how}{': ' + state.problem if state.problem else ''}"))
    return SOME_FAILED if any(state.problem for state in states) else OK
