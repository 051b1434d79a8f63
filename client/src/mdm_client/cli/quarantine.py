"""Commands of curators, on the hospital's side: quarantine ls, show, release, drop, retry, decisions, and those about pictures."""

import re
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import click
from mdm.srm.v1 import curator_pb2 as pb
from mdm_wire.errors import Invalid, MdmError

from mdm_client.cli.context import Session, common_options, session_command
from mdm_client.cli.error import Failures, exit_code_of_items, show_client_error
from mdm_client.cli.moment import age, iso
from mdm_client.cli.output import print_json, print_line, printable, show, show_table
from mdm_client.cli.quarantine_rule import COMMANDS
from mdm_client.curator import ACTIONS, CuratorClient

_SERIES, _KIND = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9a-f]{16}")
_site = click.option("--site", default="", help="Which site; needed where several are configured.")
_reason = click.option("--reason", default="", metavar="REASON", help="Only what waits for this reason, such as ULTRASOUND.")


@click.group()
@common_options
def quarantine() -> None:
    """Look at images that wait for a person, and decide about them (curators only, within the hospital).

    TARGET is a GUID, or the name of a series from `mdm quarantine ls`, or of a kind from `mdm quarantine kinds`. Every decision is kept
    with your name.
    """


for added in COMMANDS:
    quarantine.add_command(added)


@quarantine.command("ls")
@click.argument("series", required=False, metavar="[SERIES]")
@_reason
@_site
@session_command
def list_quarantine(run: Session, series: str | None, reason: str, site: str) -> int:
    """List what waits, by series and reason; the images of one SERIES."""
    curator = run.client().curator(site)
    if series:
        _list_instances(run, curator, _series(series), reason)
        return 0
    if run.as_json:
        for group in curator.groups(reason):
            print_json(_group_facts(group))
        return 0
    columns = (("SERIES", "uuid"), ("REASON", "text"), ("IMAGES", "int"), ("OLDEST", "uuid"), ("NEWEST", "uuid"), ("RELEASABLE", "uuid"))
    rows = (
        (group.series, group.reason, group.count, age(group.oldest_time), age(group.newest_time), "yes" if group.releasable else "no")
        for group in curator.groups(reason)
    )
    show_table(columns, rows)
    return 0


@quarantine.command("show")
@click.argument("guids", nargs=-1, required=True, metavar="GUID...")
@_site
@session_command
def show_instances(run: Session, guids: tuple[str, ...], site: str) -> int:
    """Show what images are in the PACS, and why they wait. This identifies patients."""
    curator = run.client().curator(site)
    failures: list[MdmError] = []
    for guid in guids:
        try:
            found = curator.show(_guid(guid))
        except MdmError as error:
            failures.append(error)
            show_client_error(error, run.as_json, guid)
            continue
        if run.as_json:
            print_json(_instance_facts(found))
        else:
            _print_instance(found)
    return exit_code_of_items(len(guids), failures)


def _decision(name: str, text: str, decide: Callable[[CuratorClient], Callable[[Sequence[str], str], list[MdmError | None]]]) -> None:
    """Add a command that makes a decision about targets."""

    @quarantine.command(name, help=text)
    @click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
    @_reason
    @click.option("--note", default="", metavar="TEXT", help="Why, for the record: one line, nothing that identifies a patient.")
    @_site
    @session_command
    def command(run: Session, targets: tuple[str, ...], reason: str, note: str, site: str) -> int:
        curator = run.client().curator(site)
        guids = _meant(curator, targets, reason)
        if not guids:
            raise Invalid("NOTHING_WAITS", "nothing of this waits in quarantine")
        failures = Failures()
        for guid, error in zip(guids, decide(curator)(guids, note), strict=True):
            if error is not None:
                failures.add(guid, error)
        failures.show(run.as_json)
        done = len(guids) - len(failures.errors)
        verb = {"release": "released", "drop": "dropped", "retry": "queued to be judged again"}[name]
        show(run.as_json, {"action": name, "done": done, "failed": len(failures.errors)}, f"{done} images {verb}")
        return exit_code_of_items(len(guids), failures.errors)


_decision(
    "release",
    "Let images leave the hospital that wait for a suspicion about their pixels, after you have looked at them.\n\n"
    "It holds for this reason and the header that each image has now.",
    lambda curator: curator.release,
)
_decision("drop", "Leave images out of the grid until they change in the PACS.", lambda curator: curator.drop)
_decision(
    "retry",
    "Have images judged again, after they were corrected in the PACS or the rules have changed.",
    lambda curator: curator.retry,
)


