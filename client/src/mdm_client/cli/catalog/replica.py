"""Commands for copies of files: replica add, set, rm, ls."""

from collections.abc import Iterable
from typing import Any

import click
from mdm_wire.errors import MdmError

from mdm_client.catalog.replicas import STATUSES, TYPES, FileReplicas, Replica, ReplicaChange
from mdm_client.cli.catalog.entry import finish
from mdm_client.cli.catalog.lfn import LFN
from mdm_client.cli.context import common_options, session
from mdm_client.cli.error import OK, exit_code_of_items, show_client_error
from mdm_client.cli.table import print_json, print_line, printable
from mdm_client.cli.width import with_path
from mdm_client.names import parse_name, parse_names

_status = click.option("--status", type=click.Choice(list(STATUSES)), help="Only what is available is read.")
_type = click.option("--type", "kind", type=click.Choice(list(TYPES)), help="The copy others are made from, or a copy.")
_set = click.option("--set", "set_name", metavar="NAME", help="The set it belongs to.")
_host = click.option("--host", metavar="HOST", help="The storage's host (default: that of the SURL).")


@click.group()
@common_options
def replica() -> None:
    """Show, add, change and remove the catalog's copies (SURLs) of files. The copies themselves are not touched."""


@replica.command()
@click.argument("file", type=LFN)
@click.argument("surls", nargs=-1, required=True, metavar="SURL...")
@_status
@_type
@_set
@_host
@common_options
@click.pass_context
def add(
    context: click.Context,
    file: str,
    surls: tuple[str, ...],
    status: str | None,
    kind: str | None,
    set_name: str | None,
    host: str | None,
) -> int:
    """Tell the catalog of copies of FILE (LFN, GUID or SURL). One that it knows stays as it is."""
    run = session(context)
    name = parse_name(file)
    pairs = [(name, Replica(surl, status or "available", kind or "primary", set_name or "", host or "")) for surl in surls]
    return finish(run, surls, run.client(context).catalog.replicas.add(pairs))


@replica.command("set")
@click.argument("surls", nargs=-1, required=True, metavar="SURL...")
@_status
@_type
@_set
@_host
@click.option("--accesses", type=click.IntRange(min=1), default=None, metavar="N", help="Add N to its count of accesses, the last one now.")
@click.option("--if-rev", type=int, metavar="REV", help="Only if it was not changed since it had this rev.")
@common_options
@click.pass_context
def change(
    context: click.Context,
    surls: tuple[str, ...],
    status: str | None,
    kind: str | None,
    set_name: str | None,
    host: str | None,
    accesses: int | None,
    if_rev: int | None,
) -> int:
    """Change what the catalog says of copies; what is not given stays."""
    run = session(context)
    if all(option is None for option in (status, kind, set_name, host, accesses)):
        raise click.UsageError("say what to change: --status, --type, --set, --host, --accesses")
    changes = [ReplicaChange(surl, status, kind, set_name, host, accesses or 0, if_rev) for surl in surls]
    return finish(run, surls, run.client(context).catalog.replicas.change(changes))


@replica.command()
@click.argument("surls", nargs=-1, required=True, metavar="SURL...")
@common_options
@click.pass_context
def rm(context: click.Context, surls: tuple[str, ...]) -> int:
    """Let the catalog forget copies. The files stay in it, also without any copy."""
    run = session(context)
    return finish(run, surls, run.client(context).catalog.replicas.remove(surls))


@replica.command("ls")
@click.argument("targets", nargs=-1, metavar="[TARGET...]", type=LFN)
@click.option("-l", "--long", is_flag=True, help="Status, type, accesses, last access, set too.")
@click.option("--status", "statuses", multiple=True, type=click.Choice(list(STATUSES)), help="Only these; may be repeated.")
@_set
@click.option("--host", metavar="HOST", help="Copies on this host.")
@common_options
@click.pass_context
def list_replicas(
    context: click.Context, targets: tuple[str, ...], long: bool, statuses: tuple[str, ...], set_name: str | None, host: str | None
) -> int:
    """List the copies of files (LFN, GUID or SURL), or all of a --set or on a --host."""
    run = session(context)
    catalog = run.client(context).catalog
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
        wanted = (
            item
            for item in found.replicas
            if (not statuses or item.status in statuses) and host in (None, item.host) and set_name in (None, item.set_name)
        )
        _print((FileReplicas(found.lfn, found.guid, (item,)) for item in wanted), long, run.as_json)
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
