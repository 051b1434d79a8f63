"""A running stack as its users see it."""

import json
import os
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdm_site.pki import DevelopmentCa

from mdm_testing.pacs import store
from mdm_testing.process import BIN, eventually


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
        """Store files in the PACS, as a modality would."""
        store(self.pacs["host"], self.pacs["port"], self.pacs["aet"], paths)


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

    def images_of(self, patient: str, attribute: str = "PatientID") -> list[dict[str, Any]]:
        """Return guid, lfn, patient, study, series and InstanceNumber of a patient's images, all of which are in the catalog.

        None are returned while one of them is not: the catalog learns of an image after the metadata.
        """
        columns = ", ".join(f"i.{name}" for name in ("guid", "lfn", "patient", "study", "series", "InstanceNumber"))
        rows = self.query(
            "carol",
            f'SELECT {columns} FROM "/biomed/hospital-a/images" AS i JOIN "/biomed/hospital-a/patients" AS p ON i.patient = p.patient '
            f"WHERE p.{attribute} = '{patient}' ORDER BY i.InstanceNumber, i.lfn",
        )
        return rows if rows and self("alice", "stat", *(row["lfn"] for row in rows)).code == 0 else []

    def registered(self, patient: str, count: int = 1, attribute: str = "PatientID") -> list[dict[str, Any]]:
        """Wait until a patient has so many images in the catalog, and return them (see `images_of`)."""
        return eventually(lambda: found if len(found := self.images_of(patient, attribute)) == count else [])

    def get(self, user: str, *targets: str) -> tuple[Result, list[Path]]:
        """Fetch into a fresh directory; return the result and the files that are there."""
        directory = self.scratch / f"got-{time.monotonic_ns()}"
        result = self(user, "get", *targets, "-o", str(directory))
        return result, sorted(path for path in directory.rglob("*") if path.is_file()) if directory.exists() else []
