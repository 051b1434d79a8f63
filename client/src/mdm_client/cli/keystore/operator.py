"""Commands of operators and auditors of keystores: key refresh, repair, reshare, job, cancel, rewrap, audit."""

from collections.abc import Callable
from datetime import UTC
from itertools import chain
from typing import Any
from uuid import UUID

import click
from mdm.keystore.v1 import admin_pb2
from mdm_wire.errors import Invalid

from mdm_client.cli.context import RenamedOption, Session, common_options, session_command
from mdm_client.cli.error import OK, SOME_FAILED, UNAVAILABLE, show_error
from mdm_client.cli.output import print_json, print_line, printable, show
from mdm_client.keystore.audit import UNREACHABLE, AuditReport, verify_audit
from mdm_client.keystore.operator import KeystoreOperator

_KINDS = {
    admin_pb2.RESHARING_KIND_REFRESH: "refresh",
    admin_pb2.RESHARING_KIND_REPAIR: "repair",
    admin_pb2.RESHARING_KIND_RESHARE: "reshare",
}
_STATES = {
    admin_pb2.RESHARING_STATE_RUNNING: "running",
    admin_pb2.RESHARING_STATE_CANCELLING: "cancelling",
    admin_pb2.RESHARING_STATE_DONE: "done",
    admin_pb2.RESHARING_STATE_CANCELLED: "cancelled",
}


