"""How each component's program is called."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from mdm_site.error import SiteError
from mdm_site.file import write_file
from mdm_site.orthanc import Orthanc
from mdm_site.service import BY_NAME

from mdm_local.component import FORWARDER, PACS, PACS_HTTP, SCP
from mdm_local.configuration import HOST
from mdm_local.layout import Layout
from mdm_local.pacs.kind import ARCHIVE, CALLING_AE_TITLES, Pacs, find_dicomweb_plugin, find_orthanc

_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "USER", "LOGNAME", "SSL_CERT_FILE", "COVERAGE_PROCESS_START")


class Launcher:
    """Commands and environment of one stack's components."""

    def __init__(self, layout: Layout, ports: Mapping[str, int], pacs: Pacs) -> None:
        self._layout, self._ports, self._pacs = layout, ports, pacs

    def environment(self) -> dict[str, str]:
        """Return a small environment: no setting of the user's shell reaches a service by accident."""
        kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        return {**kept, "PYTHONUNBUFFERED": "1", "no_proxy": "*"}

    def command(self, name: str) -> list[str | Path]:
        """Return the command of a component, having written what it needs besides its configuration."""
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
            raise SiteError("Orthanc is no longer installed; install it, or `mdm-local down --purge` and start afresh")
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
        program = [sys.executable, "-m", "mdm_forwarder", "--url", self._pacs.http]
        return [*program, "--password-file", self._layout.secret("pacs-password"), "--queue", self._layout.forward_queue]

    def _archive(self) -> list[str | Path]:
        program: list[str | Path] = [sys.executable, "-m", "mdm_local.pacs.archive", "--directory", self._layout.pacs]
        return [*program, "--ae-title", self._pacs.ae_title, "--port", str(self._pacs.port), "--destination-port", str(self._ports[SCP])]
