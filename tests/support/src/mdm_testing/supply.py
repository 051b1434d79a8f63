"""Images for a stack whose PACS forwards nothing: put into the PACS, sent to dicom-srm for registration, named in the catalog."""

import json
import subprocess
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

from mdm_testing.kept_connection import KeptConnection
from mdm_testing.local_stack import LocalStack
from mdm_testing.process import eventually, require_program
from mdm_testing.stack import Mdm
from mdm_testing.study import Study

#: How the end of a registration is waited for.
PUBLISHED = "SELECT count(*) FROM registration WHERE state = 'PUBLISHED'"
_REGISTER_SECONDS = 600


def storescu(port: int, ae_title: str, folder: Path, calling: str = "BENCH") -> None:
    """Send a folder's files over one association, each when the one before has been answered, as dcmtk's storescu does by default."""
    command = [require_program("storescu", "dcmtk"), "-R", "-aet", calling, "-aec", ae_title, "127.0.0.1", str(port)]
    subprocess.run([*command, "+sd", str(folder)], check=True, capture_output=True, timeout=_REGISTER_SECONDS)


class ImageSupply:
    """Brings images into a running stack with Orthanc. Stops the forwarder, so that registration is what `register` does."""

    def __init__(self, stack: LocalStack, folder: Path) -> None:
        stack.stop("pacs-forwarder")
        self._stack, self._mdm, self._pacs = stack, Mdm(stack, folder), stack.pacs
        self._scp_port = tomllib.loads(stack.service_config("dicom-srm").read_text())["scp"]["port"]

    def put(self, paths: Sequence[Path]) -> None:
        """Put files into the PACS, over HTTP."""
        account = json.loads(Path(self._pacs["http_credentials_file"]).read_text())
        connection = KeptConnection.of_user(int(self._pacs["http"].rsplit(":", 1)[1]), account["username"], account["password"])
        connection.put(paths)
        connection.close()

    def register(self, folder: Path, count: int) -> float:
        """Send a folder's files, so many, to dicom-srm by one storescu; return seconds until the last one is published."""
        with psycopg.connect(self._stack.database("dicom-srm"), autocommit=True) as database:
            wanted = _published(database) + count
            started = time.perf_counter()
            storescu(self._scp_port, "MDM", folder, calling=self._pacs["aet"])
            eventually(lambda: _published(database) >= wanted, _REGISTER_SECONDS, interval=0.02)
            return time.perf_counter() - started

    def names(self, study: Study) -> list[str]:
        """Return the names of a study's images in the catalog."""
        sql = (
            'SELECT i.lfn FROM "/biomed/hospital-a/images" AS i JOIN "/biomed/hospital-a/patients" AS p ON i.patient = p.patient '
            f"WHERE p.PatientID = '{study.patient}' ORDER BY i.lfn"
        )
        return [str(row["lfn"]) for row in self._mdm.query("carol", sql)]


def _published(database: "psycopg.Connection[Any]") -> int:
    row = database.execute(PUBLISHED).fetchone()
    assert row is not None
    return int(row[0])
