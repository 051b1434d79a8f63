"""The command that fetches files: get."""

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from uuid import UUID

import click
from mdm_wire.errors import Invalid, MdmError

from mdm_client.cli.context import Session, common_options, session
from mdm_client.cli.memory import keep_freed_memory
from mdm_client.cli.outcome import exit_code_of_items, show_client_error, show_error
from mdm_client.cli.progress import counted_files
from mdm_client.cli.table import print_json, print_line, readable_size
from mdm_client.client import Client
from mdm_client.fetch.download import FetchOptions, FileResult
from mdm_client.fetch.plan import Plan, PlannedFile, existing, make_plan
from mdm_client.names import Name, parse_names


@click.command()
@click.argument("targets", nargs=-1, metavar="TARGET...")
@click.option(
    "-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=Path(), metavar="DIR", help="Where to (default: here)."
)
@click.option("--query", "sql", metavar="SQL", help="Fetch the rows of a metadata query; it must give guid.")
@click.option("-j", "--jobs", type=click.IntRange(1, 64), default=4, show_default=True, help="Files at a time.")
@click.option("--skip-existing", is_flag=True, help="Leave files that are there already.")
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
    timeout: float,
    fsync: bool,
) -> int:
    """Fetch files, decrypted: each TARGET is the LFN of a file or directory, or a GUID.

    A directory's files keep their paths below it. A file gets its name only when it is whole and verified.
    """
    if not targets and not sql:
        raise click.UsageError("name at least one TARGET, or --query SQL")
    keep_freed_memory()
    run = session(context)
    names = parse_names(targets)
    client = run.client(context)
    if sql:
        names += _names_of_query(client, sql)
    plan = make_plan(client.catalog, names)
    for failure in plan.failures:
        show_client_error(failure.error, run.as_json, failure.name)
    there, missing = existing(plan.files, output) if skip_existing else ([], plan.files)
    tally = _Tally(run, [failure.error for failure in plan.failures], len(there))
    _fetch(client, missing, output, FetchOptions(jobs, timeout, fsync), tally)
    tally.summarise(plan, output)
    return exit_code_of_items(len(plan.files) + len(plan.failures), tally.failures)


class _Tally:
    """Counts outcomes and writes them as they come."""

    def __init__(self, run: Session, failures: list[MdmError], skipped: int) -> None:
        self._run = run
        self._began = time.monotonic()
        self.failures = failures
        self._skipped = skipped
        self._fetched = 0
        self._bytes = 0

    def add(self, result: FileResult) -> None:
        if result.error:
            self.failures.append(result.error)
            show_client_error(result.error, self._run.as_json, result.lfn)
            return
        self._fetched += 1
        self._bytes += result.size
        if self._run.as_json:
            print_json({"lfn": result.lfn, "guid": str(result.guid), "path": str(result.path), "size": result.size})

    def summarise(self, plan: Plan, output: Path) -> None:
        if self._run.as_json:
            return
        if not plan.files and not plan.failures:
            show_error("nothing to fetch: no files there that you may see", "NOTHING_TO_FETCH", False)
            return
        seconds = time.monotonic() - self._began
        parts = [f"fetched {self._fetched} files ({readable_size(self._bytes)}) into {output} in {seconds:.1f} s"]
        parts += [f"{self._skipped} were there already"] if self._skipped else []
        parts += [f"{len(self.failures)} failed"] if self.failures else []
        print_line("; ".join(parts))


def _names_of_query(client: Client, sql: str) -> list[Name]:
    result = client.metadata.query(sql)
    columns = [index for index, column in enumerate(result.columns) if column.name.lower() == "guid"]
    if not columns:
        result.close()
        raise Invalid("NO_GUID_COLUMN", "--query: the SELECT must give a column guid")
    guids = dict.fromkeys(row[columns[0]] for batch in result.batches() for row in batch)
    try:
        return [Name(guid=UUID(guid)) for guid in guids if guid is not None]
    except (ValueError, AttributeError, TypeError):
        raise Invalid("NO_GUID_COLUMN", "--query: the column guid holds something else than GUIDs") from None


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
