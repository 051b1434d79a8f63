"""Commands that look: whoami, ls, stat."""

from datetime import UTC, datetime
from typing import Any

import click

from mdm_client.catalog import DIRECTORY, SYMLINK, Entry
from mdm_client.channel import read_certificate
from mdm_client.cli.context import common_options, session
from mdm_client.cli.outcome import OK, UNAUTHENTICATED, exit_code_of_items, show_client_error
from mdm_client.cli.table import print_json, print_line, printable, readable_size
from mdm_client.errors import ClientError
from mdm_client.identity import subject
from mdm_client.names import format_permissions, normalise_lfn, parse_names


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
        "dn": subject(certificate.subject),
        "issuer": subject(certificate.issuer),
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
        _print_facts({**facts, "expires": f"{expires:%Y-%m-%d %H:%M} UTC ({left})", "sites": ", ".join(facts["sites"])})
    return UNAUTHENTICATED if expired else OK


@click.command("ls")
@click.argument("path", default="/")
@click.option("-l", "--long", is_flag=True, help="What you may do (pdrwlxgs), size and date too.")
@click.option("-R", "--recursive", is_flag=True, help="Everything below too.")
@common_options
@click.pass_context
def list_directory(context: click.Context, path: str, long: bool, recursive: bool) -> None:
    """List a directory of the catalog, or one file."""
    run = session(context)
    root = normalise_lfn(path)
    prefix = root if root == "/" else root + "/"
    for entry in run.client(context).catalog.list_entries(root, recursive):
        if run.as_json:
            print_json(_entry_facts(entry))
            continue
        name = printable(entry.lfn.removeprefix(prefix)) + {DIRECTORY: "/", SYMLINK: "@"}.get(entry.kind, "")
        print_line(_long_line(entry, name) if long else name)


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@common_options
@click.pass_context
def stat(context: click.Context, targets: tuple[str, ...]) -> int:
    """Show everything the catalog tells about files and directories (LFN, GUID or SURL)."""
    run = session(context)
    names = parse_names(targets)
    failures: list[ClientError] = []
    answers = run.client(context).catalog.stat(names, with_replicas=True)
    for number, (name, answer) in enumerate(zip(names, answers, strict=True)):
        if isinstance(answer, ClientError):
            failures.append(answer)
            show_client_error(answer, run.as_json, str(name))
        elif run.as_json:
            print_json(_entry_facts(answer))
        else:
            if number:
                print_line("")
            _print_facts({key: value for key, value in _entry_facts(answer).items() if value not in ("", None, [])})
    return exit_code_of_items(len(names), failures)


def _entry_facts(entry: Entry) -> dict[str, Any]:
    return {
        "lfn": entry.lfn,
        "kind": entry.kind,
        "guid": str(entry.guid) if entry.guid else None,
        "size": entry.size,
        "sha256": entry.sha256.hex() or None,
        "comment": entry.comment,
        "owner": entry.owner,
        "permissions": format_permissions(entry.permissions),
        "acl_id": entry.acl_id,
        "default_acl_id": entry.default_acl_id or None,
        "created": entry.create_time.isoformat(),
        "modified": entry.modify_time.isoformat(),
        "rev": entry.rev,
        "replicas": list(entry.surls),
    }


def _long_line(entry: Entry, name: str) -> str:
    kind = {DIRECTORY: "d", SYMLINK: "l"}.get(entry.kind, "-")
    size = "" if entry.size is None else readable_size(entry.size)
    return f"{kind} {format_permissions(entry.permissions):<8}  {size:>9}  {entry.modify_time:%Y-%m-%d %H:%M}  {name}"


def _print_facts(facts: dict[str, Any]) -> None:
    width = max(len(key) for key in facts)
    for key, value in facts.items():
        text = ", ".join(value) if isinstance(value, list) else value
        print_line(f"{key.replace('_', ' '):<{width}}  {printable(text)}")
