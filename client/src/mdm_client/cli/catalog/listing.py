"""Commands that look at the catalog: whoami, ls, stat, find, du."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from mdm_wire.errors import MdmError

from mdm_client.catalog.client import CatalogClient
from mdm_client.catalog.model import DIRECTORY, FILE, SYMLINK, Entry, Search
from mdm_client.cli.catalog.entry import LFN, entry_facts, long_line, print_facts, shown_name
from mdm_client.cli.context import RenamedOption, Session, session_command
from mdm_client.cli.error import OK, UNAUTHENTICATED, about, exit_code_of_items, show_client_error, show_error
from mdm_client.cli.output import print_json, print_line, printable, readable_size, show, with_path
from mdm_client.name_syntax import Name, normalise_lfn, parse_names


@click.command()
@session_command
def whoami(run: Session) -> int:
    """Show who you are to the services: your certificate's subject.

    Only local files are read. Your groups are those of each service's membership file.
    """
    config = run.config()
    from mdm_wire import dn
    from mdm_wire.channel import read_certificate

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
@click.option("--guid", cls=RenamedOption, old=["-i"], is_flag=True, help="GUIDs of files first.")
@click.option("-b", "--bytes", "exact", is_flag=True, help="With -l: sizes in bytes.")
@click.option("--comment", is_flag=True, help="Comments last.")
@session_command
def list_directory(
    run: Session, paths: tuple[str, ...], long: bool, recursive: bool, directory: bool, guid: bool, exact: bool, comment: bool
) -> int:
    """List directories of the catalog, or files; / without PATH."""
    roots = [normalise_lfn(path) for path in paths or ("/",)]
    catalog = run.client().catalog

    def write(entry: Entry, prefix: str) -> None:
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
                write(entry, "" if directory else root.rstrip("/") + "/")
        except MdmError as error:
            failures.append(error)
            show_client_error(error, run.as_json, root)
    return exit_code_of_items(len(roots), failures)


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...", type=LFN)
@click.option("-P", "--no-follow", is_flag=True, help="A symbolic link itself, not what it leads to.")
@session_command
def stat(run: Session, targets: tuple[str, ...], no_follow: bool) -> int:
    """Show everything the catalog says about files and directories (LFN, GUID or SURL)."""
    names = parse_names(targets)
    failures: list[MdmError] = []
    answers = run.client().catalog.stat(names, with_replicas=True, follow=not no_follow)
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


_KINDS = {"f": FILE, "d": DIRECTORY, "l": SYMLINK}

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([kMGT]?)(B?)")
_FACTORS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_AGO = re.compile(r"([0-9]+)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class SizeType(click.ParamType[int]):
    """Bytes, such as 512, 10k, 1.5MB (decimal units)."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = _SIZE.fullmatch(str(value))
        if not match:
            self.fail(f"{value!r} is not a size: write 512, 10k, 1.5MB", param, ctx)
        return int(float(match[1]) * _FACTORS[match[2]])


class MomentType(click.ParamType[datetime]):
    """A time: a date, a date with a time (UTC unless it says otherwise), or how long ago, such as 90m, 2d."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        text = str(value)
        match = _AGO.fullmatch(text)
        try:
            if match:
                return datetime.now(UTC) - timedelta(seconds=int(match[1]) * _SECONDS[match[2]])
            moment = datetime.fromisoformat(text)
        except (ValueError, OverflowError):
            self.fail(f"{text!r} is not a time: write 2026-01-31, 2026-01-31T12:00 or 2d (ago)", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


SIZE = SizeType()
MOMENT = MomentType()


@click.command()
@click.argument("path", default="/", type=LFN)
@click.option(
    "--name",
    cls=RenamedOption,
    old=["-name"],
    default="",
    metavar="PATTERN",
    help="Last name matches: '*', '?', '[abc]', '[!a-z]'. Quote it.",
)
@click.option(
    "--type",
    "kinds",
    cls=RenamedOption,
    old=["-type"],
    multiple=True,
    type=click.Choice(list(_KINDS)),
    help="File, directory, link; may be repeated.",
)
@click.option("--min-size", type=SIZE, metavar="SIZE", help="At least, such as 10k, 1.5MB.")
@click.option("--max-size", type=SIZE, metavar="SIZE", help="At most.")
@click.option("--newer", type=MOMENT, metavar="TIME", help="Changed since a date (2026-01-31) or for so long (2d, 90m).")
@click.option("--older", type=MOMENT, metavar="TIME", help="Not changed since then.")
@click.option("--max-depth", cls=RenamedOption, old=["-maxdepth"], type=click.IntRange(min=1), help="1: only what is directly in PATH.")
@click.option("-l", "--long", is_flag=True, help="What you may do (pdrwlxgs), size and date too.")
@click.option("-0", "--null", cls=RenamedOption, old=["-print0"], is_flag=True, help="End each path with a NUL, for xargs -0.")
@session_command
def find(
    run: Session,
    path: str,
    name: str,
    kinds: tuple[str, ...],
    min_size: int | None,
    max_size: int | None,
    newer: datetime | None,
    older: datetime | None,
    max_depth: int | None,
    long: bool,
    null: bool,
) -> None:
    """Find entries below PATH by name, kind, size and time of change. All conditions must hold."""
    search = Search(name, tuple(_KINDS[kind] for kind in kinds), min_size, max_size, newer, older, max_depth or 0)
    with about(path):
        for entry in run.client().catalog.find(normalise_lfn(path), search):
            if run.as_json:
                print_json(entry_facts(entry))
            elif null:
                click.echo(entry.lfn + "\0", nl=False)
            else:
                print_line(long_line(entry, printable(entry.lfn)) if long else printable(entry.lfn))


@click.command()
@click.argument("paths", nargs=-1, metavar="[PATH...]", type=LFN)
@click.option(
    "--max-depth", cls=RenamedOption, old=["-d"], type=click.IntRange(min=0), default=0, show_default=True, help="Directories below too."
)
@click.option("-s", "--summarize", is_flag=True, expose_value=False, hidden=True, help="Accepted and without effect: it always does.")
@click.option("-b", "--bytes", "exact", is_flag=True, help="Sizes in bytes.")
@session_command
def du(run: Session, paths: tuple[str, ...], max_depth: int, exact: bool) -> int:
    """Sum up directories: bytes, files and directories below each. What you may not list is not counted."""
    lfns = [normalise_lfn(path) for path in paths or ("/",)]
    failures: list[MdmError] = []
    for lfn in lfns:
        try:
            usages = run.client().catalog.usage(lfn, max_depth)
        except MdmError as error:
            failures.append(error)
            show_client_error(error, run.as_json, lfn)
            continue
        for usage in usages:
            size = str(usage.bytes) if exact else readable_size(usage.bytes)
            line = with_path(f"{size:>10}  {usage.files:>9} files  {usage.directories:>7} directories  ", printable(usage.lfn))
            show(run.as_json, {name: getattr(usage, name) for name in ("lfn", "bytes", "files", "directories", "links", "closed")}, line)
        if usages and usages[0].closed:
            show_error(f"{lfn}: {usages[0].closed} directories are not for you to look into", "DIRECTORIES_CLOSED", run.as_json)
    return exit_code_of_items(len(lfns), failures)
