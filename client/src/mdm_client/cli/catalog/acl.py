"""Commands of access control: acl get, grant, revoke, set, who; chown."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import click
from mdm.acl.v1 import acl_pb2
from mdm_wire.permission import format_permissions

from mdm_client import grants
from mdm_client.cli.catalog.lfn import LFN
from mdm_client.cli.context import common_options, session
from mdm_client.cli.outcome import OK, SOME_FAILED, about, exit_code_of_items, show_client_error, show_error
from mdm_client.cli.table import print_json, print_line, printable
from mdm_client.grants import AclOutcome, AclReport, AclView
from mdm_client.names import parse_acl_change, parse_name, parse_permissions, parse_principal

_ARGUMENTS_HELP = """
    PRINCIPAL is dn:CN=…,O=… (or /O=…/CN=…), group:/vo/group or authenticated. PERMISSIONS are letters: p change the list,
    d delete, r read, w write, l list, x traverse, g get attributes, s set attributes. To let someone find and fetch: rlxg.
"""


@click.group()
@common_options
def acl() -> None:
    """Show and change who may do what, in catalog, keystores and metadata together."""


@acl.command("get")
@click.argument("target", type=LFN)
@common_options
@click.pass_context
def get_acl(context: click.Context, target: str) -> int:
    """Show the access lists of TARGET and everything below it."""
    run = session(context)
    with about(target):
        report = run.client(context).grants.get(parse_name(target))
    if run.as_json:
        for outcome in report.outcomes:
            print_json(outcome_facts(outcome))
    else:
        _print_lists(report)
    return _finish(report, run.as_json, "")


@acl.command(help="Allow PRINCIPAL on TARGET and everything below it." + "\n\n" + _ARGUMENTS_HELP)
@click.argument("target", type=LFN)
@click.argument("principal")
@click.argument("permissions")
@click.option("--shared", is_flag=True, help="Also change lists that guard objects outside TARGET.")
@common_options
@click.pass_context
def grant(context: click.Context, target: str, principal: str, permissions: str, shared: bool) -> int:
    """Allow a principal on a subtree."""
    changes = [grants.grant(parse_principal(principal), parse_permissions(permissions))]
    return _change(context, target, changes, shared, "granted")


@acl.command(help="Take PERMISSIONS (default: all) from PRINCIPAL on TARGET and everything below it." + "\n\n" + _ARGUMENTS_HELP)
@click.argument("target", type=LFN)
@click.argument("principal")
@click.argument("permissions", default="prwlxgsd")
@click.option("--shared", is_flag=True, help="Also change lists that guard objects outside TARGET.")
@common_options
@click.pass_context
def revoke(context: click.Context, target: str, principal: str, permissions: str, shared: bool) -> int:
    """Take permissions from a principal on a subtree."""
    changes = [grants.revoke(parse_principal(principal), parse_permissions(permissions))]
    return _change(context, target, changes, shared, "revoked")


@acl.command("set")
@click.argument("target", type=LFN)
@click.argument("changes", nargs=-1, required=True, metavar="CHANGE...")
@click.option("--shared", is_flag=True, help="Also change lists that guard objects outside TARGET.")
@click.option("--own", is_flag=True, help="Give the directory TARGET itself a list of its own; what is in it stays as it is.")
@click.option("--default", is_flag=True, help="Only for what is made in the directory TARGET from now on.")
@common_options
@click.pass_context
def set_acl(context: click.Context, target: str, changes: tuple[str, ...], shared: bool, own: bool, default: bool) -> int:
    """Change who may do what with TARGET and everything below it, in short forms as of chmod.

    A CHANGE is PRINCIPAL+PERMISSIONS (allow too), PRINCIPAL-PERMISSIONS (take away) or PRINCIPAL=PERMISSIONS (exactly these;
    nothing after = removes the entry). PERMISSIONS are letters, or read (rlxg), write (wdsrlxg), all, none. For example:
    mdm acl set /biomed/x group:/biomed/neuro=read authenticated=
    """
    actions = {"+": grants.grant, "-": grants.revoke, "=": grants.replace}
    parsed = [parse_acl_change(change) for change in changes]
    messages = [actions[operator](principal, bits) for principal, operator, bits in parsed]
    if not own and not default:
        return _change(context, target, messages, shared, "changed")
    if shared:
        raise click.UsageError("--shared does not go with --own or --default: their list is a new one")
    run = session(context)
    with about(target):
        outcome = run.client(context).grants.set_own(parse_name(target), messages, own=own, default=default)
    if run.as_json:
        print_json(outcome_facts(outcome))
    elif outcome.acl:
        print_line(f"{'' if own else 'default '}access list {outcome.acl_id}")
        print_line("\n".join(entry_lines(outcome.acl)))
    return _finish(AclReport((outcome,)), run.as_json, "")


@acl.command()
@click.argument("target", type=LFN)
@click.argument("permissions", default="r")
@common_options
@click.pass_context
def who(context: click.Context, target: str, permissions: str) -> int:
    """Tell who holds PERMISSIONS (default: r) on TARGET, or on how many files below it, and by which entries.

    For operators, and who may change the access list of TARGET. Groups are told by their members; who is banned is left out.
    """
    run = session(context)
    with about(target):
        report = run.client(context).catalog.report_access(parse_name(target), parse_permissions(permissions))
    for holder in report.holders:
        if run.as_json:
            print_json({"subject": holder.subject, "files": holder.files, "of": report.files, "by": list(holder.by)})
        else:
            print_line(f"{holder.files:>9} of {report.files} files  {printable(holder.subject)}  by {printable(', '.join(holder.by))}")
    if report.hidden:
        show_error(f"{report.hidden} files are under access lists that are not for you to see", "ACL_HIDDEN", run.as_json)
    return SOME_FAILED if report.hidden else OK


@click.command()
@click.argument("owner")
@click.argument("target", type=LFN)
@click.option("--shared", is_flag=True, help="Also give away lists that guard objects outside TARGET.")
@click.option("-R", "--recursive", is_flag=True, expose_value=False, help="Accepted and without effect: it always is.")
@common_options
@click.pass_context
def chown(context: click.Context, owner: str, target: str, shared: bool) -> int:
    """Make OWNER, a DN, the owner of the access lists of TARGET and everything below it, in every service.

    Only their owner may. You keep what the lists' entries give you.
    """
    principal = parse_principal(owner)
    if not principal.startswith("dn:"):
        raise click.UsageError(f"{owner}: an owner is a DN, such as dn:CN=alice,O=Lab")
    return _change(context, target, [grants.give(principal)], shared, "given away")


def _change(context: click.Context, target: str, changes: Sequence[acl_pb2.AclChange], shared: bool, done: str) -> int:
    run = session(context)
    with about(target):
        report = run.client(context).grants.change(parse_name(target), changes, include_shared=shared)
    if run.as_json:
        for outcome in report.outcomes:
            print_json(outcome_facts(outcome))
    else:
        for service, outcomes in _by_service(report).items():
            good = sum(outcome.error is None for outcome in outcomes)
            print_line(f"{service:<14} {done} on {good} of {len(outcomes)} access lists")
        if report.shared:
            print_line(f"{len(report.shared)} access lists that also guard objects elsewhere were left as they are (--shared)")
    return _finish(report, run.as_json, "run it again to complete it")


def _finish(report: AclReport, as_json: bool, advice: str) -> int:
    """Write what failed; return the exit code."""
    for outcome in report.outcomes:
        if outcome.error:
            show_client_error(outcome.error, as_json, outcome.acl_id)
    failures = [outcome.error for outcome in report.outcomes if outcome.error]
    if report.hidden:
        show_error(f"{report.hidden} access lists there are not for you to see", "ACL_HIDDEN", as_json)
    if failures and advice:
        show_error(f"{len(failures)} of {len(report.outcomes)} parts failed; {advice}", "INCOMPLETE", as_json)
    if failures:
        return exit_code_of_items(len(report.outcomes), failures)
    return SOME_FAILED if report.hidden else OK


def _by_service(report: AclReport) -> dict[str, list[AclOutcome]]:
    services: dict[str, list[AclOutcome]] = defaultdict(list)
    for outcome in report.outcomes:
        services[outcome.service].append(outcome)
    return services


def _print_lists(report: AclReport) -> None:
    """Print each ACL once where the services agree, and otherwise as each holds it."""
    by_id: dict[str, list[AclOutcome]] = defaultdict(list)
    for outcome in report.outcomes:
        if outcome.acl:
            by_id[outcome.acl_id].append(outcome)
    for acl_id, outcomes in by_id.items():
        variants: dict[str, list[str]] = defaultdict(list)
        for outcome in outcomes:
            if outcome.acl:
                variants["\n".join(entry_lines(outcome.acl))].append(outcome.service)
        print_line(f"access list {acl_id}")
        for lines, services in variants.items():
            note = " DIFFERENT: grant or revoke again to align them" if len(variants) > 1 else ""
            print_line(f"  in {', '.join(services)}:{note}")
            print_line(lines)


def entry_lines(acl_view: AclView) -> list[str]:
    """Return the lines that show an ACL's owner and entries."""
    lines = [f"    {'pdrwlxgs':<9} owner {printable(acl_view.owner)}"]
    lines += [f"    {format_permissions(bits):<9} {printable(who)}" for who, bits in sorted(acl_view.entries.items())]
    return lines


def outcome_facts(outcome: AclOutcome) -> dict[str, Any]:
    """Return what one service answered about an ACL, for JSON."""
    facts: dict[str, Any] = {"service": outcome.service, "acl_id": outcome.acl_id, "ok": outcome.error is None}
    if outcome.error:
        facts |= {"reason": outcome.error.reason, "message": outcome.error.message}
    if outcome.acl:
        entries = {who: format_permissions(bits) for who, bits in sorted(outcome.acl.entries.items())}
        facts |= {"owner": outcome.acl.owner, "entries": entries, "rev": outcome.acl.rev}
    return facts
