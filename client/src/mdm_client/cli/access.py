"""Commands of access control: acl get, grant, revoke."""

from collections import defaultdict
from typing import Any

import click

from mdm_client.cli.context import common_options, session
from mdm_client.cli.outcome import OK, SOME_FAILED, exit_code_of_items, show_client_error, show_error
from mdm_client.cli.table import print_json, print_line, printable
from mdm_client.grants import GRANT, REVOKE, AclOutcome, AclReport, AclView
from mdm_client.names import format_permissions, parse_name, parse_permissions, parse_principal

_ARGUMENTS_HELP = """
    PRINCIPAL is dn:CN=…,O=… (or /O=…/CN=…), group:/vo/group or authenticated. PERMISSIONS are letters: p change the list,
    d delete, r read, w write, l list, x traverse, g get attributes, s set attributes. To let someone find and fetch: rlxg.
"""


@click.group()
@common_options
def acl() -> None:
    """Show and change who may do what, in catalog, keystores and metadata together."""


@acl.command("get")
@click.argument("target")
@common_options
@click.pass_context
def get_acl(context: click.Context, target: str) -> int:
    """Show the access lists of TARGET and everything below it."""
    run = session(context)
    report = run.client(context).grants.get(parse_name(target))
    if run.as_json:
        for outcome in report.outcomes:
            print_json(outcome_facts(outcome))
    else:
        _print_lists(report)
    return _finish(report, run.as_json, "")


@acl.command(help="Allow PRINCIPAL on TARGET and everything below it." + "\n\n" + _ARGUMENTS_HELP)
@click.argument("target")
@click.argument("principal")
@click.argument("permissions")
@click.option("--shared", is_flag=True, help="Also change lists that guard objects outside TARGET.")
@common_options
@click.pass_context
def grant(context: click.Context, target: str, principal: str, permissions: str, shared: bool) -> int:
    """Allow a principal on a subtree."""
    return _change(context, GRANT, target, principal, permissions, shared)


@acl.command(help="Take PERMISSIONS (default: all) from PRINCIPAL on TARGET and everything below it." + "\n\n" + _ARGUMENTS_HELP)
@click.argument("target")
@click.argument("principal")
@click.argument("permissions", default="prwlxgsd")
@click.option("--shared", is_flag=True, help="Also change lists that guard objects outside TARGET.")
@common_options
@click.pass_context
def revoke(context: click.Context, target: str, principal: str, permissions: str, shared: bool) -> int:
    """Take permissions from a principal on a subtree."""
    return _change(context, REVOKE, target, principal, permissions, shared)


def _change(context: click.Context, action: int, target: str, principal: str, permissions: str, shared: bool) -> int:
    run = session(context)
    name, who, bits = parse_name(target), parse_principal(principal), parse_permissions(permissions)
    report = run.client(context).grants.change(name, action, who, bits, include_shared=shared)
    if run.as_json:
        for outcome in report.outcomes:
            print_json(outcome_facts(outcome))
    else:
        done = "granted" if action == GRANT else "revoked"
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
