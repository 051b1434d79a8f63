"""Commands for a site's operators: register, conflicts."""

import re
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import click
from mdm_wire.batch import MAX_STUDIES, in_batches
from mdm_wire.errors import Invalid, MdmError, TimedOut
from mdm_wire.status import from_item

from mdm_client.cli.context import common_options, session
from mdm_client.cli.error import SOME_FAILED, exit_code_of_items, show_client_error, show_error
from mdm_client.cli.table import print_json, print_line
from mdm_client.fetch.srm import SrmClient

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_MAX_UID = 64
_UNDER_WAY = ("RECEIVED", "KEYED", "DESCRIBED", "REMOVING")
_BAD = ("FAILED", "QUARANTINED")
_POLL_SECONDS = 0.5


@click.command()
@click.option(
    "--study", "studies", multiple=True, required=True, metavar="UID", help="Study Instance UID as the PACS has it; may be repeated."
)
@click.option("--site", default="", help="Which site; needed where several are configured.")
@click.option("--wait", is_flag=True, help="Return when no registration of these studies is under way.")
@click.option("--timeout", type=click.FloatRange(min=1), default=600, show_default=True, help="Longest wait in seconds.")
@common_options
@click.pass_context
def register(context: click.Context, studies: tuple[str, ...], site: str, wait: bool, timeout: float) -> int:
    """Make the images of a study visible on the grid (operators only; most register by themselves).

    Images that are visible already are described again as the PACS has them now: what catalog, metadata or keystores lost comes back.
    """
    run = session(context)
    uids = list(dict.fromkeys(studies))
    for uid in uids:
        if not _UID.fullmatch(uid) or len(uid) > _MAX_UID:
            raise Invalid("UID_MALFORMED", f"--study: {uid[:80]!r} is not a DICOM UID")
    srm = run.client(context).srm(site)
    before = _counts(srm, uids) if wait else {}
    failures: list[MdmError] = []
    accepted: list[str] = []
    for batch in in_batches(uids, MAX_STUDIES):
        for uid, result in zip(batch, srm.register_studies(batch), strict=True):
            error = from_item(result.status)
            facts: dict[str, Any] = {"study": uid, "queued": result.queued, "known": result.known}
            if error:
                failures.append(error)
                show_client_error(error, run.as_json, uid)
                continue
            accepted.append(uid)
            if run.as_json:
                print_json(facts)
            else:
                print_line(f"{uid}: {result.queued} images queued, {result.known} under way already")
    code = exit_code_of_items(len(uids), failures)
    if wait and accepted:
        return _report(_wait(srm, accepted, timeout), before, run.as_json) or code
    return code


@click.command()
@click.option("--site", default="", help="Which site; needed where several are configured.")
@common_options
@click.pass_context
def conflicts(context: click.Context, site: str) -> int:
    """List patients, studies and series of which images state different values (operators only).

    An entry has the value that most of its images state. The values are not shown: they may identify.
    """
    run = session(context)
    for item in run.client(context).srm(site).conflicts():
        if run.as_json:
            print_json({"collection": item.collection, "key": item.key, "attributes": list(item.attributes)})
        else:
            print_line(f"{item.collection} {item.key}: {', '.join(item.attributes)}")
    return 0


def _counts(srm: SrmClient, uids: list[str]) -> Counter[str]:
    """Return how many images of the studies are in each state."""
    counts: Counter[str] = Counter()
    for batch in in_batches(uids, MAX_STUDIES):
        counts.update(srm.registration_summary(batch))
    return counts


def _wait(srm: SrmClient, uids: list[str], timeout: float) -> Counter[str]:
    """Return the studies' counts once nothing of them is under way."""
    deadline = time.monotonic() + timeout
    while True:
        counts = _counts(srm, uids)
        under_way = sum(counts[state] for state in _UNDER_WAY)
        if not under_way:
            return counts
        if time.monotonic() > deadline:
            raise TimedOut("REGISTRATION_UNDER_WAY", f"{srm.place}: {under_way} images are still being registered after {timeout:.0f} s")
        time.sleep(_POLL_SECONDS)


def _report(counts: Mapping[str, int], before: Mapping[str, int], as_json: bool) -> int:
    """Write the counts; return 1 if registrations failed or were quarantined since `before`."""
    lower = {state.lower(): count for state, count in sorted(counts.items())}
    if as_json:
        print_json({"registrations": lower})
    else:
        print_line("of these studies: " + (", ".join(f"{count} {state}" for state, count in lower.items()) or "no images"))
    bad = sum(max(0, counts.get(state, 0) - before.get(state, 0)) for state in _BAD)
    if bad:
        show_error(f"{bad} images failed or were quarantined; an operator must look at them", "REGISTRATION_FAILED", as_json)
        return SOME_FAILED
    return 0
