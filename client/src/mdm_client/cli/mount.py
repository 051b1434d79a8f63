"""The command that mounts the catalog as a directory: mount."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mdm_client.cli.catalog.entry import LFN
from mdm_client.cli.catalog.listing import SIZE
from mdm_client.cli.context import Session, keep_freed_memory, session_command
from mdm_client.cli.error import OK
from mdm_client.cli.output import show
from mdm_client.name_syntax import normalise_lfn

if TYPE_CHECKING:
    from mdm_client.config import ClientConfig

_READY = "mounted"
#: Set for a process whose starter waits for that word.
_WAITS = "MDM_MOUNT_READY"
#: Short, for the kernel keeps the program waiting: a service that is away is EIO soon.
_CALL_SECONDS, _RETRY_SECONDS = 10.0, 4.0
#: For so long a directory is believed to hold what it held.
_LISTED_SECONDS = 10.0


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("target", metavar="[TARGET]", type=LFN, default="/")
@click.option("--unmount", "end", is_flag=True, help="Make DIR an ordinary directory again.")
@click.option("--foreground", is_flag=True, help="Stay until DIR is unmounted, or Control-C.")
@click.option("--memory", type=SIZE, metavar="SIZE", default="512M", show_default=True, help="Memory for files.")
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Keep there, encrypted under a key of this process, what memory has no room for.",
)
@click.option(
    "--timeout", type=click.FloatRange(min=1), default=60, show_default=True, help="A read fails after so many seconds without progress."
)
@session_command
def mount(run: Session, directory: Path, target: str, end: bool, foreground: bool, memory: int, cache: Path | None, timeout: float) -> int:
    """Mount the catalog on DIR: every program of yours reads images there, decrypted, under your own certificate.

    DIR shows the catalog, or what is below TARGET. It is read-only, and closed to all other users of the machine, root too. A file is
    staged when it is opened, and those that follow it in its directory with it. Files are decrypted in memory only.
    """
    from mdm_client.image.reader import need_packages
    from mdm_client.mount.place import check_fuse, unmount

    if end:
        unmount(directory)
        show(run.as_json, {"directory": str(directory), "mounted": False}, f"{directory} is unmounted")
        return OK
    need_packages("mdm mount", "mount", "mfusepy")
    check_fuse()
    if not foreground:
        options = ["--memory", str(memory), "--timeout", str(timeout), *(["--cache", str(cache)] if cache else [])]
        return _in_background(run, directory, [*options, "--", str(directory), target])
    keep_freed_memory()
    _serve(run.config(), directory, normalise_lfn(target), memory, cache, timeout, _reporter())
    return OK


def _serve(
    config: "ClientConfig", directory: Path, root: str, memory: int, cache: Path | None, timeout: float, ready: Callable[[], None]
) -> None:
    from mdm_wire.retry import RetryPolicy

    from mdm_client.client import Client
    from mdm_client.filesystem.files import Files
    from mdm_client.filesystem.tree import Tree, names_of_collections
    from mdm_client.mount.operations import CatalogOperations
    from mdm_client.mount.serving import Served, serve

    with Client(config, RetryPolicy(_CALL_SECONDS, _RETRY_SECONDS)) as client:
        tree = Tree(client.catalog, _LISTED_SECONDS, lambda: names_of_collections(client.metadata))
        tree.children(root)  # that it is a directory, and that the catalog answers, is known before anything is mounted
        with Files(client, memory=memory, cache=cache, timeout=timeout) as files:
            operations = CatalogOperations(tree, files, root)
            serve(directory, Served(operations, operations.mounted, files.close), ready)


def _reporter() -> Callable[[], None]:
    """Return what says that the directory is there, and lets go of the terminal if a command waits for that."""
    waiting = os.environ.pop(_WAITS, "")

    def ready() -> None:
        click.echo(_READY)
        sys.stdout.flush()
        if waiting:
            nowhere = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(nowhere, number)

    return ready


def _in_background(run: Session, directory: Path, arguments: Sequence[str]) -> int:
    """Start the same command once more, to stay; return when the directory can be read, or with the exit code that it ended with."""
    common = ["--config", str(run.config_path), *(["--json"] if run.as_json else [])]
    command = [sys.executable, "-m", "mdm_client.cli", *common, "mount", "--foreground", *arguments]
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, _WAITS: "1"},
    )
    try:
        assert child.stdout is not None
        with child.stdout as output:
            ready = output.readline().strip() == _READY
        if not ready:
            return child.wait()
    except BaseException:
        child.terminate()
        child.wait()
        raise
    # It goes on without us: what would be said of a child that nobody waited for is not true of it.
    child.returncode = OK
    said = f"{directory} is mounted; mdm mount --unmount {directory} ends it"
    show(run.as_json, {"directory": str(directory), "mounted": True, "pid": child.pid}, said)
    return OK
