"""Commands for who may use a key: key acl get, grant, revoke, set, assign, chown."""

from uuid import UUID

import click
from mdm_wire.errors import Invalid

from mdm_client.cli.catalog.acl import entry_lines, outcome_facts
from mdm_client.cli.context import Session, common_options, session
from mdm_client.cli.keystore.key import report_deed
from mdm_client.cli.keystore.key_name import find_key
from mdm_client.cli.outcome import OK, SOME_FAILED, exit_code, exit_code_of_items, show_client_error, show_error
from mdm_client.cli.table import print_json, print_line
from mdm_client.grants import GRANT, REVOKE, AclOutcome
from mdm_client.keystore.manager import SET, KeyManager
from mdm_client.names import parse_permissions, parse_principal

_ARGUMENTS_HELP = """
    ID is a key's GUID, or a file in the catalog. PRINCIPAL is dn:CN=…,O=… (or /O=…/CN=…), group:/vo/group or authenticated. PERMISSIONS are
    letters: r use the key, g see its attributes, l list it, d destroy it, p change the list, w register keys under the list; s and x
    mean nothing for keys. Images have lists in catalog and metadata too: mdm acl grant acts on all of them.
"""
_shared = click.option("--shared", is_flag=True, help="Also if the list may guard other keys, such as those of a whole study.")


@click.group("acl")
@common_options
def key_acl() -> None:
    """Show and change who may use a key, on every keystore."""


@key_acl.command("get")
@click.argument("identifier", metavar="ID")
@common_options
@click.pass_context
def get_acl(context: click.Context, identifier: str) -> int:
    """Show the access list of a key as each keystore holds it."""
    run = session(context)
    client = run.client(context)
    return _report(run, client.keys.acls(find_key(client, identifier)), "")


@key_acl.command(help="Allow PRINCIPAL the use of a key." + "\n\n" + _ARGUMENTS_HELP)
@click.argument("identifier", metavar="ID")
@click.argument("principal")
@click.argument("permissions")
@_shared
@common_options
@click.pass_context
def grant(context: click.Context, identifier: str, principal: str, permissions: str, shared: bool) -> int:
    """Add permissions."""
    return _change(context, GRANT, identifier, principal, parse_permissions(permissions), shared)


@key_acl.command(help="Take PERMISSIONS (default: all) on a key from PRINCIPAL." + "\n\n" + _ARGUMENTS_HELP)
@click.argument("identifier", metavar="ID")
@click.argument("principal")
@click.argument("permissions", default="prwlxgsd")
@_shared
@common_options
@click.pass_context
def revoke(context: click.Context, identifier: str, principal: str, permissions: str, shared: bool) -> int:
    """Take permissions."""
    return _change(context, REVOKE, identifier, principal, parse_permissions(permissions), shared)


@key_acl.command("set", help="Replace what PRINCIPAL may do with a key by PERMISSIONS." + "\n\n" + _ARGUMENTS_HELP)
@click.argument("identifier", metavar="ID")
@click.argument("principal")
@click.argument("permissions")
@_shared
@common_options
@click.pass_context
def set_acl(context: click.Context, identifier: str, principal: str, permissions: str, shared: bool) -> int:
    """Replace one entry."""
    return _change(context, SET, identifier, principal, parse_permissions(permissions), shared)


@key_acl.command()
@click.argument("identifier", metavar="ID")
@click.argument("acl_id", type=click.UUID, metavar="ACL_ID")
@common_options
@click.pass_context
def assign(context: click.Context, identifier: str, acl_id: UUID) -> int:
    """Put a key under another access list, which exists. Needs `p` under the present one."""
    run = session(context)
    client = run.client(context)
    (deed,) = client.keys.assign_acl([find_key(client, identifier)], acl_id)
    return exit_code_of_items(1, report_deed(run, deed, "assigned"))


@key_acl.command()
@click.argument("identifier", metavar="ID")
@click.argument("owner", metavar="DN")
@_shared
@common_options
@click.pass_context
def chown(context: click.Context, identifier: str, owner: str, shared: bool) -> int:
    """Give the access list of a key to another owner. Only its owner may, and then has only what the list grants.

    To keep a right, grant it to yourself before. A keystore that is away is named; run it again.
    """
    run = session(context)
    who = parse_principal(owner)
    client = run.client(context)
    guid = find_key(client, identifier)
    if not shared:
        _check_own_list(client.keys, guid)
    deed = client.keys.change_owner(guid, who)
    return exit_code_of_items(1, report_deed(run, deed, "given away", "not found: given away before?"))


def _change(context: click.Context, action: int, identifier: str, principal: str, bits: int, shared: bool) -> int:
    run = session(context)
    who = parse_principal(principal)
    client = run.client(context)
    guid = find_key(client, identifier)
    if not shared:
        _check_own_list(client.keys, guid)
    return _report(run, client.keys.change_acl(guid, action, who, bits), "run it again to complete it")


def _check_own_list(keys: KeyManager, guid: UUID) -> None:
    """Refuse to change a list that was not made for this key alone: nobody knows what else it guards."""
    (status,) = keys.stat([guid])
    if status.error:
        raise status.error
    foreign = {facts.acl_id for facts in status.known.values()} - {str(keys.own_acl_id([guid]))}
    if foreign:
        raise Invalid("ACL_SHARED", f"{guid}: the access list {min(foreign)} may guard other keys too: add --shared to change it")


def _report(run: Session, outcomes: dict[str, AclOutcome], advice: str) -> int:
    """Write each keystore's list, once where they agree, and what failed; return the exit code."""
    failures = [outcome.error for outcome in outcomes.values() if outcome.error]
    lists: dict[str, list[str]] = {}
    for name, outcome in outcomes.items():
        if run.as_json:
            print_json(outcome_facts(outcome))
        elif outcome.acl:
            lists.setdefault("\n".join([f"access list {outcome.acl_id}", *entry_lines(outcome.acl)]), []).append(name)
    for text, names in lists.items():
        print_line(f"in keystore {', '.join(names)}:{' DIFFERENT' if len(lists) > 1 else ''} {text}")
    if len(failures) == len(outcomes):
        show_client_error(failures[0], run.as_json)
        return exit_code(failures[0])
    for error in failures:
        show_client_error(error, run.as_json)
    if failures and advice:
        show_error(f"{len(failures)} of {len(outcomes)} parts failed; {advice}", "INCOMPLETE", run.as_json)
    return SOME_FAILED if failures or len(lists) > 1 else OK
