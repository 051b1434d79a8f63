"""The command that fetches files: get."""

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from uuid import UUID

import click
from mdm_wire.errors import Invalid

from mdm_client.cli.catalog.lfn import LFN
from mdm_client.cli.context import Session, common_options, session
from mdm_client.cli.error import Failures, exit_code_of_items, show_error
from mdm_client.cli.memory import keep_freed_memory
from mdm_client.cli.progress import counted_files
from mdm_client.cli.table import print_json, print_line, readable_size
from mdm_client.client import Client
from mdm_client.fetch.download import FetchOptions, FileResult
from mdm_client.fetch.existing import Sorted, sort_out
from mdm_client.fetch.plan import Plan, PlannedFile, make_plan
from mdm_client.local_file import check_directory
from mdm_client.names import Name, normalise_lfn, parse_names


@click.command()
@click.argument("targets", nargs=-1, metavar="TARGET...", type=LFN)
@click.option(
    "-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=Path(), metavar="DIR", help="Where to (default: here)."
)
@click.option("--query", "sql", metavar="SQL", help="Fetch the rows of a metadata query; it must give guid, or else lfn.")
@click.option("-j", "--jobs", type=click.IntRange(1, 64), default=4, show_default=True, help="Files at a time.")
@click.option("--skip-existing", is_flag=True, help="Leave files that are there already, of the catalog's size and, where known, SHA-256.")
@click.option("-f", "--force", is_flag=True, help="Replace files that are there already; with --skip-existing only those that differ.")
@click.option(
    "--timeout", type=click.FloatRange(min=1), default=600, show_default=True, help="Give up after so many seconds without progress."
)
@click.option("--fsync", is_flag=True, help="Have each file on disk before it gets its name.")
@common_options
@click.pass_context
def get(
    context: click.Context,
    targets: tuple[str, ...],
    output: Path,
    sql: str | None,
    jobs: int,
    skip_existing: bool,
    force: bool,
    timeout: float,
    fsync: bool,
) -> int:
    """Fetch files, decrypted: each TARGET is the LFN of a file or directory, a pattern of LFNs, or a GUID.

    One directory's files keep their paths below it; of several TARGETs each directory gets its own. A link's file has the link's name.
    In a quoted pattern *, ? and [abc] stand for characters of one name, ** for any directories.

    A file gets its name only when it is whole and verified. Nothing that exists is replaced without --force.
    """
    if not targets and not sql:
        raise click.UsageError("name at least one TARGET, or --query SQL")
    keep_freed_memory()
    run = session(context)
    names = parse_names(targets)
    client = run.client(context)
    check_directory(output)
    found = _names_of_query(client, sql) if sql else []
    plan = make_plan(client.catalog, names, literal=found, with_digests=skip_existing)
    there = sort_out(plan.files, output, skip_existing=skip_existing, force=force)
    tally = _Tally(run, plan, there, output)
    try:
        _fetch(client, there.wanted, output, FetchOptions(jobs, timeout, fsync, replace=force), tally)
    finally:
        tally.failures.show(run.as_json)
    tally.summarise()
    return exit_code_of_items(len(plan.files) + len(plan.failures), tally.failures.errors)


class _Tally:
    """Counts results, writes those that are fetched as they come, and keeps the failures."""

    def __init__(self, run: Session, plan: Plan, there: Sorted, output: Path) -> None:
        self._run = run
        self._output = output
        self._began = time.monotonic()
        self._nothing = not plan.files and not plan.failures
        self._there = there
        self._fetched = 0
        self._bytes = 0
        self.failures = Failures()
        for failure in plan.failures:
            self.failures.add(failure.name, failure.error)
        for file, error in there.refused:
            self.failures.add(str(output / file.path), error)

    def add(self, result: FileResult) -> None:
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
        if self._there.kept:
            unknown = f" ({self._there.uncompared} of a size that the catalog does not know)" if self._there.uncompared else ""
            parts.append(f"{len(self._there.kept)} were there already{unknown}")
        parts += [f"{len(self.failures.errors)} failed"] if self.failures.errors else []
        print_line("; ".join(parts))


def _names_of_query(client: Client, sql: str) -> list[Name]:
    """Return what the rows of a query name: by the column guid, else by lfn.

    Raises:
        Invalid: NO_GUID_COLUMN: neither is there, or it holds something else.
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
        raise Invalid("NO_GUID_COLUMN", f"--query: the column {chosen} holds something else than {chosen.upper()}s") from None


def _fetch(client: Client, files: Sequence[PlannedFile], output: Path, options: FetchOptions, tally: _Tally) -> None:
    if not files:
        return
    with counted_files(len(files)) as advance:
        total = 0

        def count(size: int) -> None:
            nonlocal total
            total += size

        with closing(client.download(files, output, options, count).results()) as results:
            for result in results:
                tally.add(result)
                advance(total)
