"""A stack of containers: what operators deploy."""

import io
import ipaddress
import json
import os
import signal
import subprocess
import tarfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from mdm_local.process import allocate_ports
from mdm_service.server import probe
from mdm_site.containers import PORTS, ContainerSite
from mdm_site.pki import DevelopmentCa
from mdm_site.site import BY_NAME, SITE
from psycopg import conninfo

from mdm_testing.process import BIN, eventually
from mdm_testing.repository import ROOT, execute
from mdm_testing.stack import Stack

# Only bounds a failure: a machine that does much else takes minutes.
_HEALTHY_SECONDS = 300.0


class ComposeStack(Stack):
    """A site of `mdm-site` with the containers of deploy/compose.yaml, in a directory of its own; `make images` has made the images.

    A `small` one runs the metadata only. Sites reach each other at this machine's address in Docker's own network.
    """

    kind = "compose"

    def __init__(self, site: Path, name: str = SITE, *, small: bool = False) -> None:
        self.site = site
        self.name = name
        self.project = f"mdm{os.getpid()}{'' if name == SITE else name}"
        self._services = ("metadata",) if small else ()

    def up(self) -> None:
        ports = [f"--port={name}={number}" for name, number in allocate_ports(PORTS, {}, ()).items()]
        self.mdm_site("init", "--demo", "--project", self.project, "--name", self.name, "--host", self.address, *ports)
        variables = self.site / "site.env"
        variables.write_text(variables.read_text().replace("MDM_GRID_ADDRESS=127.0.0.1", f"MDM_GRID_ADDRESS={self.address}"))
        started = self.compose("up", "-d", *self._services, timeout=900, check=False)
        assert started.returncode == 0, f"{started.stderr[-1000:]}\n{self.compose('logs', '--tail', '5').stdout}"
        for name in self._services or (*BY_NAME, "pacs"):
            self.start(name)

    def couple(self, origin: Stack) -> None:
        assert isinstance(origin, ComposeStack)
        for site in (origin, self):
            execute("two-sites-give", SITE=site.site, GIVEN=self.site / "exchanged" / site.name)
        for step, site, other in (("two-sites-origin", origin, self), ("two-sites-copy", self, origin)):
            execute(step, SITE=site.site, RECEIVED=self.site / "exchanged" / other.name, OTHER=other.address_of("metadata"))
            site.start("metadata")

    def down(self) -> None:
        if (self.site / "site.env").exists():
            self.compose("down", "--volumes", "--timeout", "5", timeout=600)

    def client_config(self, user: str) -> Path:
        return Path(self.description["client_config"][user])

    @property
    def authority(self) -> DevelopmentCa:
        return ContainerSite(self.site).ca

    @property
    def trust_directory(self) -> Path:
        return self.site / "trust"

    @cached_property
    def address(self) -> str:
        """This machine's address that containers of any site reach, and no other machine does.

        An engine that has just made its bridge knows the gateway only when it is started again: it is the network's first address.
        """
        config = json.loads(self.docker("network", "inspect", "bridge", "--format", "{{json (index .IPAM.Config 0)}}").stdout)
        return str(config.get("Gateway") or next(ipaddress.ip_network(config["Subnet"]).hosts()))

    def address_of(self, service: str) -> str:
        """Return where users and other sites reach a service."""
        return f"{self.address}:{self.description['compose']['MDM_PORT_' + service.upper().replace('-', '_')]}"

    @property
    def pacs(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.description["pacs"]
        return found

    def start(self, name: str) -> None:
        """Start a container that does not run, and wait until it is healthy."""
        if self.inspect(name)["State"]["Status"] == "exited":
            self.docker("start", self.container(name), check=False)  # its restart policy may come first
        try:
            eventually(lambda: self.is_healthy(name), _HEALTHY_SECONDS, interval=0.2)
        except AssertionError:
            log = self.docker("logs", "--tail", "5", self.container(name)).stderr
            raise AssertionError(f"{name} is not healthy: {log}") from None

    def stop(self, name: str) -> None:
        self.docker("stop", self.container(name))

    def kill(self, name: str) -> None:
        """Kill the container's first process from outside, as the kernel would: the engine's restart policy has to bring it back.

        Only root can. Otherwise the engine kills it, whose restart policy does not count that as a failure: the container is started here.
        """
        found = self.inspect(name)["State"]
        assert found["Running"], f"{name} does not run"
        if os.geteuid() == 0:
            os.kill(found["Pid"], signal.SIGKILL)
        else:
            self.docker("kill", self.container(name))
            self.docker("start", self.container(name))

    def freeze(self, name: str) -> None:
        self.docker("pause", self.container(name))

    def thaw(self, name: str) -> None:
        self.docker("unpause", self.container(name))

    def logs(self) -> dict[str, bytes]:
        def log(name: str) -> bytes:
            command = ["docker", "logs", self.container(name)]
            return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True).stdout

        return {name: log(name) for service in self._services or BY_NAME for name in (service, f"{service}-db")}

    def staged(self) -> dict[str, bytes]:
        command = ["docker", "cp", f"{self.container('dicom-srm')}:/var/lib/mdm/spool", "-"]
        archive = subprocess.run(command, capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            files = {Path(member.name).name: tar.extractfile(member) for member in tar.getmembers() if member.isfile()}
            return {name: file.read() for name, file in files.items() if file}

    def database(self, service: str) -> str:
        networks = self.inspect(f"{service}-db")["NetworkSettings"]["Networks"]
        name, own = BY_NAME[service].database, self.site / service
        return conninfo.make_conninfo(
            host=f"{service}-db",
            hostaddr=next(iter(networks.values()))["IPAddress"],
            dbname=name,
            user=name,
            password=(own / "database-password").read_text().strip(),
            sslmode="verify-full",
            sslrootcert=str(self.site / "trust" / "ca.crt"),
            sslcert=str(self.site / "ca" / f"{service}.crt"),
            sslkey=str(self.site / "ca" / f"{service}.key"),
        )

    def secret_files(self) -> list[Path]:
        names = ("*.key", "*password", "kek", "site-secret", "orthanc.json")
        return [path for name in names for path in self.site.rglob(name)]

    def container(self, name: str) -> str:
        """Return the id of a service's container, stopped ones included."""
        wanted = (f"label=com.docker.compose.project={self.project}", f"label=com.docker.compose.service={name}")
        filters = [part for value in wanted for part in ("--filter", value)]
        identifier = self.docker("ps", "-aq", *filters).stdout.strip()
        assert identifier, f"{name}: no such container"
        return identifier

    def inspect(self, name: str) -> dict[str, Any]:
        """Return the engine's description of a service's container."""
        found: dict[str, Any] = json.loads(self.docker("inspect", self.container(name)).stdout)[0]
        return found

    def is_healthy(self, name: str) -> bool:
        """Return whether a container serves: a service answers this process, others pass the engine's health check."""
        state = self.inspect(name)["State"]
        if name in BY_NAME:
            operator = self.site / "ca"
            return bool(state["Running"]) and probe.is_serving(
                self.address_of(name), operator / "operator.crt", operator / "operator.key", operator / "ca.crt"
            )
        return bool(state["Running"]) and state.get("Health", {}).get("Status") == "healthy"

    def compose(self, *arguments: str, timeout: float = 120, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run Compose on the site."""
        return self.run(ROOT / "deploy" / "compose", str(self.site), *arguments, timeout=timeout, check=check)

    def docker(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the docker command."""
        return self.run("docker", *arguments, check=check)

    def mdm_site(self, command: str, *arguments: str) -> str:
        """Run `mdm-site` and return what it printed."""
        return self.run(BIN / "mdm-site", command, "--site", str(self.site), *arguments).stdout

    def run(
        self, *command: str | Path, timeout: float = 120, check: bool = True, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command; one that fails fails the test with what it printed."""
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=timeout, check=False, input=stdin)
        assert done.returncode == 0 or not check, f"{command}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done

    @cached_property
    def description(self) -> dict[str, Any]:
        """What `mdm-site show` prints."""
        found: dict[str, Any] = json.loads(self.mdm_site("show"))
        return found
