"""Commands for a site's operators: register, unregister, registrations, scans, conflicts."""

import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime

import click
from mdm.srm.v1 import registration_pb2
from mdm_wire.batch import MAX_STUDIES, in_batches
from mdm_wire.errors import Invalid, MdmError, TimedOut
from mdm_wire.status import from_item

from mdm_client.cli.catalog.entry import LFN
from mdm_client.cli.context import Session, session_command
from mdm_client.cli.error import SOME_FAILED, Failures, Interrupted, exit_code_of_items, show_client_error, show_error
from mdm_client.cli.output import printable, show
from mdm_client.fetch.srm import SrmClient
from mdm_client.name_syntax import parse_name
from mdm_client.registration import Scan

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_MAX_UID = 64
_UNDER_WAY = ("RECEIVED", "KEYED", "DESCRIBED", "REMOVING")
_BAD = ("FAILED", "QUARANTINED")
_POLL_SECONDS = 0.5
_PROGRESS_SECONDS = 5.0
_MAX_TARGETS = 1_000
_STATES = (*_UNDER_WAY, "PUBLISHED", "FILTERED", *_BAD, "REMOVED")

_SCOPE_OPTIONS = (
    click.option("--study", "studies", multiple=True, metavar="UID", help="Study Instance UID as the PACS has it; repeatable, as others."),
    click.option("--series", multiple=True, metavar="UID", help="Series Instance UID."),
    click.option("--patient", "patients", multiple=True, metavar="ID", help="Patient ID."),
    click.option("--accession", "accessions", multiple=True, metavar="NUMBER", help="Accession number."),
    click.option("--modality", "modalities", multiple=True, metavar="M", help="Studies that have a series of this modality."),
    click.option("--since", type=click.DateTime(["%Y-%m-%d"]), metavar="DATE", help="First study date, as 2026-01-31."),
    click.option("--until", type=click.DateTime(["%Y-%m-%d"]), metavar="DATE", help="Last study date."),
)


