"""Commands of access control: acl get, grant, revoke, set, who; chown."""

from collections import Counter
from collections.abc import Sequence

import click
from mdm.acl.v1 import acl_pb2

from mdm_client.acl import give_away, grant, replace, revoke
from mdm_client.cli.acl import PRINCIPAL_HELP, AclKind, check_sharing, finish, sharing_options, show_hidden, show_lists
from mdm_client.cli.catalog.entry import LFN
from mdm_client.cli.context import Session, common_options, session_command
from mdm_client.cli.error import about
from mdm_client.cli.output import print_line, printable, show
from mdm_client.name_syntax import parse_acl_change, parse_name, parse_permissions, parse_principal
from mdm_client.subtree_acls import AclReport

_ADVICE = "run it again to complete it"


def _change(run: Session, changes: Sequence[acl_pb2.AclChange], shared: bool, own: bool, done: str, target: str) -> int:
    check_sharing(shared, own)
    acls = run.client().acls
    with about(target):
        if own:
            return _show(run, acls.set_own(parse_name(target), changes), _ADVICE)
        report = acls.change(parse_name(target), changes, shared)
    if run.as_json:
        return _show(run, report, _ADVICE)
    good = Counter(answer.service for answer in report.answers if answer.error is None)
    for service, count in Counter(answer.service for answer in report.answers).items():
        print_line(f"{service:<14} {done} on {good[service]} of {count} access lists")
    if report.shared:
        print_line(f"{report.shared} access lists that also guard objects elsewhere were left as they are (--shared)")
    return _finish(run, report, _ADVICE)


def _show(run: Session, report: AclReport, advice: str = "", what: str = "access list") -> int:
    """Write the lists of a report and its errors; return the exit code."""
    show_lists(run, report.answers, what)
    return _finish(run, report, advice)


def _finish(run: Session, report: AclReport, advice: str) -> int:
    hidden = show_hidden(run, report.hidden, "access lists there are")
    return finish(run, report.answers, advice) or hidden


_SUBTREE = AclKind(
    target=[click.argument("target", type=LFN)],
    change=_change,
    arguments_help=f"""
    {PRINCIPAL_HELP} p change the list,
    d delete, r read, w write, l list, x traverse, g get attributes, s set attributes. To let someone find and fetch: rlxg.
    """,
)


@click.group()
@common_options
def acl() -> None:
    """Show and change who may do what, in catalog, keystores and metadata together."""


_SUBTREE.add_to(
    acl,
    "Allow PRINCIPAL on TARGET and everything below it.",
    "Take PERMISSIONS (default: all) from PRINCIPAL on TARGET and everything below it.",
)


@acl.command("get")
@click.argument("target", type=LFN)
@session_command
def get_acl(run: Session, target: str) -> int:
    """Show the access lists of TARGET and everything below it."""
    with about(target):
        report = run.client().acls.get(parse_name(target))
    return _show(run, report)


@acl.command("set")
@click.argument("target", type=LFN)
@click.argument("changes", nargs=-1, required=True, metavar="CHANGE...")
@sharing_options
@click.option("--default", is_flag=True, help="Only for what is made in the directory TARGET from now on.")
@session_command
def set_acl(run: Session, target: str, changes: tuple[str, ...], shared: bool, own: bool, default: bool) -> int:
    """Change who may do what with TARGET and everything below it, in short forms as of chmod.

    A CHANGE is PRINCIPAL+PERMISSIONS (allow too), PRINCIPAL-PERMISSIONS (take away) or PRINCIPAL=PERMISSIONS (exactly these;
    nothing after = removes the entry). PERMISSIONS are letters, or read (rlxg), write (wdsrlxg), all, none. For example:
    mdm acl set /biomed/x group:/biomed/neuro=read authenticated=
    """
    actions = {"+": grant, "-": revoke, "=": replace}
    messages = [actions[operator](principal, bits) for principal, operator, bits in map(parse_acl_change, changes)]
    if not default:
        return _change(run, messages, shared, own, "changed", target)
    if shared:
        raise click.UsageError("--shared does not go with --default: its list is a new one")
    with about(target):
        report = run.client().acls.set_own(parse_name(target), messages, own=own, default=True)
    return _show(run, report, _ADVICE, "access list" if own else "default access list")


@acl.command()
@click.argument("target", type=LFN)
@click.argument("permissions", default="r")
@session_command
def who(run: Session, target: str, permissions: str) -> int:
    """List who holds PERMISSIONS (default: r) on TARGET, or on how many files below it, and by which entries.

    For operators, and those who may change the access list of TARGET. Of groups, the members are listed; banned subjects are not.
    """
    with about(target):
        report = run.client().catalog.acls.report_access(parse_name(target), parse_permissions(permissions))
    for holder in report.holders:
        line = f"{holder.files:>9} of {report.files} files  {printable(holder.subject)}  by {printable(', '.join(holder.by))}"
        show(run.as_json, {"subject": holder.subject, "files": holder.files, "of": report.files, "by": list(holder.by)}, line)
    return show_hidden(run, report.hidden, "files are under access lists that are")


@click.command()
@click.argument("owner")
@click.argument("target", type=LFN)
@sharing_options
@click.option("-R", "--recursive", is_flag=True, expose_value=False, hidden=True, help="Accepted and without effect: it always is.")
@session_command
def chown(run: Session, owner: str, target: str, shared: bool, own: bool) -> int:
    """Make OWNER, a DN, the owner of the access lists of TARGET and everything below it, in every service.

    Only their owner may. You keep what the lists' entries give you, and p, d and g until OWNER revokes them (mdm acl revoke). A DN that
    no authority here may sign is refused; whether there is such an OWNER, nobody knows before OWNER makes a call.
    """
    principal = parse_principal(owner)
    if not principal.startswith("dn:"):
        raise click.UsageError(f"{owner}: an owner is a DN, such as dn:CN=alice,O=Lab")
    changes = give_away(principal, run.client().caller)
    return _change(run, changes, shared, own, "given away", target)
