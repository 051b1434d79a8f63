"""The machine that measured: what a number is worth nothing without."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path


def state() -> str:
    """Return one line: day, processors and their model, load of the last minute and processes ready now, kernel, Python."""
    model = next((line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    ready = _lines("/proc/loadavg")[0].split()[3].partition("/")[0]
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} × {model}, load {os.getloadavg()[0]:.1f}, {ready} ready to run, "
        f"Linux {platform.release()}, Python {platform.python_version()}"
    )


def load() -> str:
    """Return the load of the last minute."""
    return f"{os.getloadavg()[0]:.1f}"


def versions(packages: Sequence[str] = (), programs: Sequence[Sequence[str]] = ()) -> str:
    """Return names and versions of installed Python packages, and the first line that each program's command writes."""
    found = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    for command in programs:
        written = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = (written.stdout or written.stderr).strip().splitlines()
        found.append(f"{Path(command[0]).name}: {lines[0] if lines else 'says no version'}")
    return ", ".join(found)


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def busy_seconds() -> float:
    """Return the seconds that all processors have worked since the machine started, added up."""
    user, nice, system, _, _, irq, softirq, *_ = (int(field) for field in _lines("/proc/stat")[0].split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
