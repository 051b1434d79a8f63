"""Commands that look: whoami, ls, stat."""

from datetime import UTC, datetime
from typing import Any

import click
from mdm_wire import dn
from mdm_wire.channel import read_certificate
from mdm_wire.errors import MdmError

from mdm_client.catalog.client import CatalogClient
from mdm_client.catalog.model import Entry
from mdm_client.cli.catalog.entry import entry_facts, long_line, print_facts, shown_name
from mdm_client.cli.catalog.lfn import LFN
from mdm_client.cli.context import common_options, session
from mdm_client.cli.error import OK, UNAUTHENTICATED, exit_code_of_items, show_client_error
from mdm_client.cli.option import Respelt
from mdm_client.cli.table import print_json, print_line, printable
from mdm_client.names import Name, normalise_lfn, parse_names


@click.command()
@common_options
@click.pass_context
def whoami(context: click.Context) -> int:
    """Show who you are to the services: your certificate's subject.

    Looks only at local files. Your groups are what each service's membership file says.
    """
    run = session(context)
    config = run.config()
    certificate = read_certificate(config.tls.certificate)
    expires = certificate.not_valid_after_utc
    expired = expires < datetime.now(UTC)
    days = (expires - datetime.now(UTC)).days
    facts: dict[str, Any] = {
        "dn": dn.of_certificate(certificate),
        "issuer": dn.of_name(certificate.issuer),
        "expires": expires.isoformat(),
        "expired": expired,
        "certificate": str(config.tls.certificate),
        "config": str(run.config_path),
        "sites": sorted(config.srm),
    }
    if run.as_json:
        print_json(facts)
    else:
        left = "expired: ask for a new one" if expired else f"{days} days left"
        print_facts({**facts, "expires": f"{expires:%Y-%m-%d %H:%M} UTC ({left})", "sites": ", ".join(facts["sites"])})
    return UNAUTHENTICATED if expired else OK


@click.command("ls")
@click.argument("paths", nargs=-1, metavar="[PATH...]", type=LFN)
@click.option("-l", "--long", is_flag=True, help="What you may do (pdrwlxgs), size and date too.")
@click.option("-R", "--recursive", is_flag=True, help="Everything below too.")
@click.option("-d", "--directory", is_flag=True, help="PATH itself, not what is in it; a link itself.")
@click.option("--guid", cls=Respelt, old=["-i"], is_flag=True, help="GUIDs of files first.")
@click.option("-b", "--bytes", "exact", is_flag=True, help="With -l: sizes in bytes.")
@click.option("--comment", is_flag=True, help="Comments last.")
@common_options
@click.pass_context
def list_directory(
    context: click.Context, paths: tuple[str, ...], long: bool, recursive: bool, directory: bool, guid: bool, exact: bool, comment: bool
) -> int:
    """List directories of the catalog, or files; / without PATH."""
    run = session(context)
    roots = [normalise_lfn(path) for path in paths or ("/",)]
    catalog = run.client(context).catalog

    def show(entry: Entry, prefix: str) -> None:
        if run.as_json:
            print_json(entry_facts(entry))
            return
        name = shown_name(entry, entry.lfn.removeprefix(prefix))
        line = long_line(entry, name, exact) if long else name
        if guid:
            line = f"{entry.guid or '-':<36}  {line}"
        print_line(f"{line}  # {printable(entry.comment)}" if comment and entry.comment else line)

    failures: list[MdmError] = []
    for number, root in enumerate(roots):
        if len(roots) > 1 and not directory and not run.as_json:
            print_line(f"{chr(10) if number else ''}{printable(root)}:")
        try:
            for entry in _itself(catalog, root) if directory else catalog.list_entries(root, recursive):
                show(entry, "" if directory else root.rstrip("/") + "/")
        except MdmError as error:
            failures.append(error)
            show_client_error(error, run.as_json, root)
    return exit_code_of_items(len(roots), failures)


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...", type=LFN)
@click.option("-P", "--no-follow", is_flag=True, help="A symbolic link itself, not what it leads to.")
@common_options
@click.pass_context
def stat(context: click.Context, targets: tuple[str, ...], no_follow: bool) -> int:
    """Show everything the catalog says about files and directories (LFN, GUID or SURL)."""
    run = session(context)
    names = parse_names(targets)
    failures: list[MdmError] = []
    answers = run.client(context).catalog.stat(names, with_replicas=True, follow=not no_follow)
    for number, (name, answer) in enumerate(zip(names, answers, strict=True)):
        if isinstance(answer, MdmError):
            failures.append(answer)
            show_client_error(answer, run.as_json, str(name))
        elif run.as_json:
            print_json(entry_facts(answer))
        else:
            if number:
                print_line("")
            print_facts({key: value for key, value in entry_facts(answer).items() if value not in ("", None, [])})
    return exit_code_of_items(len(names), failures)


def _itself(catalog: CatalogClient, lfn: str) -> list[Entry]:
    [entry] = catalog.stat([Name(lfn=lfn)], follow=False)
    if isinstance(entry, MdmError):
        raise entry
    return [entry]
