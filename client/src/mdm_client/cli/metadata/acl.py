"""Commands of access lists in the metadata alone: meta acl. To share images in every service: mdm acl."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import uuid4

import click
from mdm.acl.v1 import acl_pb2
from mdm.metadata.v1.metadata_pb2 import CollectionAcls
from mdm_wire.errors import MdmError, NotFound

from mdm_client.acl import AclAnswer
from mdm_client.cli.acl import AclKind, acl_facts, finish, show_lists
from mdm_client.cli.context import Session, common_options, session_command
from mdm_client.cli.error import report_items
from mdm_client.cli.keystore.key import entries_of
from mdm_client.cli.metadata.entry import quoted_path, quoted_text
from mdm_client.cli.output import print_json, show
from mdm_client.client import Client
from mdm_client.service import raise_first


@dataclass(frozen=True)
class _Target:
    """A collection, or the list for new entries of it (`default`), or entries of it."""

    path: str
    keys: Sequence[str] = ()
    default: bool = False


def _change(
    run: Session, changes: Sequence[acl_pb2.AclChange], shared: bool, own: bool, _done: str, path: str, keys: tuple[str, ...], default: bool
) -> int:
    client = run.client()
    target = _Target(path, keys, default)
    if own:
        _give_own(client, target)
    scope = acl_pb2.AclScope(path=path, keys=keys)
    answers = client.metadata.acls.modify(_ids(client, target), changes, shared=shared, scope=scope)
    if run.as_json:
        _show(run, answers)
    return finish(run, answers)


_COLLECTION = AclKind(
    target=[
        click.argument("path"),
        click.option("--entry", "keys", multiple=True, metavar="KEY", help="The list of this entry instead; may be repeated."),
        click.option("--default", is_flag=True, help="The list that new entries and collections get instead."),
    ],
    change=_change,
)


@click.group()
@common_options
def acl() -> None:
    """Access lists of collections, views and entries, in the metadata alone. To share images everywhere: mdm acl.

    A list may guard many collections and entries. It is changed for a collection with all that is in it and below it, or for the entries
    named; where it guards anything else too, only with --shared.
    """


@acl.command("create")
@click.argument("pairs", nargs=-1, metavar="[PRINCIPAL=PERMISSIONS]...")
@session_command
def create(run: Session, pairs: tuple[str, ...]) -> None:
    """Make an access list, such as group:/vo/physicians=rl, that you own, and print its id."""
    entries = entries_of(tuple((text.rpartition("=")[0], text.rpartition("=")[2]) for text in pairs))
    acl_id = run.client().metadata.acls.create(entries)
    show(run.as_json, {"acl_id": acl_id}, acl_id)


@acl.command("get")
@click.argument("path")
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@session_command
def get(run: Session, path: str, keys: tuple[str, ...]) -> int:
    """Show the access list of a collection, or of entries."""
    answers = run.client().metadata.acls.get(_ids(run.client(), _Target(path, keys)))
    _show(run, answers)
    return finish(run, answers)


_COLLECTION.add_to(
    acl,
    "Allow PRINCIPAL on what the access list of a collection or entry guards.",
    "Take PERMISSIONS (default: all) from PRINCIPAL on what the access list guards.",
)


@acl.command("set")
@click.argument("path")
@click.argument("acl_id")
@click.option("--entry", "keys", multiple=True, metavar="KEY", help="Guard this entry by it instead; may be repeated.")
@click.option("--default", is_flag=True, help="Guard new entries and collections by it instead.")
@session_command
def set_acl(run: Session, path: str, acl_id: str, keys: tuple[str, ...], default: bool) -> int:
    """Guard a collection, or entries, by another access list."""
    errors = _put(run.client(), _Target(path, keys, default), acl_id)
    return report_items(list(errors), list(errors.values()), run.as_json)


def _give_own(client: Client, target: _Target) -> None:
    """Put each object under a new list of the caller, a copy of its present one."""
    for part in [replace(target, keys=[key]) for key in target.keys] or [target]:
        [present] = _ids(client, part)
        new_id = str(uuid4())
        client.metadata.acls.copy(present, new_id, client.caller)
        raise_first(list(_put(client, part, new_id).values()))


def _put(client: Client, target: _Target, acl_id: str) -> dict[str, MdmError | None]:
    """Put a collection, or entries, under a list; return the error of each entry, or None. A collection's error is raised."""
    if target.keys:
        return dict(zip(target.keys, client.metadata.entries.assign_acl(target.path, target.keys, acl_id), strict=True))
    client.metadata.collections.alter(target.path, acls=CollectionAcls(**{"default_acl_id" if target.default else "acl_id": acl_id}))
    return {}


def _ids(client: Client, target: _Target) -> list[str]:
    if not target.keys:
        described = client.metadata.collections.describe(target.path)
        return [described.default_acl_id if target.default else described.acl_id]
    chosen = ", ".join(quoted_text(key) for key in target.keys)
    sql = f"SELECT DISTINCT entry_acl FROM {quoted_path(target.path)} WHERE entry IN ({chosen})"  # noqa: S608 - parsed again there
    found = [str(row[0]) for row in client.metadata.query(sql)]
    if not found:
        raise NotFound("ENTRY_NOT_FOUND", f"{target.path}: no such entry, or you may not read it")
    return found


def _show(run: Session, answers: Sequence[AclAnswer]) -> None:
    if not run.as_json:
        show_lists(run, answers)
        return
    for answer in answers:
        if answer.acl:
            print_json(acl_facts(answer.acl_id, answer.acl))
