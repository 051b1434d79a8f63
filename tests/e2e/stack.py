"""A running stack as its users see it."""

import json
import os
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdm_site.pki import DevelopmentCa
from pydicom import dcmread
from pynetdicom import AE

BIN = Path(sys.executable).parent


class Stack(ABC):
    """A running suite. Services are catalog, metadata, keystore-a, -b, -c and dicom-srm; beside them there is the pacs."""

    kind: str
    #: The site's name, in paths and for `mdm query --sites`.
    name: str
    #: What `store` raises, besides an assertion, where the PACS does not take an image.
    store_error = (subprocess.SubprocessError, OSError)

    @abstractmethod
    def up(self) -> None:
        """Make and start everything, and return when it is healthy."""

    @abstractmethod
    def down(self) -> None:
        """Stop and remove everything."""

    @abstractmethod
    def couple(self, origin: "Stack") -> None:
        """Have this site copy another's anonymous metadata, and let each one's users ask both, as its operators would."""

    @abstractmethod
    def client_config(self, user: str) -> Path:
        """Return a user's client configuration file."""

    @property
    @abstractmethod
    def authority(self) -> DevelopmentCa:
        """The site's authority, in whose directory are the certificates of services, too."""

    @property
    @abstractmethod
    def trust_directory(self) -> Path:
        """Where groups.toml and banned are."""

    @property
    @abstractmethod
    def pacs(self) -> Mapping[str, Any]:
        """AE title, host and port of the PACS."""

    @abstractmethod
    def start(self, name: str) -> None:
        """Start a service or the PACS if it does not run, and wait until it is healthy."""

    @abstractmethod
    def stop(self, name: str) -> None:
        """Stop it gracefully."""

    @abstractmethod
    def kill(self, name: str) -> None:
        """End it at once, as a crash would."""

    @abstractmethod
    def freeze(self, name: str) -> None:
        """Let it hang: it keeps its connections and answers nothing."""

    @abstractmethod
    def thaw(self, name: str) -> None:
        """Let it go on."""

    @abstractmethod
    def logs(self) -> dict[str, bytes]:
        """Return what services and databases logged, by name."""

    @abstractmethod
    def staged(self) -> dict[str, bytes]:
        """Return the files of dicom-srm's spool by name."""

    @abstractmethod
    def database(self, service: str) -> str:
        """Return a connection string of a service's database, for its owner at least."""

    @abstractmethod
    def secret_files(self) -> list[Path]:
        """Return every file of keys and passwords."""

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

    def in_catalog(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return rows with an `lfn` once all of those names are there, none before: the catalog learns of them after the metadata."""
        return rows if rows and self("alice", "stat", *(row["lfn"] for row in rows)).code == 0 else []

    def images_like(self, user: str, condition: str) -> list[dict[str, Any]]:
        """Return guid, lfn, series and study of images."""
        return self.query(user, f'SELECT guid, lfn, series, study FROM "/biomed/hospital-a/images" WHERE {condition}')

    def get(self, user: str, *targets: str) -> tuple[Result, list[Path]]:
        """Fetch into a fresh directory; return the result and the files that are there."""
        directory = self.scratch / f"got-{time.monotonic_ns()}"
        result = self(user, "get", *targets, "-o", str(directory))
        return result, sorted(path for path in directory.rglob("*") if path.is_file()) if directory.exists() else []
