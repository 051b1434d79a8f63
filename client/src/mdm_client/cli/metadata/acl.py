"""Commands of metadata's access lists alone: meta acl. To share images everywhere at once: mdm acl."""

from collections.abc import Sequence

import click
from mdm_wire.errors import MdmError, NotFound
from mdm_wire.permission import format_permissions

from mdm_client.cli.context import Session, common_options, session
from mdm_client.cli.keystore.key import entries_of
from mdm_client.cli.metadata.entry import quoted_path, quoted_text
from mdm_client.cli.outcome import exit_code_of_items, show_client_error
from mdm_client.cli.table import print_json, print_line, printable
from mdm_client.grants import GRANT, REVOKE, AclOutcome
from mdm_client.names import parse_permissions, parse_principal


@click.group()
@common_options
def acl() -> None:
    """Access lists of collections, views and entries, in the metadata alone. To share images everywhere: mdm acl.

    A list may guard many collections and entries: changing it changes them all.
    """


@acl.command("create")
@click.argument("grants", nargs=-1, metavar="[PRINCIPAL=PERMISSIONS]...")
@common_options
@click.pass_context
def create(context: click.Context, grants: tuple[str, ...]) -> None:
    """Make an access list, such as group:/vo/physicians=rl, that you own, and print its id."""
    run = session(context)
    pairs = tuple((text.rpartition("=")[0], text.rpartition("=")[2]) for text in grants)
    acl_id = run.client(context).metadata_acls.create(entries_of(pairs))
    print_json({"acl_id": acl_id}) if run.as_json else print_line(acl_id)


@acl.command("get")
@click.argument("path")
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@common_options
@click.pass_context
def get(context: click.Context, path: str, keys: tuple[str, ...]) -> int:
    """Show the access list of a collection, or of entries."""
    run = session(context)
    outcomes = run.client(context).metadata_acls.get(_ids(context, run, path, keys, default=False))
    for outcome in outcomes:
        _show(run, outcome)
    return _finish(run, outcomes)


@acl.command("grant")
@click.argument("path")
@click.argument("principal")
@click.argument("permissions")
@click.option("--entry", "keys", multiple=True, metavar="KEY", help="The list of this entry instead; may be repeated.")
@click.option("--default", is_flag=True, help="The list that new entries and collections get instead.")
@common_options
@click.pass_context
def grant(context: click.Context, path: str, principal: str, permissions: str, keys: tuple[str, ...], default: bool) -> int:
    """Allow PRINCIPAL on what the access list of a collection or entry guards."""
    return _change(context, GRANT, path, principal, permissions, keys, default)


@acl.command("revoke")
@click.argument("path")
@click.argument("principal")
@click.argument("permissions", default="prwlxgsd")
@click.option("--entry", "keys", multiple=True, metavar="KEY", help="The list of this entry instead; may be repeated.")
@click.option("--default", is_flag=True, help="The list that new entries and collections get instead.")
@common_options
@click.pass_context
def revoke(context: click.Context, path: str, principal: str, permissions: str, keys: tuple[str, ...], default: bool) -> int:
    """Take PERMISSIONS (default: all) from PRINCIPAL on what the access list guards."""
    return _change(context, REVOKE, path, principal, permissions, keys, default)


@acl.command("set")
@click.argument("path")
@click.argument("acl_id")
@click.option("--entry", "keys", multiple=True, metavar="KEY", help="Guard this entry by it instead; may be repeated.")
@click.option("--default", is_flag=True, help="Guard new entries and collections by it instead.")
@common_options
@click.pass_context
def set_acl(context: click.Context, path: str, acl_id: str, keys: tuple[str, ...], default: bool) -> int:
    """Guard a collection, or entries, by another access list."""
    run = session(context)
    collections = run.client(context).collections
    if not keys:
        from mdm.metadata.v1.metadata_pb2 import CollectionAcls

        collections.alter(path, acls=CollectionAcls(**{"default_acl_id" if default else "acl_id": acl_id}))
        return 0
    failures: list[MdmError] = []
    for key, error in zip(keys, collections.assign_acl(path, keys, acl_id), strict=True):
        if error is not None:
            failures.append(error)
            show_client_error(error, run.as_json, key)
    return exit_code_of_items(len(keys), failures)


def _change(context: click.Context, action: int, path: str, principal: str, permissions: str, keys: Sequence[str], default: bool) -> int:
    run = session(context)
    who, bits = parse_principal(principal), parse_permissions(permissions)
    acls = run.client(context).metadata_acls
    outcomes = acls.change(_ids(context, run, path, keys, default=default), action, who, bits)
    if run.as_json:
        for outcome in outcomes:
            _show(run, outcome)
    return _finish(run, outcomes)


def _ids(context: click.Context, run: Session, path: str, keys: Sequence[str], *, default: bool) -> list[str]:
    client = run.client(context)
    if not keys:
        described = client.collections.describe(path)
        return [described.default_acl_id if default else described.acl_id]
    chosen = ", ".join(quoted_text(key) for key in keys)
    sql = f"SELECT DISTINCT entry_acl FROM {quoted_path(path)} WHERE entry IN ({chosen})"  # noqa: S608 - parsed again there
    found = [str(row[0]) for row in client.metadata.query(sql)]
    if not found:
        raise NotFound("ENTRY_NOT_FOUND", f"{path}: no such entry, or you may not read it")
    return found


def _show(run: Session, outcome: AclOutcome) -> None:
    if outcome.acl is None:
        return
    entries = {principal: format_permissions(bits) for principal, bits in outcome.acl.entries.items()}
    if run.as_json:
        print_json({"acl_id": outcome.acl_id, "owner": outcome.acl.owner, "entries": entries})
        return
    print_line(f"access list {outcome.acl_id}, owner {printable(outcome.acl.owner)}")
    for principal, letters in entries.items():
        print_line(f"  {letters:<8}  {printable(principal)}")


def _finish(run: Session, outcomes: Sequence[AclOutcome]) -> int:
    failures = [outcome.error for outcome in outcomes if outcome.error is not None]
    for error in failures:
        show_client_error(error, run.as_json)
    return exit_code_of_items(len(outcomes), failures)
