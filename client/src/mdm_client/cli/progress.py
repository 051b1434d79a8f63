"""A bar on the terminal while something takes long."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mdm_client.cli.table import readable_size


@contextmanager
def counted_files(files: int) -> Iterator[Callable[[int], None]]:
    """Show how many of `files` are done; the function given is called after each file with the bytes received so far."""
    if not sys.stderr.isatty():
        yield lambda _received: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

    with _bar(BarColumn(), MofNCompleteColumn(), TextColumn("files  {task.fields[received]}")) as progress:
        task = progress.add_task("", total=files, received="")
        yield lambda received: progress.update(task, advance=1, received=readable_size(received))


@contextmanager
def counted_bytes(total: int | None) -> Iterator[Callable[[int], None] | None]:
    """Show how many of `total` bytes (None: unknown) are done; the function given, if any, is called with each count of further bytes."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, TransferSpeedColumn

    with _bar(BarColumn(), DownloadColumn(), TransferSpeedColumn()) as progress:
        task = progress.add_task("", total=total)
        yield lambda count: progress.update(task, advance=count)


def _bar(*columns: Any) -> Any:
    # rich takes longer to import than most commands take to run.
    from rich.console import Console
    from rich.progress import Progress

    return Progress(*columns, console=Console(stderr=True), transient=True)
