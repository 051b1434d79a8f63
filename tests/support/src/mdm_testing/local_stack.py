"""A local stack: the services as processes of this machine."""

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from mdm_local.layout import Layout
from mdm_local.state import State
from mdm_site.pki import DevelopmentCa
from mdm_site.site import SITE
from psycopg import conninfo

from mdm_testing.process import BIN
from mdm_testing.stack import Stack


class LocalStack(Stack):
    """A stack of `mdm-local` in a data directory; a `small` one has the metadata only; `instances` are those of dicom-srm."""

    kind = "local"

    def __init__(self, data_dir: Path, name: str = SITE, *, small: bool = False, instances: int = 1) -> None:
        self.name = name
        self._data_dir = data_dir
        self._only = ("--only=metadata",) if small else (f"--instances={instances}",)

    def up(self) -> None:
        self._local("up", "--name", self.name, *self._only)

    def couple(self, origin: Stack) -> None:
        assert isinstance(origin, LocalStack)
        self._local("couple", str(origin._data_dir))

    def down(self) -> None:
        self._local("down", "--purge")

    def client_config(self, user: str) -> Path:
        return Path(self._first_status["client_config"][user])

    def service_config(self, name: str) -> Path:
        """Return a service's configuration file."""
        return Layout(self._data_dir).config(name)

    @property
    def results(self) -> Path:
        """The directory of the space for results."""
        return Layout(self._data_dir).results

    @property
    def authority(self) -> DevelopmentCa:
        layout = Layout(self._data_dir)
        return DevelopmentCa(layout.pki, State.load(layout.state_file).organisation)

    @property
    def trust_directory(self) -> Path:
        return self._data_dir / "trust"

    @property
    def pacs(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._first_status["pacs"]
        return found

    @property
    def scp(self) -> Mapping[str, Any]:
        """The Storage SCP: `aet`, `host`, `port`."""
        found: Mapping[str, Any] = self._first_status["scp"]
        return found

    def start(self, name: str) -> None:
        self._local("start", name)

    def stop(self, name: str) -> None:
        self._local("stop", name)

    def kill(self, name: str) -> None:
        self._local("kill", name)

    def freeze(self, name: str) -> None:
        os.kill(self.pid(name), signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        os.kill(self.pid(name), signal.SIGCONT)

    def logs(self) -> dict[str, bytes]:
        status = self._status()
        paths = [Path(service["log"]) for service in status["services"].values()] + [Path(status["postgres"]["log"])]
        return {path.name: path.read_bytes() for path in paths}

    def staged(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in Path(self._first_status["spool"]).rglob("*") if path.is_file()}

    def database(self, service: str) -> str:
        return conninfo.make_conninfo(self._first_status["postgres"]["conninfo"], dbname="mdm_" + service.replace("-", "_"))

    def secret_files(self) -> list[Path]:
        return [*self._data_dir.rglob("*.key"), *(self._data_dir / "secret").iterdir()]

    def _local(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / "mdm-local"), *arguments, "--data-dir", str(self._data_dir)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0 or not check, f"mdm-local {arguments[0]}: {done.stdout[-500:]}{done.stderr[-2000:]}"
        return done

    def _status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._local("status", "--json", check=False).stdout)
        return found

    @cached_property
    def _first_status(self) -> dict[str, Any]:
        """What does not change while the stack is up."""
        return self._status()

    @property
    def door(self) -> str:
        """URL of the HTTPS door."""
        return str(self._first_status["door"])

    def pid(self, name: str) -> int:
        """Return the id of a service's process."""
        return int(self._status()["services"][name]["pid"])
