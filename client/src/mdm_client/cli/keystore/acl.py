"""Commands for who may use a key: key acl get, grant, revoke, set, assign, chown."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import click

from mdm_client.acl import AclAnswer, replace
from mdm_client.cli.acl import PRINCIPAL_HELP, AclKind, check_sharing, finish, sharing_options, show_lists
from mdm_client.cli.context import Session, common_options, session_command
from mdm_client.cli.error import SOME_FAILED, exit_code_of_items
from mdm_client.cli.keystore.key import find_key, report_result
from mdm_client.name_syntax import parse_principal
from mdm_client.service import raise_first

if TYPE_CHECKING:
    from mdm.acl.v1 import acl_pb2

    from mdm_client.client import Client


def _change(run: Session, changes: "Sequence[acl_pb2.AclChange]", shared: bool, own: bool, _done: str, identifier: str) -> int:
    client = run.client()
    guid = _target(client, identifier, shared, own)
    return _report(run, client.keys.change_acl(guid, changes, shared=shared), "run it again to complete it")


def _target(client: "Client", identifier: str, shared: bool, own: bool) -> UUID:
    """Return the GUID of a key; with `own`, give it a list of its own first."""
    check_sharing(shared, own)
    guid = find_key(client, identifier)
    if own:
        raise_first(list(client.keys.give_own_acl(guid, uuid4()).values()))
    return guid


def _report(run: Session, answers: Mapping[str, AclAnswer], advice: str = "") -> int:
    """Write each keystore's list, once if they agree, and the errors; return the exit code."""
    found = list(answers.values())
    agree = show_lists(run, found) and len({answer.acl_id for answer in found if answer.acl}) <= 1
    return finish(run, found, advice) or (0 if agree else SOME_FAILED)


_KEY = AclKind(
    target=[click.argument("identifier", metavar="ID")],
    change=_change,
    arguments_help=f"""
    ID is a key's GUID, or a file in the catalog. {PRINCIPAL_HELP} r use the key, g see its attributes, l list it, d destroy it,
    p change the list, w register keys under the list; s and x mean nothing for keys. Images have lists in catalog and metadata too:
    mdm acl grant acts on all of them.
    """,
)


@click.group("acl")
@common_options
def key_acl() -> None:
    """Show and change who may use a key, on every keystore."""


_KEY.add_to(key_acl, "Allow PRINCIPAL the use of a key.", "Take PERMISSIONS (default: all) on a key from PRINCIPAL.")
key_acl.add_command(_KEY.command("set", "Replace what PRINCIPAL may do with a key by PERMISSIONS.", replace, "changed"))


@key_acl.command("get")
@click.argument("identifier", metavar="ID")
@session_command
def get_acl(run: Session, identifier: str) -> int:
    """Show the access list of a key as each keystore holds it."""
    client = run.client()
    return _report(run, client.keys.acls(find_key(client, identifier)))


@key_acl.command()
@click.argument("identifier", metavar="ID")
@click.argument("acl_id", type=click.UUID, metavar="ACL_ID")
@session_command
def assign(run: Session, identifier: str, acl_id: UUID) -> int:
    """Put a key under another access list, which exists. Needs `p` under the present one."""
    client = run.client()
    (result,) = client.keys.assign_acl([find_key(client, identifier)], acl_id)
    return exit_code_of_items(1, report_result(run, result, "assigned"))


@key_acl.command()
@click.argument("identifier", metavar="ID")
@click.argument("owner", metavar="DN")
@sharing_options
@session_command
def chown(run: Session, identifier: str, owner: str, shared: bool, own: bool) -> int:
    """Give the access list of a key to another owner. Only its owner may.

    You keep what the list grants you, and p, d and g until the new owner revokes them. If a keystore is away, run the command again.
    """
    principal = parse_principal(owner)
    client = run.client()
    guid = _target(client, identifier, shared, own)
    result = client.keys.change_owner(guid, principal, shared=shared)
    return exit_code_of_items(1, report_result(run, result, "given away", "not found: given away before?"))
