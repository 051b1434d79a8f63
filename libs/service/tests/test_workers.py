"""Several processes on one port: who answers, who is replaced, how all end. Every test runs the real program."""

import http.client
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from mdm.srm.v1 import srm_pb2, srm_pb2_grpc
from mdm_service.process import supervisor
from mdm_service.process.supervisor import reserve
from mdm_service.settings import Address, ConfigurationError
from mdm_testing.process import eventually, free_port
from mdm_testing.server import WorkersProcess, channel, serve_by_workers
from prometheus_client import CollectorRegistry

pytestmark = pytest.mark.integration
PROGRAM = [sys.executable, str(Path(__file__).parent / "worker_program.py")]
CONFIGURATION = """
{more}
[listen]
port = {port}
[metrics]
port = {metrics}
[tls]
certificate = "{files.certificate}"
key = "{files.key}"
ca = "{files.ca}"
[[trust.ca]]
certificate = "{files.ca}"
namespaces = ["{namespace}"]
[roles]
monitor = ["{monitor}"]
"""


@pytest.fixture
def configure(tmp_path, pki) -> Callable[..., Path]:
    def write(more: str = "", port: int = 0, metrics: int = 0) -> Path:
        files = pki.issue(pki.subject("worked"))
        written = CONFIGURATION.format(
            more=more, port=port, metrics=metrics, files=files, namespace=pki.namespace, monitor=pki.subject("monitor")
        )
        file = tmp_path / "service.toml"
        file.write_text(written)
        return file

    return write


@pytest.fixture
def alice(pki):
    return pki.issue(pki.subject("alice"))


def answerer(address: str, identity) -> int:
    """Return the process that answers on a connection of its own."""
    with channel(address, identity) as opened:
        return int(srm_pb2_grpc.SrmServiceStub(opened).Ping(srm_pb2.PingRequest(), timeout=10).version)


def answerers(served: WorkersProcess, identity, expected: int) -> Counter[int]:
    """Return which process answered how often, until as many as expected have."""
    found: Counter[int] = Counter()
    for _ in range(100):
        found[answerer(served.address, identity)] += 1
        if len(found) == expected:
            return found
    raise AssertionError(f"only {found}")


