"""Commands that look for entries and sum them up: find, du."""

import re
from datetime import UTC, datetime, timedelta

import click
from mdm_wire.errors import MdmError

from mdm_client.catalog.model import DIRECTORY, FILE, SYMLINK, Search
from mdm_client.cli.catalog.entry import entry_facts, long_line
from mdm_client.cli.catalog.lfn import LFN
from mdm_client.cli.context import common_options, session
from mdm_client.cli.error import about, exit_code_of_items, show_client_error, show_error
from mdm_client.cli.option import Respelt
from mdm_client.cli.table import print_json, print_line, printable, readable_size
from mdm_client.cli.width import with_path
from mdm_client.names import normalise_lfn

_KINDS = {"f": FILE, "d": DIRECTORY, "l": SYMLINK}

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([kMGT]?)(B?)")
_FACTORS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_AGO = re.compile(r"([0-9]+)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class SizeType(click.ParamType[int]):
    """Bytes, such as 512, 10k, 1.5MB (decimal units)."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return a number of bytes."""
        match = _SIZE.fullmatch(str(value))
        if not match:
            self.fail(f"{value!r} is not a size: write 512, 10k, 1.5MB", param, ctx)
        return int(float(match[1]) * _FACTORS[match[2]])


class MomentType(click.ParamType[datetime]):
    """A time: a date, a date with a time (UTC unless it says otherwise), or how long ago, such as 90m, 2d."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return a moment with its time zone."""
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
    "--name", cls=Respelt, old=["-name"], default="", metavar="PATTERN", help="Last name matches: '*', '?', '[abc]', '[!a-z]'. Quote it."
)
@click.option(
    "--type",
    "kinds",
    cls=Respelt,
    old=["-type"],
    multiple=True,
    type=click.Choice(list(_KINDS)),
    help="File, directory, link; may be repeated.",
)
@click.option("--min-size", type=SIZE, metavar="SIZE", help="At least, such as 10k, 1.5MB.")
@click.option("--max-size", type=SIZE, metavar="SIZE", help="At most.")
@click.option("--newer", type=MOMENT, metavar="TIME", help="Changed since a date (2026-01-31) or for so long (2d, 90m).")
@click.option("--older", type=MOMENT, metavar="TIME", help="Not changed since then.")
@click.option("--max-depth", cls=Respelt, old=["-maxdepth"], type=click.IntRange(min=1), help="1: only what is directly in PATH.")
@click.option("-l", "--long", is_flag=True, help="What you may do (pdrwlxgs), size and date too.")
@click.option("-0", "--null", cls=Respelt, old=["-print0"], is_flag=True, help="End each path with a NUL, for xargs -0.")
@common_options
@click.pass_context
def find(
    context: click.Context,
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
    run = session(context)
    search = Search(name, tuple(_KINDS[kind] for kind in kinds), min_size, max_size, newer, older, max_depth or 0)
    with about(path):
        for entry in run.client(context).catalog.find(normalise_lfn(path), search):
            if run.as_json:
                print_json(entry_facts(entry))
            elif null:
                click.echo(entry.lfn + "\0", nl=False)
            else:
                print_line(long_line(entry, printable(entry.lfn)) if long else printable(entry.lfn))


@click.command()
@click.argument("paths", nargs=-1, metavar="[PATH...]", type=LFN)
@click.option(
    "--max-depth", cls=Respelt, old=["-d"], type=click.IntRange(min=0), default=0, show_default=True, help="Directories below too."
)
@click.option("-s", "--summarize", is_flag=True, expose_value=False, hidden=True, help="Accepted and without effect: it always does.")
@click.option("-b", "--bytes", "exact", is_flag=True, help="Sizes in bytes.")
@common_options
@click.pass_context
def du(context: click.Context, paths: tuple[str, ...], max_depth: int, exact: bool) -> int:
    """Sum up directories: bytes, files and directories below each. What you may not list is not counted."""
    run = session(context)
    lfns = [normalise_lfn(path) for path in paths or ("/",)]
    failures: list[MdmError] = []
    for lfn in lfns:
        try:
            usages = run.client(context).catalog.usage(lfn, max_depth)
        except MdmError as error:
            failures.append(error)
            show_client_error(error, run.as_json, lfn)
            continue
        for usage in usages:
            if run.as_json:
                print_json({field: getattr(usage, field) for field in ("lfn", "bytes", "files", "directories", "links", "closed")})
            else:
                size = str(usage.bytes) if exact else readable_size(usage.bytes)
                print_line(with_path(f"{size:>10}  {usage.files:>9} files  {usage.directories:>7} directories  ", printable(usage.lfn)))
        if usages and usages[0].closed:
            show_error(f"{lfn}: {usages[0].closed} directories are not for you to look into", "DIRECTORIES_CLOSED", run.as_json)
    return exit_code_of_items(len(lfns), failures)
