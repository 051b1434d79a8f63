"""The command that fetches files from sites: get."""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import click
from mdm_wire.errors import Invalid

from mdm_client.cli.catalog.entry import LFN
from mdm_client.cli.context import Session, keep_freed_memory, session_command
from mdm_client.cli.error import Failures, exit_code_of_items, show_error
from mdm_client.cli.output import counted_files, print_json, print_line, readable_size
from mdm_client.fetch.plan import Plan, PlannedFile, Selection, make_plan, select
from mdm_client.local_file import check_directory
from mdm_client.name_syntax import Name, normalise_lfn, parse_names

if TYPE_CHECKING:
    from mdm_client.client import Client
    from mdm_client.fetch.download import FetchOptions, FileResult


@click.command()
@click.argument("targets", nargs=-1, metavar="TARGET...", type=LFN)
@click.option(
    "-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=Path(), metavar="DIR", help="Where to (default: here)."
)
@click.option("--query", "sql", metavar="SQL", help="Fetch the rows of a metadata query; it must give guid, or else lfn.")
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(1, 64),
    default=4,
    show_default=True,
    help="Files at a time, of sites that stream one at a time, and with --fsync.",
)
@click.option("--skip-existing", is_flag=True, help="Leave files that are there already, of the catalog's size and, where known, SHA-256.")
@click.option("-f", "--force", is_flag=True, help="Replace files that are there already; with --skip-existing only those that differ.")
@click.option(
    "--timeout", type=click.FloatRange(min=1), default=600, show_default=True, help="Give up after so many seconds without progress."
)
@click.option("--fsync", is_flag=True, help="Have each file on disk before it gets its name.")
@click.option("--results", "with_results", is_flag=True, help="Take along the results that others gave back of these images' studies.")
@click.option("--png", is_flag=True, help="Write pictures instead, one for each frame.")
@click.option("--window", type=(float, float), metavar="C W", help="With --png: window centre and width, instead of the header's.")
@click.option("--bits", type=click.Choice(["8", "16"]), help="With --png: bits of grey (8).")
@click.option("--nifti", is_flag=True, help="Write NIfTI volumes with sidecars instead, one or more for each series (by dcm2niix).")
@click.option("--bids", is_flag=True, help="Write a BIDS tree of MR series instead.")
@click.option("--crypt4gh", is_flag=True, help="Write Crypt4GH files (NAME.c4gh) for each --recipient, with their digests beside them.")
@click.option(
    "--recipient",
    "recipients",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="KEY",
    help="With --crypt4gh: a file with a public key, of Crypt4GH or ssh-ed25519.",
)
@session_command
def get(
    run: Session,
    targets: tuple[str, ...],
    output: Path,
    sql: str | None,
    jobs: int,
    skip_existing: bool,
    force: bool,
    timeout: float,
    fsync: bool,
    with_results: bool,
    png: bool,
    window: tuple[float, float] | None,
    bits: str | None,
    nifti: bool,
    bids: bool,
    crypt4gh: bool,
    recipients: tuple[Path, ...],
) -> int:
    """Fetch files, decrypted: each TARGET is the LFN of a file or directory, a pattern of LFNs, or a GUID.

    A directory's files keep their paths below it; of several TARGETs, each directory gets its own. The file of a link has the link's name.
    In a quoted pattern *, ? and [abc] stand for characters of one name, ** for any directories.

    A file gets its name only when it is whole and verified. Nothing that exists is replaced without --force.

    With --crypt4gh, each file is encrypted anew for the recipients, on this machine; its plaintext is never on the disk.

    With --png, --nifti or --bids, files become pictures or volumes. For volumes, DICOM files stand in a private folder inside DIR while a
    series is converted.
    """
    if not targets and not sql:
        raise click.UsageError("name at least one TARGET, or --query SQL")
    conversion = None
    if png or nifti or bids or window or bits:
        from mdm_client.cli.conversion import chosen, get_converted

        conversion = chosen(png, nifti, bids, window, int(bits) if bits else None)
        if skip_existing:
            raise click.UsageError("--skip-existing compares DICOM files: it does not go with --png, --nifti and --bids")
    keys = _recipients(crypt4gh, recipients, conversion is not None or skip_existing)
    keep_freed_memory()
    names = parse_names(targets)
    client = run.client()
    check_directory(output)
    found = _names_of_query(client, sql) if sql else []
    plan = make_plan(client.catalog, names, literal=found, with_digests=skip_existing)
    if with_results:
        from mdm_client.fetch.result import with_results_of

        plan = with_results_of(client, plan, with_digests=skip_existing)
    if conversion:
        return get_converted(run, client, plan, output, _fetch_options(jobs, timeout, fsync, force), conversion)
    if keys:
        plan = replace(plan, files=[replace(file, path=file.path + ".c4gh") for file in plan.files])
    selection = select(plan.files, output, skip_existing=skip_existing, force=force)
    tally = _Tally(run, plan, selection, output)
    try:
        if selection.wanted:
            options = replace(_fetch_options(jobs, timeout, fsync, force), recipients=keys)
            _fetch(client, selection.wanted, output, options, tally)
    finally:
        tally.failures.show(run.as_json)
    tally.summarise()
    return exit_code_of_items(len(plan.files) + len(plan.failures), tally.failures.errors)


