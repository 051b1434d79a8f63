"""`mdm mount` as a process of its own, on a grid of fakes."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mdm_client.mount.place import KIND, mounted_kind
from mdm_testing.process import BIN, end_process, eventually


def mdm(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run([str(BIN / "mdm"), "--config", str(config), *arguments], capture_output=True, text=True, timeout=120, check=False)


def start(config: Path, directory: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start a mount that stays in the foreground."""
    command = [str(BIN / "mdm"), "--config", str(config), "mount", "--foreground", "--timeout", "5", *options, str(directory), "/biomed"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def until_ready(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == b"mounted\n", process.stderr.read()


@contextmanager
def mount_point() -> Iterator[Path]:
    """A directory that every user of the machine reaches; it is an ordinary one at the end."""
    with tempfile.TemporaryDirectory(prefix="mdm-mount-") as folder:
        os.chmod(folder, 0o755)  # noqa: PTH101
        directory = Path(folder, "images")
        yield directory
        assert not mounted_kind(directory)


@contextmanager
def mounted(config: Path, *options: str) -> Iterator[Path]:
    """The catalog, mounted."""
    with mount_point() as directory:
        process = start(config, directory, *options)
        try:
            until_ready(process)
            yield directory
        finally:
            end_process(process)
            process.communicate()


def gone(directory: Path) -> None:
    """Wait until a directory is an ordinary one."""
    eventually(lambda: mounted_kind(directory) != KIND)
    assert not any(directory.iterdir())