def _scope_options(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options that describe a scope."""
    for option in reversed(_SCOPE_OPTIONS):
        command = option(command)
    return command


_site_option = click.option("--site", default="", help="Which site; needed where several are configured.")


@click.command()
@_scope_options
@click.option("--all", "everything", is_flag=True, help="Everything that the PACS has.")
@click.option("--resume", metavar="ID", help="Watch a scan that was started before.")
@click.option("-n", "--dry-run", is_flag=True, help="Only count what would be done.")
@click.option("--wait", is_flag=True, help="Return when no registration of these studies, after a scan of the site, is under way.")
@click.option("--timeout", type=click.FloatRange(min=1), default=600, show_default=True, help="Longest wait in seconds.")
@_site_option
@session_command
def register(
    run: Session,
    studies: tuple[str, ...],
    series: tuple[str, ...],
    patients: tuple[str, ...],
    accessions: tuple[str, ...],
    modalities: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    everything: bool,
    resume: str | None,
    dry_run: bool,
    wait: bool,
    timeout: float,
    site: str,
) -> int:
    """Bring what is visible on the grid to what the PACS has (operators only; most images register by themselves).

    A scan looks at every study that meets all conditions: what is new is registered, what has changed is described anew, what the PACS
    lacks twice is removed. It goes on when this command is interrupted.

    With --study alone, images that are visible already are described again: what catalog, metadata or keystores lost comes back.
    """
    scope = _scope(studies, series, patients, accessions, modalities, since, until)
    others = (series, patients, accessions, modalities, since, until)
    if [bool(studies or any(others)), everything, bool(resume)].count(True) != 1:
        raise click.UsageError("say what to register: conditions, or --all, or --resume ID")
    srm = run.client().srm(site)
    if studies and not dry_run and not any(others):
        return _register_studies(run, srm, list(dict.fromkeys(studies)), wait, timeout)
    before = _counts(srm, []) if wait else Counter()
    if not resume:
        resume = srm.registry.start_scan(scope, dry_run=dry_run)
    code = _watch(run, srm, resume)
    if wait and not code:
        return _report(_wait(srm, [], timeout), before, run.as_json, "of the site")
    return code


def _scope(
    studies: Sequence[str],
    series: Sequence[str],
    patients: Sequence[str],
    accessions: Sequence[str],
    modalities: Sequence[str],
    since: datetime | None,
    until: datetime | None,
) -> registration_pb2.Scope:
    """Return the scope that options describe.

    Raises:
        Invalid: UID_MALFORMED.
    """
    for option, uids in (("--study", studies), ("--series", series)):
        for uid in uids:
            if not _UID.fullmatch(uid) or len(uid) > _MAX_UID:
                raise Invalid("UID_MALFORMED", f"{option}: {uid[:80]!r} is not a DICOM UID")
    return registration_pb2.Scope(
        study_instance_uids=studies,
        series_instance_uids=series,
        patient_ids=patients,
        accession_numbers=accessions,
        modalities=modalities,
        since=since.date().isoformat() if since else "",
        until=until.date().isoformat() if until else "",
    )


def _register_studies(run: Session, srm: SrmClient, uids: list[str], wait: bool, timeout: float) -> int:
    before = _counts(srm, uids) if wait else {}
    failures: list[MdmError] = []
    accepted: list[str] = []
    for batch in in_batches(uids, MAX_STUDIES):
        for uid, result in zip(batch, srm.register_studies(batch), strict=True):
            error = from_item(result.status)
            if error:
                failures.append(error)
                show_client_error(error, run.as_json, uid)
                continue
            accepted.append(uid)
            facts = {"study": uid, "queued": result.queued, "known": result.known}
            show(run.as_json, facts, f"{uid}: {result.queued} images queued, {result.known} under way already")
    code = exit_code_of_items(len(uids), failures)
    if wait and accepted:
        return _report(_wait(srm, accepted, timeout), before, run.as_json) or code
    return code


@click.command()
@click.argument("targets", nargs=-1, metavar="TARGET...", type=LFN)
@_scope_options
@click.option("--reason", default="", metavar="TEXT", help="Why; it is kept with your name. Name no patient.")
@click.option("-n", "--dry-run", is_flag=True, help="Only count what would go.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@_site_option
@session_command
def unregister(
    run: Session,
    targets: tuple[str, ...],
    studies: tuple[str, ...],
    series: tuple[str, ...],
    patients: tuple[str, ...],
    accessions: tuple[str, ...],
    modalities: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    reason: str,
    dry_run: bool,
    yes: bool,
    site: str,
) -> int:
    """Remove images from the grid, with their metadata and keys (operators only). The PACS keeps them.

    Each TARGET is the LFN of an image or a directory, or a GUID. Other conditions than --study remove the images that meet all of them,
    as they were registered, by a scan that goes on when this command is interrupted.

    Copies that others have cannot be decrypted any more. Scans by schedule leave the images out from then on; when they are sent or
    registered again they come back under other GUIDs.
    """
    scope = _scope(studies, series, patients, accessions, modalities, since, until)
    others = any((series, patients, accessions, modalities, since, until))
    if others and targets:
        raise click.UsageError("name TARGETs, or conditions")
    if others:
        return _unregister_scope(run, run.client().srm(site), scope, reason, dry_run, yes)
    if not targets and not studies:
        raise click.UsageError("name at least one TARGET, or conditions such as --study UID")
    if len(targets) + len(studies) > _MAX_TARGETS:
        raise click.UsageError(f"name at most {_MAX_TARGETS} at once; a directory is one")
    names = [parse_name(text) for text in targets]
    if any(name.surl for name in names):
        raise Invalid("NAME_MALFORMED", "name an LFN or a GUID, not a SURL")
    guids, lfns = [str(name.guid) for name in names if name.guid], [name.lfn for name in names if name.lfn]
    registry = run.client().srm(site).registry
    shown = [*guids, *lfns, *studies]
    found = registry.unregister(guids, lfns, studies, reason, dry_run=True)
    count = sum(item for item in found if isinstance(item, int))
    if dry_run or not count:
        return _unregistered(run, shown, found, "would go")
    _confirm(count, yes)
    return _unregistered(run, shown, registry.unregister(guids, lfns, studies, reason), "are being removed")


def _unregister_scope(run: Session, srm: SrmClient, scope: registration_pb2.Scope, reason: str, dry_run: bool, yes: bool) -> int:
    """Count what a scope has and, if that is wanted, have it removed."""
    if dry_run or not yes:
        counted: list[Scan] = []
        code = _watch(run, srm, srm.registry.unregister_scope(scope, reason, dry_run=True), counted)
        count = counted[0].counts.get("unregistered", 0) if counted else 0
        if dry_run or code or not count:
            return code
        _confirm(count, yes)
    return _watch(run, srm, srm.registry.unregister_scope(scope, reason))


def _confirm(count: int, yes: bool) -> None:
    """Ask before images are removed, unless that was said already."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{count} images would go; say --yes")
    click.confirm(f"Remove {count} images from the grid and destroy their keys?", abort=True, err=True)


def _unregistered(run: Session, shown: Sequence[str], found: Sequence[int | MdmError], becomes: str) -> int:
    """Write what became of each name; return the exit code."""
    failures = Failures()
    for name, item in zip(shown, found, strict=True):
        if isinstance(item, MdmError):
            failures.add(name, item)
        else:
            show(run.as_json, {"name": name, "images": item}, f"{printable(name)}: {item} images {becomes}")
    failures.show(run.as_json)
    return exit_code_of_items(len(found), failures.errors)


