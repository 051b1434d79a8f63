"""Background processes are recognised by pid and start time, and nothing else is ever signalled."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mdm_local import process
from mdm_local.process import ProcessRecord
from mdm_site.site import SiteError
from mdm_testing.process import eventually

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"

POLITE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("bye", flush=True), sys.exit()))
print("ready", flush=True)
time.sleep(60)
"""


def spawn(tmp_path: Path, code: str) -> ProcessRecord:
    return process.spawn([sys.executable, "-c", code], tmp_path / "log", {"PATH": os.environ["PATH"]})


def wait_for(path: Path, text: str) -> None:
    eventually(lambda: path.exists() and text in path.read_text())


def test_a_spawned_process_runs_on_its_own_with_its_output_in_the_log(tmp_path):
    record = spawn(
        tmp_path, "import os, sys, time; print(os.getsid(0), flush=True); print('err', file=sys.stderr, flush=True); time.sleep(60)"
    )
    try:
        wait_for(tmp_path / "log", "err")
        assert record.is_running()
        assert str(record.pid) in (tmp_path / "log").read_text(), "it leads a session of its own"
        assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600
    finally:
        process.kill(record)


def test_ending_is_graceful_first(tmp_path):
    record = spawn(tmp_path, POLITE)
    wait_for(tmp_path / "log", "ready")
    assert process.end([record], grace=10) == []
    assert not record.is_running()
    assert "bye" in (tmp_path / "log").read_text()


def test_a_process_that_ignores_sigterm_is_killed_after_the_grace(tmp_path):
    record = spawn(tmp_path, STUBBORN)
    wait_for(tmp_path / "log", "ready")
    assert process.end([record], grace=0.3) == [record]
    assert not record.is_running()


def test_a_recycled_pid_is_not_taken_for_the_process_and_never_signalled():
    innocent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        true = ProcessRecord.of(innocent.pid)
        assert true is not None
        for stale in (dataclasses.replace(true, started=true.started - 1), dataclasses.replace(true, boot="another boot")):
            assert not stale.is_running()
            assert process.end([stale], grace=1) == []
            process.kill(stale)
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


def test_a_zombie_does_not_run(tmp_path):
    record = spawn(tmp_path, "import time; time.sleep(60)")
    os.kill(record.pid, signal.SIGKILL)
    eventually(lambda: not record.is_running())


def test_a_program_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(SiteError, match="no-such-program"):
        process.spawn([tmp_path / "no-such-program"], tmp_path / "log", {})
