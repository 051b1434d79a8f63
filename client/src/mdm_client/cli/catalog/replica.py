"""Commands for copies of files: replica add, set, rm, ls."""

from collections.abc import Callable, Iterable
from typing import Any

import click
from mdm_wire.errors import MdmError

from mdm_client.catalog.replicas import STATUSES, TYPES, FileReplicas, Replica, ReplicaChange
from mdm_client.cli.catalog.entry import LFN, finish
from mdm_client.cli.context import Session, common_options, session_command
from mdm_client.cli.error import OK, exit_code_of_items, show_client_error
from mdm_client.cli.output import print_json, print_line, printable, with_path
from mdm_client.name_syntax import parse_name, parse_names

_set = click.option("--set", "set_name", metavar="NAME", help="The set it belongs to.")


def _attribute_options(command: Callable[..., Any]) -> Callable[..., Any]:
    status = click.option("--status", type=click.Choice(list(STATUSES)), help="Only what is available is read.")
    kind = click.option("--type", type=click.Choice(list(TYPES)), help="The copy others are made from, or a copy.")
    host = click.option("--host", metavar="HOST", help="The storage's host (default: that of the SURL).")
    return status(kind(_set(host(command))))


@click.group()
@common_options
def replica() -> None:
    """Show, add, change and remove the catalog's copies (SURLs) of files. The copies themselves are not touched."""


@replica.command()
@click.argument("file", type=LFN)
@click.argument("surls", nargs=-1, required=True, metavar="SURL...")
@_attribute_options
@session_command
def add(run: Session, file: str, surls: tuple[str, ...], **attributes: str | None) -> int:
    """Add copies of FILE (LFN, GUID or SURL) to the catalog. One that it has stays as it is."""
    name = parse_name(file)
    given: dict[str, Any] = {attribute: value for attribute, value in attributes.items() if value is not None}
    pairs = [(name, Replica(surl, **given)) for surl in surls]
    return finish(run, surls, run.client().catalog.replicas.add(pairs))


@replica.command("set")
@click.argument("surls", nargs=-1, required=True, metavar="SURL...")
@_attribute_options
@click.option("--accesses", type=click.IntRange(min=1), default=None, metavar="N", help="Add N to its count of accesses, the last one now.")
@click.option("--if-rev", type=int, metavar="REV", help="Only if it was not changed since it had this rev.")
@session_command
def change(run: Session, surls: tuple[str, ...], accesses: int | None, if_rev: int | None, **attributes: str | None) -> int:
    """Change what the catalog says of copies; whatever is not given stays."""
    if all(option is None for option in (*attributes.values(), accesses)):
        raise click.UsageError("say what to change: --status, --type, --set, --host, --accesses")
    changes = [ReplicaChange(surl, accesses=accesses or 0, if_rev=if_rev, **attributes) for surl in surls]
    return finish(run, surls, run.client().catalog.replicas.change(changes))


@replica.command()
@click.argument("surls", nargs=-1, required=True, metavar="SURL...")
@session_command
def rm(run: Session, surls: tuple[str, ...]) -> int:
    """Remove copies from the catalog. The files stay in it, also without any copy."""
    return finish(run, surls, run.client().catalog.replicas.remove(surls))


@replica.command("ls")
@click.argument("targets", nargs=-1, metavar="[TARGET...]", type=LFN)
@click.option("-l", "--long", is_flag=True, help="Status, type, accesses, last access, set too.")
@click.option("--status", "statuses", multiple=True, type=click.Choice(list(STATUSES)), help="Only these; may be repeated.")
@_set
@click.option("--host", metavar="HOST", help="Copies on this host.")
@session_command
def list_replicas(
    run: Session, targets: tuple[str, ...], long: bool, statuses: tuple[str, ...], set_name: str | None, host: str | None
) -> int:
    """List the copies of files (LFN, GUID or SURL), or all of a --set or on a --host."""
    catalog = run.client().catalog
    failures: list[MdmError] = []
    if not targets:
        if not set_name and not host:
            raise click.UsageError("name files, or a --set or a --host")
        _print(catalog.replicas.find(set_name or "", host or "", statuses), long, run.as_json)
        return OK
    names = parse_names(targets)
    for name, found in zip(names, catalog.replicas.of_files(names), strict=True):
        if isinstance(found, MdmError):
            failures.append(found)
            show_client_error(found, run.as_json, str(name))
            continue
        wanted = [item for item in found.replicas if not statuses or item.status in statuses]
        wanted = [item for item in wanted if host in (None, item.host) and set_name in (None, item.set_name)]
        _print([FileReplicas(found.lfn, found.guid, tuple(wanted))], long, run.as_json)
    return exit_code_of_items(len(names), failures)


def _print(found: Iterable[FileReplicas], long: bool, as_json: bool) -> None:
    for file in found:
        for item in file.replicas:
            if as_json:
                print_json(_facts(file, item))
            elif long:
                last = f"{item.access_time:%Y-%m-%d %H:%M}" if item.access_time else "-"
                before = f"{item.status:<10}  {item.type:<9}  {item.accesses:>6}  {last:<16}  {printable(item.set_name) or '-':<10}  "
                print_line(with_path(before, f"{printable(item.surl)}  {printable(file.lfn)}"))
            else:
                print_line(printable(item.surl))


def _facts(file: FileReplicas, item: Replica) -> dict[str, Any]:
    return {
        "lfn": file.lfn,
        "guid": str(file.guid),
        "surl": item.surl,
        "status": item.status,
        "type": item.type,
        "set": item.set_name or None,
        "host": item.host,
        "created": item.create_time.isoformat() if item.create_time else None,
        "accessed": item.access_time.isoformat() if item.access_time else None,
        "accesses": item.accesses,
        "rev": item.rev,
    }
