"""Commands of auditors: key audit verify, show."""

from datetime import UTC
from typing import Any
from uuid import UUID

import click

from mdm_client.cli.context import common_options, session
from mdm_client.cli.error import OK, SOME_FAILED, UNAVAILABLE, show_error
from mdm_client.cli.table import print_json, print_line, printable
from mdm_client.keystore.audit import UNREACHABLE, AuditReport, audit_entries, verify_audit


@click.group("audit")
@common_options
def key_audit() -> None:
    """Read and verify what keystores recorded: who was given which key, who was refused, who changed what (operators only)."""


@key_audit.command()
@click.argument("names", nargs=-1, metavar="[KEYSTORE...]")
@common_options
@click.pass_context
def verify(context: click.Context, names: tuple[str, ...]) -> int:
    """Verify the whole audit of keystores (default: of all): each entry against the one before it, and against what the others witnessed.

    Finds entries that were edited or taken out, a tail that was cut off, a log that was begun anew, forged signatures. Entries behind
    the last one that another keystore witnessed rest on that keystore alone.

    Exit code 1 if anything is wrong, 4 if all that is wrong is that a keystore cannot be asked.
    """
    run = session(context)
    reports = verify_audit(run.client(context).keystore_operator, names)
    for report in reports:
        if run.as_json:
            print_json(_facts(report))
        else:
            _print(report)
    kinds = {finding.kind for report in reports for finding in report.findings}
    if not kinds:
        return OK
    bad = ", ".join(report.name for report in reports if not report.intact)
    show_error(f"the audit is not proven: keystore {bad}", "AUDIT_NOT_PROVEN", run.as_json)
    return UNAVAILABLE if kinds == {UNREACHABLE} else SOME_FAILED


@key_audit.command()
@click.argument("name", metavar="KEYSTORE")
@click.option("--after", type=click.IntRange(0), default=0, metavar="SEQ", help="Only the entries behind this number.")
@click.option("--id", "guid", type=click.UUID, metavar="GUID", help="Only what concerns this key, access list or job.")
@common_options
@click.pass_context
def show(context: click.Context, name: str, after: int, guid: UUID | None) -> None:
    """Print the audit of a keystore as it gives it, unverified: number, time, who, what, which key, outcome."""
    run = session(context)
    for entry in audit_entries(run.client(context).keystore_operator, name, after):
        if guid is not None and entry.guid != str(guid):
            continue
        time = entry.time.ToDatetime(tzinfo=UTC)
        if run.as_json:
            facts = {"seq": entry.seq, "time": time.isoformat(), "who": entry.who, "action": entry.action, "guid": entry.guid}
            print_json({**facts, "outcome": entry.outcome})
        else:
            cells = (f"{entry.seq:>8}", f"{time:%Y-%m-%d %H:%M:%S}", entry.action.ljust(10), entry.guid, entry.outcome.ljust(14), entry.who)
            print_line("  ".join(printable(cell) for cell in cells))


def _facts(report: AuditReport) -> dict[str, Any]:
    findings = [{"kind": finding.kind, "seq": finding.seq, "message": finding.message} for finding in report.findings]
    last = report.last_time.isoformat() if report.last_time else None
    facts = {"keystore": report.name, "intact": report.intact, "entries": report.entries, "last": last}
    return {**facts, "witnessed": report.witnessed, "findings": findings}


def _print(report: AuditReport) -> None:
    witnessed = ", ".join(f"{name} to entry {seq}" for name, seq in report.witnessed.items()) or "nobody"
    state = "intact" if report.intact else "NOT PROVEN"
    print_line(f"keystore {report.name}  {state}: {report.entries} entries, witnessed by {witnessed}")
    for finding in report.findings:
        print_line(f"  {finding.kind}: {printable(finding.message)}")
