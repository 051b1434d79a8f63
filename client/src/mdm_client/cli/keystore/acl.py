"""Commands for who may use a key: key acl get, grant, revoke, set, assign, chown."""

from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import click

from mdm_client import grants
from mdm_client.cli.catalog.acl import entry_lines, outcome_facts
from mdm_client.cli.context import Session, common_options, session
from mdm_client.cli.keystore.key import report_deed
from mdm_client.cli.keystore.key_name import find_key
from mdm_client.cli.outcome import OK, SOME_FAILED, exit_code, exit_code_of_items, show_client_error, show_error
from mdm_client.cli.sharing import check_sharing, sharing_options
from mdm_client.cli.table import print_json, print_line
from mdm_client.grants import AclOutcome
from mdm_client.names import parse_permissions, parse_principal

if TYPE_CHECKING:
    from mdm.acl.v1 import acl_pb2

    from mdm_client.client import Client

_ARGUMENTS_HELP = """
    ID is a key's GUID, or a file in the catalog. PRINCIPAL is dn:CN=…,O=… (or /O=…/CN=…), group:/vo/group or authenticated. PERMISSIONS are
    letters: r use the key, g see its attributes, l list it, d destroy it, p change the list, w register keys under the list; s and x
    mean nothing for keys. Images have lists in catalog and metadata too: mdm acl grant acts on all of them.
"""


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
@sharing_options
@common_options
@click.pass_context
def grant(context: click.Context, identifier: str, principal: str, permissions: str, shared: bool, own: bool) -> int:
    """Add permissions."""
    return _change(context, identifier, [grants.grant(parse_principal(principal), parse_permissions(permissions))], shared, own)


@key_acl.command(help="Take PERMISSIONS (default: all) on a key from PRINCIPAL." + "\n\n" + _ARGUMENTS_HELP)
@click.argument("identifier", metavar="ID")
@click.argument("principal")
@click.argument("permissions", default="prwlxgsd")
@sharing_options
@common_options
@click.pass_context
def revoke(context: click.Context, identifier: str, principal: str, permissions: str, shared: bool, own: bool) -> int:
    """Take permissions."""
    return _change(context, identifier, [grants.revoke(parse_principal(principal), parse_permissions(permissions))], shared, own)


@key_acl.command("set", help="Replace what PRINCIPAL may do with a key by PERMISSIONS." + "\n\n" + _ARGUMENTS_HELP)
@click.argument("identifier", metavar="ID")
@click.argument("principal")
@click.argument("permissions")
@sharing_options
@common_options
@click.pass_context
def set_acl(context: click.Context, identifier: str, principal: str, permissions: str, shared: bool, own: bool) -> int:
    """Replace one entry."""
    return _change(context, identifier, [grants.replace(parse_principal(principal), parse_permissions(permissions))], shared, own)


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
@sharing_options
@common_options
@click.pass_context
def chown(context: click.Context, identifier: str, owner: str, shared: bool, own: bool) -> int:
    """Give the access list of a key to another owner. Only its owner may.

    You keep what the list grants you, and p, d and g until the new owner takes them. A keystore that is away is named; run it again.
    """
    run = session(context)
    who = parse_principal(owner)
    client = run.client(context)
    guid = _target(client, identifier, shared, own)
    deed = client.keys.change_owner(guid, who, shared=shared)
    return exit_code_of_items(1, report_deed(run, deed, "given away", "not found: given away before?"))


def _change(context: click.Context, identifier: str, changes: "list[acl_pb2.AclChange]", shared: bool, own: bool) -> int:
    run = session(context)
    client = run.client(context)
    guid = _target(client, identifier, shared, own)
    return _report(run, client.keys.change_acl(guid, changes, shared=shared), "run it again to complete it")


def _target(client: "Client", identifier: str, shared: bool, own: bool) -> UUID:
    """Return the key that is meant, with `own` after giving it a list of its own."""
    check_sharing(shared, own)
    guid = find_key(client, identifier)
    if own:
        for error in client.keys.give_own_acl(guid, uuid4()).values():
            if error is not None:
                raise error
    return guid


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