def _job_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command that begins a job --by, --job and --no-wait."""
    by_help = "Which keystore drives the job (default: the first that can)."
    by = click.option("--by", "driver", default="", metavar="KEYSTORE", help=by_help)
    id_help = "The id of an earlier attempt: the job is begun only once."
    job = click.option("--job", "job_id", cls=RenamedOption, old=["--id"], type=click.UUID, metavar="JOB_ID", help=id_help)
    no_wait = click.option("--no-wait", is_flag=True, help="Return when the job has begun; see mdm key job.")
    return by(job(no_wait(command)))


@click.command()
@_job_options
@session_command
def refresh(run: Session, driver: str, job_id: UUID | None, no_wait: bool) -> int:
    """Give every key new shares (operators only). Keys do not change; old shares, stolen ones too, become useless.

    All keystores must be up. The keystore that drives the job goes on when this command ends, and after it was killed and started again.
    """
    operator = run.client().keystore_operator
    return _follow(run, operator, driver or operator.names[0], operator.refresh(driver, job_id), no_wait)


@click.command()
@click.argument("lost", nargs=-1, required=True, metavar="KEYSTORE...")
@_job_options
@session_command
def repair(run: Session, lost: tuple[str, ...], driver: str, job_id: UUID | None, no_wait: bool) -> int:
    """Give keystores the shares again that they lost or cannot open (operators only).

    The others compute them together; no keystore sees a key. This also fills a keystore with a new, empty database. As many keystores
    must be sound as are needed to read a key. Else as mdm key refresh.
    """
    operator = run.client().keystore_operator
    sound = [name for name in operator.names if name not in lost]
    if not driver and not sound:
        raise Invalid("KEYSTORES_TOO_FEW", "no keystore remains from which the others can be repaired")
    driver = driver or sound[0]
    return _follow(run, operator, driver, operator.repair(lost, driver, job_id), no_wait)


@click.command()
@click.argument("threshold", type=click.IntRange(2, 16), metavar="K")
@click.argument("total", type=click.IntRange(2, 16), metavar="N")
@_job_options
@session_command
def reshare(run: Session, threshold: int, total: int, driver: str, job_id: UUID | None, no_wait: bool) -> int:
    """Split every key anew: K shares of N give it back, on the keystores of index 1 to N (operators only).

    Configure the keystores, and `threshold` of the clients, for it before. Else as mdm key refresh.
    """
    if threshold > total:
        raise click.UsageError("K must not be greater than N")
    operator = run.client().keystore_operator
    return _follow(run, operator, driver or operator.names[0], operator.reshare(threshold, total, driver, job_id), no_wait)


@click.command()
@click.argument("driver", metavar="KEYSTORE")
@click.argument("job_id", type=click.UUID, required=False, metavar="[JOB_ID]")
@click.option("--wait", is_flag=True, help="Return when it has ended.")
@session_command
def job(run: Session, driver: str, job_id: UUID | None, wait: bool) -> int:
    """Show the progress of a refresh, repair or reshare that KEYSTORE drives; without JOB_ID, of the latest (operators only)."""
    operator = run.client().keystore_operator
    return _follow(run, operator, driver, operator.resharing(driver, job_id), not wait, begun=False)


@click.command()
@click.argument("driver", metavar="KEYSTORE")
@click.argument("job_id", type=click.UUID, metavar="JOB_ID")
@session_command
def cancel(run: Session, driver: str, job_id: UUID) -> None:
    """Stop a job after its current batch; only who began it may. Keys that are done keep their new shares, the others the old."""
    _show(run, run.client().keystore_operator.cancel(driver, job_id))


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="KEYSTORE...")
@session_command
def rewrap(run: Session, names: tuple[str, ...]) -> int:
    """Seal the shares of keystores under the first key of their kek_file (operators only); safe to interrupt and repeat.

    When no share is left under the other keys of the file, their lines may be removed.
    """
    operator = run.client().keystore_operator
    bad = 0
    for name in names:
        rewrapped, last = 0, admin_pb2.RewrapSharesResponse()
        for last in operator.rewrap(name):
            rewrapped += last.rewrapped
        bad += last.remaining + last.unreadable
        facts = {"keystore": name, "rewrapped": rewrapped, "remaining": last.remaining, "unreadable": last.unreadable}
        line = f"keystore {name}  {rewrapped} shares sealed anew, {last.remaining} left, {last.unreadable} cannot be opened"
        show(run.as_json, facts, line)
    if bad:
        show_error("shares that cannot be opened come back with mdm key repair", "SHARES_UNREADABLE", run.as_json)
    return SOME_FAILED if bad else OK


def _follow(
    run: Session, operator: KeystoreOperator, driver: str, begun_job: admin_pb2.Resharing, no_wait: bool, begun: bool = True
) -> int:
    """Show a job, at once or when it has ended; return the exit code."""
    current = begun_job
    if not no_wait:
        if begun and not run.as_json:
            print_line(f"job {current.id} at keystore {driver}: goes on by itself if this command ends; mdm key job {driver} shows it")
        said = {""}

        def report(state: admin_pb2.Resharing) -> None:
            if state.message not in said:
                said.add(state.message)
                show_error(f"waiting: {state.message}", "WARNING", run.as_json)

        current = operator.wait(driver, UUID(current.id), report)
    _show(run, current)
    if current.keys_failed:
        show_error(f"{current.keys_failed} keys keep their old shares; run it again", "INCOMPLETE", run.as_json)
    return SOME_FAILED if current.keys_failed or current.state == admin_pb2.RESHARING_STATE_CANCELLED else OK


def _show(run: Session, current: admin_pb2.Resharing) -> None:
    kind, state = _KINDS.get(current.kind, "unknown"), _STATES.get(current.state, "unknown")
    failures = [{"guid": failure.guid, "reason": failure.reason} for failure in current.failures]
    if run.as_json:
        facts: dict[str, Any] = {"id": current.id, "kind": kind, "state": state, "begun_by": current.begun_by}
        facts |= {"begun": current.begin_time.ToDatetime().isoformat() + "+00:00", "message": current.message}
        print_json({**facts, "keys_done": current.keys_done, "keys_failed": current.keys_failed, "failures": failures})
        return
    note = f": {printable(current.message)}" if current.message else ""
    print_line(f"{kind} {state}: {current.keys_done} keys have new shares, {current.keys_failed} failed{note}")
    for failure in failures:
        print_line(f"  {failure['guid']}  {failure['reason']}")


@click.group("audit")
@common_options
def key_audit() -> None:
    """Read and verify what keystores recorded: who was given which key, who was refused, who changed what (operators only)."""


@key_audit.command()
@click.argument("names", nargs=-1, metavar="[KEYSTORE...]")
@session_command
def verify(run: Session, names: tuple[str, ...]) -> int:
    """Verify the whole audit of keystores (default: of all): each entry against the one before it, and against what the others witnessed.

    Finds entries that were edited or removed, a tail that was cut off, a log that was begun anew, forged signatures. For entries after
    the last one that another keystore witnessed, there is only the keystore's own word.

    Exit code 1 if anything is wrong, 4 if the only fault is that a keystore cannot be asked.
    """
    reports = verify_audit(run.client().keystore_operator, names)
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


@key_audit.command("show")
@click.argument("name", metavar="KEYSTORE")
@click.option("--after", type=click.IntRange(0), default=0, metavar="SEQ", help="Only the entries after this number.")
@click.option("--id", "guid", type=click.UUID, metavar="GUID", help="Only what concerns this key, access list or job.")
@session_command
def show_audit(run: Session, name: str, after: int, guid: UUID | None) -> None:
    """Print the audit of a keystore, unverified: number, time, who, what, which key, outcome."""
    for entry in chain.from_iterable(page.entries for page in run.client().keystore_operator.audit_pages(name, after)):
        if guid is not None and entry.guid != str(guid):
            continue
        time = entry.time.ToDatetime(tzinfo=UTC)
        facts = {"seq": entry.seq, "time": time.isoformat(), "who": entry.who, "action": entry.action, "guid": entry.guid}
        cells = (f"{entry.seq:>8}", f"{time:%Y-%m-%d %H:%M:%S}", entry.action.ljust(10), entry.guid, entry.outcome.ljust(14), entry.who)
        show(run.as_json, {**facts, "outcome": entry.outcome}, "  ".join(printable(cell) for cell in cells))


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
