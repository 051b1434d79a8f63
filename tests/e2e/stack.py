"""A running stack as its users see it."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydicom import dcmread
from pynetdicom import AE

T = TypeVar("T")
BIN = Path(sys.executable).parent


class Stack:
    """A local stack in a data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir

    def local(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `mdm-local` on this stack."""
        command = [str(BIN / "mdm-local"), *arguments, "--data-dir", str(self.data_dir)]
        return subprocess.run(command, capture_output=True, text=True, timeout=180, check=check)

    def status(self) -> dict[str, Any]:
        """Return `mdm-local status --json` as it is now."""
        found: dict[str, Any] = json.loads(self.local("status", "--json", check=False).stdout)
        return found

    @cached_property
    def first_status(self) -> dict[str, Any]:
        """What does not change while the stack is up: client configurations and the PACS."""
        return self.status()

    @property
    def pacs(self) -> dict[str, Any]:
        """Kind, AE title, host and port of the PACS."""
        found: dict[str, Any] = self.first_status["pacs"]
        return found

    def client_config(self, user: str) -> Path:
        """Return a user's client configuration file."""
        return Path(self.first_status["client_config"][user])

    def pid(self, service: str) -> int:
        """Return a service's process id."""
        return int(self.status()["services"][service]["pid"])

    def store(self, *paths: Path) -> None:
        """Store files in the PACS: by dcmtk's storescu, or dcmsend where a file is compressed; by pynetdicom where there is no dcmtk."""
        peer = [self.pacs["host"], str(self.pacs["port"]), *map(str, paths)]
        if shutil.which("storescu"):
            compressed = any(dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID.is_compressed for path in paths)
            command = ["dcmsend", "--decompress-never"] if compressed else ["storescu", "-R"]
            subprocess.run([*command, "-aec", self.pacs["aet"], *peer], check=True, capture_output=True, timeout=60)
            return
        entity = AE()
        datasets = [dcmread(path) for path in paths]
        for dataset in datasets:
            entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
        association = entity.associate(self.pacs["host"], self.pacs["port"], ae_title=self.pacs["aet"])
        assert association.is_established
        assert all(association.send_c_store(dataset).Status == 0 for dataset in datasets)
        association.release()


@dataclass(frozen=True)
class Result:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    def rows(self) -> list[dict[str, Any]]:
        """Return the JSON lines of the output."""
        return [json.loads(line) for line in self.out.splitlines() if line.strip()]


class Mdm:
    """Runs the `mdm` command as a user."""

    def __init__(self, stack: Stack, scratch: Path) -> None:
        self.stack = stack
        self.scratch = scratch

    def __call__(self, user: str, *arguments: str, config: Path | None = None, timeout: float = 120) -> Result:
        """Run a command; never raises for its exit code."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.scratch), "LANG": "C.UTF-8"}
        command = [str(BIN / "mdm"), "--config", str(config or self.stack.client_config(user)), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return Result(done.returncode, done.stdout, done.stderr)

    def query(self, user: str, sql: str) -> list[dict[str, Any]]:
        """Return the rows of a query that must succeed."""
        result = self(user, "--json", "query", sql)
        assert result.code == 0, result.err
        return result.rows()

    def images_like(self, user: str, condition: str) -> list[dict[str, Any]]:
        """Return guid, lfn, series and study of images."""
        return self.query(user, f'SELECT guid, lfn, series, study FROM "/biomed/hospital-a/images" WHERE {condition}')

    def get(self, user: str, *targets: str) -> tuple[Result, list[Path]]:
        """Fetch into a fresh directory; return the result and the files that are there."""
        directory = self.scratch / f"got-{time.monotonic_ns()}"
        result = self(user, "get", *targets, "-o", str(directory))
        return result, sorted(path for path in directory.rglob("*") if path.is_file()) if directory.exists() else []


def eventually(probe: Callable[[], T], timeout: float = 10.0, interval: float = 0.2) -> T:
    """Return the first truthy answer of `probe`, or its last answer when time is up."""
    deadline = time.monotonic() + timeout
    while True:
        answer = probe()
        if answer or time.monotonic() > deadline:
            return answer
        time.sleep(interval)
