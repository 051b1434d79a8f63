"""Commands of a site's operators: site status, queue, failures, retry, policy."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import click
from mdm.srm.v1 import site_pb2 as pb
from mdm_wire.errors import Invalid

from mdm_client.cli.context import Session, common_options, session_command
from mdm_client.cli.error import OK, SOME_FAILED, Failures, exit_code_of_items
from mdm_client.cli.moment import age, ahead, iso
from mdm_client.cli.output import print_json, print_line, printable, readable_size, show, show_table
from mdm_client.site import STATES, SiteClient

_WAITING = ("RECEIVED", "KEYED", "DESCRIBED", "REMOVING")
_BAD = ("FAILED", "QUARANTINED")
_site = click.option("--site", "name", default="", help="Which site; needed where several are configured.")


@click.group()
@common_options
def site() -> None:
    """See how a site is, what waits, what failed and why, and have it tried again (operators only). Nothing shown identifies."""


@site.command()
@_site
@session_command
def status(run: Session, name: str) -> int:
    """Show how many images are in each state, whether the PACS answers, and how full the spool is.

    The exit code is 1 if something that the service depends on does not answer.
    """
    found = run.client().site(name).status()
    code = OK if all(item.up for item in found.dependencies) else SOME_FAILED
    if run.as_json:
        print_json(_status_facts(found))
        return code
    print_line(f"{found.site}: dicom-srm {printable(found.version)}")
    rows = [(STATES[item.state], item.count, age(item.oldest_time), age(item.newest_time)) for item in found.states]
    show_table((("STATE", "uuid"), ("IMAGES", "int"), ("OLDEST", "uuid"), ("NEWEST", "uuid")), rows)
    print_line("")
    for item in found.dependencies:
        print_line(f"{item.name:<12}  {'answers' if item.up else f'does not answer: {printable(item.reason)}'}")
    spool = found.spool
    sizes = [readable_size(size) for size in (spool.stored, spool.quota, spool.pinned)]
    print_line(f"{'spool':<12}  {spool.files} files, {sizes[0]} of {sizes[1]}, {sizes[2]} pinned")
    for instance in found.instances:
        state = "lost" if instance.lost else "serves"
        print_line(
            f"{'instance':<12}  {printable(instance.name)} on {printable(instance.host)} {state}, heard {age(instance.beat_time)} ago"
        )
    _print_forwarder(found)
    print_line(f"{'conflicts':<12}  {found.conflicts}" + (": mdm conflicts lists them" if found.conflicts else ""))
    return code


@site.command()
@_site
@session_command
def queue(run: Session, name: str) -> int:
    """Show what is being registered or removed, by state and reason: how many wait for what, and when they are tried next."""
    client = run.client().site(name)
    found = client.reasons(_WAITING)
    if run.as_json:
        for item in found:
            print_json({**_reason_facts(item), "due": iso(item.due_time) if item.HasField("due_time") else None})
        return OK
    _print_forwarder(client.status())
    columns = (("STATE", "uuid"), ("REASON", "text"), ("IMAGES", "int"), ("OLDEST", "uuid"), ("TRIED IN", "uuid"), ("SUCH AS", "uuid"))
    rows = ((STATES[i.state], i.reason, i.count, age(i.oldest_time), ahead(i.due_time), i.example_guid) for i in found)
    show_table(columns, rows)
    return OK


@site.command()
@click.option("--reason", default="", metavar="REASON", help="List the images of this reason.")
@_site
@session_command
def failures(run: Session, reason: str, name: str) -> int:
    """Show what failed or is held back, by reason; with --reason the GUIDs.

    What is held back waits for a curator: mdm quarantine.
    """
    client = run.client().site(name)
    if reason:
        _list_failures(run, client, reason)
        return OK
    found = client.reasons(_BAD)
    if run.as_json:
        for item in found:
            print_json(_reason_facts(item))
        return OK
    columns = (("STATE", "uuid"), ("REASON", "text"), ("IMAGES", "int"), ("OLDEST", "uuid"), ("NEWEST", "uuid"), ("SUCH AS", "uuid"))
    rows = ((STATES[i.state], i.reason, i.count, age(i.oldest_time), age(i.newest_time), i.example_guid) for i in found)
    show_table(columns, rows)
    return OK


@site.command()
@click.argument("guids", nargs=-1, metavar="[GUID...]")
@click.option("--reason", default="", metavar="REASON", help="What failed or is held back for this reason.")
@click.option("--state", "states", multiple=True, type=click.Choice([state.lower() for state in _BAD]), help="What is in this state.")
@click.option("--published", is_flag=True, help="Of the GUIDs also published ones: what was lost of them is put back.")
@_site
@session_command
def retry(run: Session, guids: tuple[str, ...], reason: str, states: tuple[str, ...], published: bool, name: str) -> int:
    """Have images registered again that failed or are held back: some GUIDs, or those of a reason or a state.

    That you did is kept with your name (mdm quarantine decisions).
    """
    if bool(guids) == bool(reason or states):
        raise click.UsageError("name GUIDs, or a --reason or a --state")
    if published and not guids:
        raise click.UsageError("--published is for GUIDs")
    client = run.client().site(name)
    wanted = [_guid(text) for text in guids] if guids else _matching(client, [state.upper() for state in states] or _BAD, reason)
    found = Failures()
    for guid, error in zip(wanted, client.retry(wanted, published), strict=True):
        if error is not None:
            found.add(guid, error)
    found.show(run.as_json)
    done = len(wanted) - len(found.errors)
    show(run.as_json, {"queued": done, "failed": len(found.errors)}, f"{done} images queued again")
    return exit_code_of_items(len(wanted), found.errors)


@site.command()
@_site
@session_command
def policy(run: Session, name: str) -> int:
    """Show by which rules images are registered and leave the hospital, and how many they leave out."""
    found = run.client().site(name).policy()
    filtered = {item.reason: item.count for item in found.filtered}
    if run.as_json:
        print_json({"settings": {item.name: item.value for item in found.settings}, "filtered": filtered})
        return OK
    for item in found.settings:
        print_line(f"{item.name:<30}  {printable(item.value)}")
    print_line("")
    for reason, count in filtered.items():
        print_line(f"{count} left out: {printable(reason)}")
    if not filtered:
        print_line("nothing is left out")
    return OK


def _print_forwarder(found: pb.GetSiteStatusResponse) -> None:
    if not found.HasField("forwarder"):
        return
    item = found.forwarder
    oldest = f", the oldest for {age(item.oldest_time)}" if item.HasField("oldest_time") else ""
    refused = "".join(f"; {count.count} refused for good: {printable(count.reason)}" for count in item.refused)
    print_line(f"{'forwarder':<12}  {item.waiting} waiting{oldest}{refused} (reported {age(item.report_time)} ago)")


def _matching(client: SiteClient, states: Sequence[str], reason: str) -> list[str]:
    return [item.guid for state in states for item in client.registrations(state, reason)]


def _list_failures(run: Session, client: SiteClient, reason: str) -> None:
    found = (item for state in _BAD for item in client.registrations(state, reason))
    if run.as_json:
        for item in found:
            facts = {"guid": item.guid, "state": STATES[item.state], "reason": item.reason, "attempts": item.attempts}
            print_json({**facts, "since": iso(item.modify_time)})
        return
    columns = (("GUID", "uuid"), ("STATE", "uuid"), ("ATTEMPTS", "int"), ("SINCE", "uuid"))
    show_table(columns, ((item.guid, STATES[item.state], item.attempts, age(item.modify_time)) for item in found))


def _guid(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        raise Invalid("GUID_MALFORMED", f"{text[:80]!r} is not a GUID") from None


def _reason_facts(item: pb.StateReason) -> dict[str, Any]:
    return {
        "state": STATES[item.state],
        "reason": item.reason,
        "count": item.count,
        "oldest": iso(item.oldest_time),
        "newest": iso(item.newest_time),
        "example": item.example_guid,
    }


def _status_facts(found: pb.GetSiteStatusResponse) -> dict[str, Any]:
    return {
        "site": found.site,
        "version": found.version,
        "states": [
            {"state": STATES[i.state], "count": i.count, "oldest": iso(i.oldest_time), "newest": iso(i.newest_time)} for i in found.states
        ],
        "conflicts": found.conflicts,
        "instances": [
            {"name": item.name, "host": item.host, "started": iso(item.start_time), "beat": iso(item.beat_time), "lost": item.lost}
            for item in found.instances
        ],
        "forwarder": _forwarder_facts(found.forwarder) if found.HasField("forwarder") else None,
        "dependencies": [{"name": item.name, "up": item.up, "reason": item.reason} for item in found.dependencies],
        "spool": {
            "quota": found.spool.quota,
            "stored": found.spool.stored,
            "pinned": found.spool.pinned,
            "files": found.spool.files,
        },
    }


def _forwarder_facts(item: pb.ForwarderStatus) -> dict[str, Any]:
    return {
        "waiting": item.waiting,
        "oldest": iso(item.oldest_time) if item.HasField("oldest_time") else None,
        "refused": {count.reason: count.count for count in item.refused},
        "reported": iso(item.report_time),
    }
