"""Commands of keystores' operators: key refresh, repair, reshare, job, cancel, rewrap."""

from typing import Any
from uuid import UUID

import click
from mdm.keystore.v1 import admin_pb2
from mdm_wire.errors import Invalid

from mdm_client.cli.context import Session, common_options, session
from mdm_client.cli.error import OK, SOME_FAILED, show_error
from mdm_client.cli.option import Respelt
from mdm_client.cli.table import print_json, print_line, printable
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
_by = click.option("--by", "driver", default="", metavar="KEYSTORE", help="Which keystore drives the job (default: the first that can).")
_id = click.option(
    "--job",
    "job_id",
    cls=Respelt,
    old=["--id"],
    type=click.UUID,
    metavar="JOB_ID",
    help="The id of an earlier attempt: the job is begun only once.",
)
_no_wait = click.option("--no-wait", is_flag=True, help="Return when the job has begun; see mdm key job.")


@click.command()
@_by
@_id
@_no_wait
@common_options
@click.pass_context
def refresh(context: click.Context, driver: str, job_id: UUID | None, no_wait: bool) -> int:
    """Give every key new shares (operators only). Keys stay what they are; old shares, stolen ones too, become useless.

    All keystores must be up. The keystore that drives the job goes on when it is killed and started again, and when this command ends.
    """
    run = session(context)
    operator = run.client(context).keystore_operator
    return _follow(run, operator, driver or operator.names[0], operator.refresh(driver, job_id), no_wait)


@click.command()
@click.argument("lost", nargs=-1, required=True, metavar="KEYSTORE...")
@_by
@_id
@_no_wait
@common_options
@click.pass_context
def repair(context: click.Context, lost: tuple[str, ...], driver: str, job_id: UUID | None, no_wait: bool) -> int:
    """Give keystores the shares again that they lost or cannot open (operators only).

    The others compute them together; no keystore sees a key. A keystore with a new, empty database is filled this way. As many must be
    sound as a key needs to be read. Else as mdm key refresh.
    """
    run = session(context)
    operator = run.client(context).keystore_operator
    sound = [name for name in operator.names if name not in lost]
    if not driver and not sound:
        raise Invalid("KEYSTORES_TOO_FEW", "no keystore is left to repair the others from")
    driver = driver or sound[0]
    return _follow(run, operator, driver, operator.repair(lost, driver, job_id), no_wait)


@click.command()
@click.argument("threshold", type=click.IntRange(2, 16), metavar="K")
@click.argument("total", type=click.IntRange(2, 16), metavar="N")
@_by
@_id
@_no_wait
@common_options
@click.pass_context
def reshare(context: click.Context, threshold: int, total: int, driver: str, job_id: UUID | None, no_wait: bool) -> int:
    """Split every key anew: K shares of N give it back, on the keystores of index 1 to N (operators only).

    Configure the keystores, and `threshold` of the clients, for it before. Else as mdm key refresh.
    """
    if threshold > total:
        raise click.UsageError("K may not be above N")
    run = session(context)
    operator = run.client(context).keystore_operator
    return _follow(run, operator, driver or operator.names[0], operator.reshare(threshold, total, driver, job_id), no_wait)


@click.command()
@click.argument("driver", metavar="KEYSTORE")
@click.argument("job_id", type=click.UUID, required=False, metavar="[JOB_ID]")
@click.option("--wait", is_flag=True, help="Return when it has ended.")
@common_options
@click.pass_context
def job(context: click.Context, driver: str, job_id: UUID | None, wait: bool) -> int:
    """Show how far a refresh, repair or reshare is that KEYSTORE drives; without JOB_ID, the latest (operators only)."""
    run = session(context)
    operator = run.client(context).keystore_operator
    return _follow(run, operator, driver, operator.resharing(driver, job_id), not wait, begun=False)


@click.command()
@click.argument("driver", metavar="KEYSTORE")
@click.argument("job_id", type=click.UUID, metavar="JOB_ID")
@common_options
@click.pass_context
def cancel(context: click.Context, driver: str, job_id: UUID) -> None:
    """Stop a job after the batch under way; only who began it may. Keys that are done keep their new shares, the others the old."""
    run = session(context)
    _show(run, run.client(context).keystore_operator.cancel(driver, job_id))


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="KEYSTORE...")
@common_options
@click.pass_context
def rewrap(context: click.Context, names: tuple[str, ...]) -> int:
    """Seal the shares of keystores under the first key of their kek_file (operators only); safe to interrupt and repeat.

    When no share is left under the other keys of the file, their lines may be removed.
    """
    run = session(context)
    operator = run.client(context).keystore_operator
    bad = 0
    for name in names:
        rewrapped, last = 0, admin_pb2.RewrapSharesResponse()
        for last in operator.rewrap(name):
            rewrapped += last.rewrapped
        bad += last.remaining + last.unreadable
        if run.as_json:
            print_json({"keystore": name, "rewrapped": rewrapped, "remaining": last.remaining, "unreadable": last.unreadable})
        else:
            print_line(f"keystore {name}  {rewrapped} shares sealed anew, {last.remaining} left, {last.unreadable} cannot be opened")
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
