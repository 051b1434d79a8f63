"""The programs of a stack: their commands and their health."""

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from mdm_service.server import probe
from mdm_site.file import write_file
from mdm_site.pacs import Orthanc
from mdm_site.site import SiteError

from mdm_local.layout import BY_NAME, FORWARDER, HOST, PACS, PACS_HTTP, SCP, Layout
from mdm_local.pacs.kind import ARCHIVE, CALLING_AE_TITLES, LOCAL_AE_TITLE, VERIFICATION, StackPacs, find_dicomweb_plugin, find_orthanc

SERVING, NOT_SERVING, DOWN = "serving", "not serving", "down"
_HEALTHY_CODE = 0x0000
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "USER", "LOGNAME", "SSL_CERT_FILE", "COVERAGE_PROCESS_START")


class Launcher:
    """Commands and environment of one stack's components."""

    def __init__(self, layout: Layout, ports: Mapping[str, int], pacs: StackPacs) -> None:
        self._layout, self._ports, self._pacs = layout, ports, pacs

    def environment(self) -> dict[str, str]:
        """Return a minimal environment, so that no setting of the user's shell affects a service."""
        kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        return {**kept, "PYTHONUNBUFFERED": "1", "no_proxy": "*"}

    def command(self, name: str) -> list[str | Path]:
        """Return the command of a component; for Orthanc, also write its configuration file."""
        service = BY_NAME.get(name)
        if service is not None:
            return [sys.executable, "-m", service.module, "serve", "--config", self._layout.config(service.name)]
        if name == FORWARDER:
            return self._forwarder()
        if name == PACS:
            return self._archive() if self._pacs.kind == ARCHIVE else self._orthanc()
        raise SiteError(f"{name}: has no command")

    def _orthanc(self) -> list[str | Path]:
        program = find_orthanc()
        if program is None:
            raise SiteError("Orthanc is no longer installed: install it, or run `mdm-local down --purge` and start again")
        directory = self._layout.pacs
        file = directory / "orthanc.json"
        password = self._layout.secret("pacs-password").read_text().strip()
        orthanc = Orthanc(
            ae_title=self._pacs.ae_title,
            port=self._pacs.port,
            http_port=self._ports[PACS_HTTP],
            storage=directory / "storage",
            password=password,
            peer=(HOST, self._ports[SCP]),
            callers=CALLING_AE_TITLES,
            plugin=find_dicomweb_plugin(),
        )
        write_file(file, orthanc.configuration().encode(), private=True)
        return [program, file]

    def _forwarder(self) -> list[str | Path]:
        program: list[str | Path] = [sys.executable, "-m", "mdm_forwarder", "--url", self._pacs.http]
        files = {"--password-file": self._layout.secret("pacs-password"), "--queue": self._layout.forward_queue}
        return [*program, *(part for option in files.items() for part in option), "--status", self._layout.forward_status]

    def _archive(self) -> list[str | Path]:
        program: list[str | Path] = [sys.executable, "-m", "mdm_local.pacs.archive", "--directory", self._layout.pacs]
        return [*program, "--ae-title", self._pacs.ae_title, "--port", str(self._pacs.port), "--destination-port", str(self._ports[SCP])]


def health_of_service(layout: Layout, address: str, timeout: float = 2.0) -> str:
    """Return a service's gRPC health, asked over mutual TLS as the operator."""
    certificate, key, ca = (layout.pki / name for name in ("operator.crt", "operator.key", "ca.crt"))
    return SERVING if probe.is_serving(address, certificate, key, ca, timeout) else NOT_SERVING


def health_of_pacs(pacs: StackPacs, timeout: float = 3.0) -> str:
    """Return whether the PACS answers C-ECHO."""
    if not _is_listening(pacs.host, pacs.port):  # asked first, as pynetdicom leaks the socket of a refused connection
        return NOT_SERVING
    from pynetdicom import AE  # imported here, as it takes a second that most commands need not wait

    ae = AE(LOCAL_AE_TITLE)
    ae.add_requested_context(VERIFICATION)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = timeout
    association = ae.associate(pacs.host, pacs.port, ae_title=pacs.ae_title)
    if not association.is_established:
        return NOT_SERVING
    try:
        status = association.send_c_echo()
    finally:
        association.release()
    return SERVING if "Status" in status and int(status.Status) == _HEALTHY_CODE else NOT_SERVING


def _is_listening(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), 1.0):
            return True
    except OSError:
        return False
