"""`mdm view` and `mdm desk` as processes."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from mdm_client.view import ohif

from mdm_testing.browser import PROGRAM
from mdm_testing.process import BIN
from mdm_testing.stack import Stack


@dataclass(frozen=True)
class Running:
    """A viewer that runs: the address for a browser, and a client that has the token."""

    address: str
    root: str
    http: httpx.Client
    process: subprocess.Popen[str]

    @property
    def origin(self) -> str:
        return self.root.removesuffix("/dicom-web")

    def studies(self, **asked: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.http.get(f"{self.root}/studies", params=asked).json()
        return found


@contextmanager
def viewer(stack: Stack, user: str, home: Path, *arguments: str, config: Path | None = None) -> Iterator[Running]:
    """`mdm view`, with the user's configuration at the stack or another one."""
    with _served("view", config or stack.client_config(user), home, arguments) as (process, started, http):
        yield Running(started["address"], started["dicom_web"], http, process)


@contextmanager
def desk(config: Path, home: Path, *arguments: str) -> Iterator[Running]:
    """`mdm desk`; its root is its origin."""
    with _served("desk", config, home, arguments) as (process, started, http):
        yield Running(started["address"], started["address"].partition("/enter")[0], http, process)


@contextmanager
def _served(
    command: str, config: Path, home: Path, arguments: tuple[str, ...]
) -> Iterator[tuple[subprocess.Popen[str], dict[str, str], httpx.Client]]:
    line_of = [str(BIN / "mdm"), "--config", str(config), command, "--no-browser", "--json", *arguments]
    kept = {name: os.environ[name] for name in ("MDM_VIEWER_DIR", "XDG_CACHE_HOME") if name in os.environ}
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", "MDM_VIEWER_DIR": str(viewer_folder().parent), **kept}
    process = subprocess.Popen(line_of, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate(timeout=30)[1]
        started = json.loads(line)
        with httpx.Client(headers={"Authorization": f"Bearer {started['token']}"}, timeout=60) as http:
            yield process, started, http
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


def viewer_folder() -> Path:
    return ohif.default_folder()


def need_viewer() -> None:
    """See to it that OHIF and a browser are there; without them the test is skipped, or fails where everything is required."""
    need_browser()
    if not ohif.is_installed(viewer_folder()):
        if shutil.which("npm") is None:
            _missing("OHIF is not installed, nor npm to fetch it")
        ohif.install(viewer_folder())


def need_browser() -> None:
    """Skip the test without a browser, or let it fail where everything is required."""
    if PROGRAM is None:
        _missing("chromium is not installed")


def _missing(why: str) -> None:
    if os.environ.get("MDM_REQUIRE_ALL") == "1":
        pytest.fail(f"{why}; everything is required here (MDM_REQUIRE_ALL=1)")
    pytest.skip(why)


#: In the page: how many different greys the viewer's canvas shows, and a sum over it that tells pictures apart.
DRAWN = """(() => { const c = document.querySelector('canvas.cornerstone-canvas'); if (!c || !c.width) return {greys: 0, sum: 0};
    const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; const seen = new Set(); let sum = 0;
    for (let i = 0; i < d.length; i += 4) { seen.add(d[i]); sum = (sum * 31 + d[i] + d[i + 1] * 3) % 2147483647; }
    return {greys: seen.size, sum}; })()"""
#: In the page: whether something in colour is drawn over the image, on the canvas or as lines above it.
COLOURED = """(() => { if ([...document.querySelectorAll('svg.svg-layer path, svg.svg-layer polyline')].length > 0) return true;
    return [...document.querySelectorAll('canvas.cornerstone-canvas')].some((c) => { if (!c.width) return false;
    const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0;
    for (let i = 0; i < d.length; i += 4) if (Math.abs(d[i] - d[i + 1]) > 20 || Math.abs(d[i + 1] - d[i + 2]) > 20) n++;
    return n > 500; }); })()"""


def thumbnail_of(modality: str) -> str:
    """Return the script of the entry of a modality in OHIF's list of series; undefined while it is not there."""
    return f"[...document.querySelectorAll('[data-cy^=study-browser-thumbnail]')].find((item) => item.textContent.includes('{modality}'))"