def _fetch_options(jobs: int, timeout: float, fsync: bool, replace: bool) -> "FetchOptions":
    # Only now: what is to be fetched is known sooner, and wrong names fail sooner, without the import of what decrypts.
    from mdm_client.fetch.download import FetchOptions

    return FetchOptions(jobs, timeout, fsync, replace=replace)


def _recipients(crypt4gh: bool, paths: Sequence[Path], otherwise: bool) -> tuple[bytes, ...]:
    """Return the public keys of the recipients; none without --crypt4gh."""
    if crypt4gh != bool(paths):
        raise click.UsageError("--crypt4gh and --recipient KEY go together")
    if not crypt4gh:
        return ()
    if otherwise:
        raise click.UsageError("--crypt4gh does not go with --skip-existing, --png, --nifti and --bids")
    from mdm_client.fetch.export import read_recipients

    return read_recipients(paths)


class _Tally:
    """Counts results, writes those of fetched files as they come, and keeps the failures."""

    def __init__(self, run: Session, plan: Plan, selection: Selection, output: Path) -> None:
        self._run = run
        self._output = output
        self._began = time.monotonic()
        self._nothing = not plan.files and not plan.failures
        self._selection = selection
        self._fetched = 0
        self._bytes = 0
        self.failures = Failures()
        for failure in plan.failures:
            self.failures.add(failure.name, failure.error)
        for file, error in selection.refused:
            self.failures.add(str(output / file.path), error)

    def add(self, result: "FileResult") -> None:
        if result.error:
            self.failures.add(result.lfn, result.error, [str(result.guid), str(result.path)])
            return
        self._fetched += 1
        self._bytes += result.size
        if self._run.as_json:
            print_json({"lfn": result.lfn, "guid": str(result.guid), "path": str(result.path), "size": result.size})

    def summarise(self) -> None:
        if self._run.as_json:
            return
        if self._nothing:
            show_error("nothing to fetch: no files there that you may see", "NOTHING_TO_FETCH", False)
            return
        seconds = time.monotonic() - self._began
        parts = [f"fetched {self._fetched} files ({readable_size(self._bytes)}) into {self._output} in {seconds:.1f} s"]
        if self._selection.kept:
            unknown = f" ({self._selection.uncompared} of a size that the catalog does not know)" if self._selection.uncompared else ""
            parts.append(f"{len(self._selection.kept)} were there already{unknown}")
        parts += [f"{len(self.failures.errors)} failed"] if self.failures.errors else []
        print_line("; ".join(parts))


def _names_of_query(client: "Client", sql: str) -> list[Name]:
    """Return the files that the rows of a query name: by the column guid, else lfn.

    Raises:
        Invalid: NO_GUID_COLUMN: there is neither, or it contains something else.
    """
    result = client.metadata.query(sql)
    columns = {column.name.lower(): index for index, column in reversed(list(enumerate(result.columns)))}
    chosen = next((name for name in ("guid", "lfn") if name in columns), None)
    if chosen is None:
        result.close()
        raise Invalid("NO_GUID_COLUMN", "--query: the SELECT must give a column guid or lfn")
    values = dict.fromkeys(row[columns[chosen]] for batch in result.batches() for row in batch)
    try:
        return [Name(guid=UUID(value)) if chosen == "guid" else Name(lfn=normalise_lfn(value)) for value in values if value is not None]
    except (ValueError, AttributeError, TypeError, Invalid):
        raise Invalid("NO_GUID_COLUMN", f"--query: the column {chosen} contains something other than {chosen.upper()}s") from None


def _fetch(client: "Client", files: Sequence[PlannedFile], output: Path, options: "FetchOptions", tally: _Tally) -> None:
    with counted_files(len(files)) as advance:
        total = 0

        def count(size: int) -> None:
            nonlocal total
            total += size

        with closing(client.download(files, output, options, count).results()) as results:
            for result in results:
                tally.add(result)
                advance(total)