@click.command()
@click.option("--state", type=click.Choice(_STATES, case_sensitive=False), help="Only those in this state.")
@click.option("--study", "studies", multiple=True, metavar="UID", help="Only those of this study; may be repeated.")
@_site_option
@session_command
def registrations(run: Session, state: str | None, studies: tuple[str, ...], site: str) -> int:
    """List registrations: GUID, state and why (operators only)."""
    for item in run.client().srm(site).registry.registrations((state or "UNSPECIFIED").upper(), studies):
        why = f"{item['reason']} ({item['rule']})" if item["rule"] else item["reason"]
        show(run.as_json, item, f"{item['guid']}  {item['state']:<11}  {item['modified']}  {why}".rstrip())
    return 0


@click.command()
@click.option("--cancel", metavar="ID", help="End a scan; what it has found so far stays.")
@_site_option
@session_command
def scans(run: Session, cancel: str | None, site: str) -> int:
    """List the scans of a site that were started last, or end one (operators only)."""
    registry = run.client().srm(site).registry
    if cancel:
        registry.cancel_scan(cancel)
        return 0
    for scan in registry.scans():
        by = scan.requested_by or "schedule"
        show(run.as_json, asdict(scan), f"{scan.id}  {scan.created}  {printable(by)}  {_progress(scan)}")
    return 0


def _watch(run: Session, srm: SrmClient, scan_id: str, ended: list[Scan] | None = None) -> int:
    """Show a scan until it has ended, and put it into `ended`; return the exit code."""
    last: Scan | None = None
    shown = 0.0
    try:
        for last in srm.registry.watch_scan(scan_id):
            if run.as_json:
                show(True, asdict(last), "")
            elif not last.ended and time.monotonic() - shown > _PROGRESS_SECONDS:
                shown = time.monotonic()
                click.echo(_progress(last), err=True)
    except (KeyboardInterrupt, Interrupted):
        hint = f"scan {scan_id} goes on; watch it: mdm register --resume {scan_id}; end it: mdm scans --cancel {scan_id}"
        click.echo(hint, err=True)
        raise
    if last is None:
        return SOME_FAILED
    if ended is not None:
        ended.append(last)
    if not run.as_json:
        click.echo(_progress(last))
    if last.state != "DONE" or last.failed_studies or last.counts.get("failed"):
        why = last.reason or last.state
        show_error(f"scan {scan_id}: not everything could be looked at ({why})", "SCAN_INCOMPLETE", run.as_json)
        return SOME_FAILED
    return 0


def _progress(scan: Scan) -> str:
    """Return how far a scan is, as a line."""
    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in scan.counts.items()) or "no images"
    failed = f", {scan.failed_studies} studies failed" if scan.failed_studies else ""
    dry = ", dry run" if scan.dry_run else ""
    return f"{scan.state.lower()}: {scan.inspected} of {scan.studies} studies{failed}: {counts}{dry}"


@click.command()
@_site_option
@session_command
def conflicts(run: Session, site: str) -> int:
    """List patients, studies and series of which images state different values (operators only).

    An entry has the value that most of its images state. The values are not shown: they may identify.
    """
    for item in run.client().srm(site).conflicts():
        facts = {"collection": item.collection, "key": item.key, "attributes": list(item.attributes)}
        show(run.as_json, facts, f"{item.collection} {item.key}: {', '.join(item.attributes)}")
    return 0


def _counts(srm: SrmClient, uids: list[str]) -> Counter[str]:
    """Return how many images of the studies, without any of the site, are in each state."""
    counts: Counter[str] = Counter()
    for batch in in_batches(uids, MAX_STUDIES) if uids else [[]]:
        counts.update(srm.registration_summary(batch))
    return counts


def _wait(srm: SrmClient, uids: list[str], timeout: float) -> Counter[str]:
    """Wait until no registration of the studies is under way; return the counts."""
    deadline = time.monotonic() + timeout
    while True:
        counts = _counts(srm, uids)
        under_way = sum(counts[state] for state in _UNDER_WAY)
        if not under_way:
            return counts
        if time.monotonic() > deadline:
            raise TimedOut("REGISTRATION_UNDER_WAY", f"{srm.place}: {under_way} images are still being registered after {timeout:.0f} s")
        time.sleep(_POLL_SECONDS)


def _report(counts: Mapping[str, int], before: Mapping[str, int], as_json: bool, whose: str = "of these studies") -> int:
    """Write the counts; return 1 if registrations failed or were quarantined since `before`."""
    lower = {state.lower(): count for state, count in sorted(counts.items())}
    show(as_json, {"registrations": lower}, f"{whose}: " + (", ".join(f"{n} {state}" for state, n in lower.items()) or "no images"))
    bad = sum(max(0, counts.get(state, 0) - before.get(state, 0)) for state in _BAD)
    if bad:
        show_error(f"{bad} images failed or were quarantined; an operator must look at them", "REGISTRATION_FAILED", as_json)
        return SOME_FAILED
    return 0
