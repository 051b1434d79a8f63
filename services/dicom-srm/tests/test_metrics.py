"""Metrics of several workers, which their parent adds up from files."""

import os
import subprocess
import sys

import pytest
from mdm_service.process.supervisor import METRICS_VARIABLE
from mdm_service.server.monitoring import registry_of_workers
from mdm_testing.process import eventually
from prometheus_client import generate_latest
from prometheus_client.multiprocess import mark_process_dead

pytestmark = pytest.mark.integration

WORKER = """
import sys
from mdm_dicom_srm import metrics
metrics._PAUSE_SECONDS = 0.05
answers = iter([{"PUBLISHED": 3, "FAILED": 1}, RuntimeError("database away"), {"PUBLISHED": 4}])
last = {"PUBLISHED": 5}
def summary():
    answer = next(answers, last)
    if isinstance(answer, Exception):
        raise answer
    return answer
stop = metrics.watch_registrations(["PUBLISHED", "FAILED"], summary)
metrics.note_spool(100, int(sys.argv[1]), 0)
sys.stdin.read()
stop()
"""


def test_the_counts_of_one_worker_are_the_sites_and_a_dead_workers_are_forgotten(tmp_path):
    def start(stored: int) -> subprocess.Popen[bytes]:
        environment = {**os.environ, METRICS_VARIABLE: str(tmp_path)}
        return subprocess.Popen([sys.executable, "-c", WORKER, str(stored)], stdin=subprocess.PIPE, env=environment)

    def text() -> str:
        return generate_latest(registry_of_workers(tmp_path)).decode()

    with start(7) as first:
        eventually(lambda: 'mdm_registrations{state="PUBLISHED"} 5.0' in text())
        assert 'mdm_registrations{state="FAILED"} 0.0' in text()
        first.kill()
    mark_process_dead(first.pid, str(tmp_path))
    assert "mdm_registrations{" not in text()
    with start(8) as second:
        eventually(lambda: 'mdm_spool_bytes{kind="stored"} 8.0' in text())
        second.stdin.close()