def has_ended(pid: int) -> bool:
    """Return whether a process has ended, or waits only for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def metrics(port: int, pki) -> str:
    context = ssl.create_default_context(cafile=str(pki.certificate_file))
    files = pki.issue(pki.subject("monitor"))
    context.load_cert_chain(files.certificate, files.key)
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=5)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def test_every_worker_answers_on_the_one_port(configure, alice):
    with serve_by_workers(PROGRAM, configure(), 3) as served:
        assert set(answerers(served, alice, 3)) == set(served.pids)
        assert served.process.pid not in served.pids


def test_a_killed_worker_is_replaced_while_calls_go_on(configure, alice, pki):
    port = free_port()
    with serve_by_workers(PROGRAM, configure(metrics=port), 2) as served:
        answered, done = Counter(), threading.Event()

        def call() -> None:
            while not done.is_set():
                with channel(served.address, alice) as opened:
                    try:
                        answered[srm_pb2_grpc.SrmServiceStub(opened).Ping(srm_pb2.PingRequest(), timeout=10).version] += 1
                    except grpc.RpcError as error:
                        assert error.code() is grpc.StatusCode.UNAVAILABLE  # what a client calls again for
                        answered["again"] += 1

        caller = threading.Thread(target=call)
        caller.start()
        try:
            killed = served.pids[1]
            os.kill(killed, signal.SIGKILL)
            served.wait_for(3)
            eventually(lambda: str(served.pids[2]) in answered)
        finally:
            done.set()
            caller.join()
        assert has_ended(killed)
        assert not has_ended(served.pids[0])
        assert answered["again"] < sum(answered.values()) / 2
        text = metrics(port, pki)
        assert "mdm_worker_starts_total 3.0" in text
        assert "mdm_workers 2.0" in text


def test_sigterm_lets_calls_finish_and_ends_everyone(configure, alice):
    with serve_by_workers(PROGRAM, configure(), 2) as served, channel(served.address, alice) as opened:
        call = srm_pb2_grpc.SrmServiceStub(opened).PrepareToGet.future(srm_pb2.PrepareToGetRequest(pin_seconds=2), timeout=20)
        time.sleep(0.5)
        served.process.terminate()
        assert int(call.result().token) in served.pids
        assert served.process.wait(20) == 0
        assert all(has_ended(pid) for pid in served.pids)
        assert "Traceback" not in served.said


def test_workers_do_not_outlive_a_supervisor_that_is_killed(configure, alice):
    with serve_by_workers(PROGRAM, configure(), 2) as served, channel(served.address, alice) as opened:
        srm_pb2_grpc.SrmServiceStub(opened).PrepareToGet.future(srm_pb2.PrepareToGetRequest(pin_seconds=60), timeout=60)
        time.sleep(0.3)
        numbers = Path(served_metrics(served.pids[0]))
        assert numbers.is_dir()
        served.process.kill()
        eventually(lambda: all(has_ended(pid) for pid in served.pids))
        assert not numbers.exists()


def served_metrics(pid: int) -> str:
    variables = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return next(value for name, _, value in (item.partition("=") for item in variables) if name == "PROMETHEUS_MULTIPROC_DIR")


def test_a_configuration_error_is_told_once(configure):
    done = subprocess.run(
        [*PROGRAM, "serve", "--workers", "3", "--config", configure("broken = true")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("broken: this cannot be used") == 1
    assert "Traceback" not in done.stderr


def test_a_configuration_that_is_broken_meanwhile_costs_a_replacement_and_not_the_service(configure, alice):
    file = configure()
    with serve_by_workers(PROGRAM, file, 2) as served:
        configure("broken = true")
        os.kill(served.pids[0], signal.SIGKILL)
        eventually(lambda: served.said.count("broken: this cannot be used") >= 2)
        for _ in range(5):
            assert answerer(served.address, alice) == served.pids[1]
        configure()
        served.wait_for(3)


@pytest.mark.parametrize(("death", "code"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 1)])
def test_workers_that_die_as_soon_as_they_serve_are_given_up(tmp_path, monkeypatch, death, code):
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 0.01)
    script = f"import os, sys; os.write(int(sys.argv[-1].split(':')[2]), b'r'); {death}"
    registry = CollectorRegistry()
    assert supervisor.Supervisor([sys.executable, "-c", script], 2, 1, tmp_path, registry).run() == code
    assert supervisor.MOST_FAILURES <= registry.get_sample_value("mdm_worker_starts_total") <= supervisor.MOST_FAILURES + 2


def test_a_port_of_a_stranger_is_refused_even_if_that_one_would_share_it():
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        with pytest.raises(ConfigurationError, match="cannot listen"):
            reserve(Address(port=stranger.getsockname()[1]))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_for_metrics_that_is_taken_is_told_in_one_line(configure, workers):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        file = configure(metrics=taken.getsockname()[1])
        command = [*PROGRAM, "serve", "--workers", workers, "--config", file]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "metrics: cannot listen" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_service_on_the_port_is_refused(configure, alice, workers):
    with serve_by_workers(PROGRAM, configure(), 2) as served:
        taken = int(served.address.rpartition(":")[2])
        command = [*PROGRAM, "serve", "--workers", str(workers), "--config", configure(port=taken)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1
        assert f"cannot listen on 127.0.0.1:{taken}" in done.stderr
        assert set(answerers(served, alice, 2)) == set(served.pids)


def test_a_port_that_is_only_reserved_is_taken_already_and_free_again_afterwards():
    first = reserve(Address(port=0))
    with pytest.raises(ConfigurationError, match="cannot listen"):
        reserve(Address(port=first.port))
    first.close()
    reserve(Address(port=first.port)).close()


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "localhost"])
def test_the_usual_hosts_can_be_reserved(host):
    kept = reserve(Address(host=host, port=0))
    with pytest.raises(ConfigurationError, match="cannot listen"):
        reserve(Address(host=host, port=kept.port))
    kept.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "localhost"])
def test_workers_serve_on_every_kind_of_host(configure, alice, host):
    file = configure()
    file.write_text(file.read_text().replace("[listen]", f'[listen]\nhost = "{host}"'))
    with serve_by_workers(PROGRAM, file, 2) as served:
        assert set(answerers(served, alice, 2)) == set(served.pids)


def test_metrics_are_the_sum_over_workers_and_over_those_that_died(configure, alice, pki):
    port = free_port()
    with serve_by_workers(PROGRAM, configure(metrics=port), 2) as served:
        calls = sum(answerers(served, alice, 2).values())
        os.kill(served.pids[0], signal.SIGKILL)
        served.wait_for(3)
        text = metrics(port, pki)
        assert f'mdm_rpc_calls_total{{code="OK",method="/mdm.srm.v1.SrmService/Ping"}} {calls}.0' in text
        assert f'mdm_rpc_seconds_count{{method="/mdm.srm.v1.SrmService/Ping"}} {calls}.0' in text


def test_one_worker_is_the_process_itself(configure, alice):
    with serve_by_workers(PROGRAM, configure(), 1) as served:
        assert answerer(served.address, alice) == served.process.pid
        served.process.terminate()
        assert served.process.wait(20) == 0


def test_check_config_says_what_several_workers_come_to(configure):
    command = [*PROGRAM, "check-config", "--config", configure("workers = 3\nthreads = 10")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "mdm-catalog: 3 workers: at most 30 calls at a time\n"


@pytest.mark.parametrize("count", ["0", "257", "two"])
def test_a_number_of_workers_that_makes_no_sense_is_refused(configure, count):
    command = [*PROGRAM, "serve", "--config", configure(), "--workers", count]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "needs a number from 1 to 256" in done.stderr