@quarantine.command()
@click.argument("guid", required=False, metavar="[GUID]")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many.")
@_site
@session_command
def decisions(run: Session, guid: str | None, limit: int, site: str) -> int:
    """List what was decided and by whom, the newest first; about one GUID if it is named."""
    found = run.client().curator(site).decisions(_guid(guid) if guid else "", limit)
    if run.as_json:
        for item in found:
            print_json({**_decision_facts(item), "subject": item.subject, "reason": item.reason, "note": item.note})
        return 0
    columns = (("WHEN", "uuid"), ("WHAT", "uuid"), ("GUID", "uuid"), ("REASON", "text"), ("WHO", "text"), ("NOTE", "text"))
    show_table(
        columns,
        ((iso(item.time), ACTIONS[item.action], item.guid, item.reason, item.subject, item.note) for item in found),
    )
    return 0


def _decision_facts(item: pb.Decision) -> dict[str, Any]:
    return {"time": iso(item.time), "action": ACTIONS[item.action], "guid": item.guid}


def _list_instances(run: Session, curator: CuratorClient, series: str, reason: str) -> None:
    found = curator.instances(series, reason)
    if run.as_json:
        for item in found:
            print_json({"guid": item.guid, "reason": item.reason, "since": iso(item.since_time)})
        return
    show_table(
        (("GUID", "uuid"), ("REASON", "text"), ("WAITS", "uuid")), ((item.guid, item.reason, age(item.since_time)) for item in found)
    )


def _meant(curator: CuratorClient, targets: Sequence[str], reason: str) -> list[str]:
    """Return the GUIDs that targets mean; of series and kinds those that wait, for `reason` if it is given."""
    guids: dict[str, None] = {}
    for target in targets:
        if _SERIES.fullmatch(target):
            guids |= dict.fromkeys(item.guid for item in curator.instances(target, reason))
        elif _KIND.fullmatch(target):
            guids |= dict.fromkeys(item.guid for item in curator.alike(target, reason))
        elif reason:
            raise click.UsageError("--reason is for series and kinds; a GUID waits for one reason")
        else:
            guids[_guid(target)] = None
    return list(guids)


def _series(text: str) -> str:
    if not _SERIES.fullmatch(text):
        raise Invalid("SERIES_MALFORMED", f"{text[:80]!r} is not the name of a series: 32 hexadecimal digits, from mdm quarantine ls")
    return text


def _guid(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        raise Invalid("GUID_MALFORMED", f"{text[:80]!r} is neither a GUID nor the name of a series or kind") from None


def _print_instance(found: pb.GetQuarantinedResponse) -> None:
    instance = found.instance
    print_line(f"{instance.guid}  {instance.reason}, waits for {age(instance.since_time)}")
    print_line(f"  series      {found.series}, {'may' if found.releasable else 'may not'} be released")
    for name, uid in (("study", found.study_instance_uid), ("series", found.series_instance_uid), ("instance", found.sop_instance_uid)):
        print_line(f"  {name:<10}  {printable(uid)}")
    if not found.elements:
        print_line("  nothing else is kept of it; retry it, or look it up in the PACS")
    for title, elements in (("", found.elements), ("suspicious:", found.suspicious)):
        if title and elements:
            print_line(f"  {title}")
        for element in elements:
            print_line(f"  {element.tag} {element.keyword:<26}  {printable(element.value)}")


def _group_facts(group: pb.QuarantineGroup) -> dict[str, Any]:
    return {
        "series": group.series,
        "reason": group.reason,
        "count": group.count,
        "oldest": iso(group.oldest_time),
        "newest": iso(group.newest_time),
        "example": group.example_guid,
        "releasable": group.releasable,
    }


def _instance_facts(found: pb.GetQuarantinedResponse) -> dict[str, Any]:
    def elements(items: Sequence[pb.DicomElement]) -> list[dict[str, str]]:
        return [{"tag": item.tag, "keyword": item.keyword, "value": item.value} for item in items]

    return {
        "guid": found.instance.guid,
        "reason": found.instance.reason,
        "since": iso(found.instance.since_time),
        "series": found.series,
        "releasable": found.releasable,
        "study_instance_uid": found.study_instance_uid,
        "series_instance_uid": found.series_instance_uid,
        "sop_instance_uid": found.sop_instance_uid,
        "elements": elements(found.elements),
        "suspicious": elements(found.suspicious),
    }
