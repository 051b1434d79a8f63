"""Calls a second that ask for nothing, over mutual TLS, from several client processes to one and to several workers; a table in Markdown.

Clients run on the same machine, so the CPU time of both ends is given beside: what the service used of one core, and for each call.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

from mdm.srm.v1 import srm_pb2, srm_pb2_grpc
from mdm_site.pki import DevelopmentCa
from mdm_testing import machine
from mdm_testing.server import Identity, WorkersProcess, channel, serve_by_workers

PROGRAM = [sys.executable, str(Path(__file__).parents[1] / "libs/service/tests/worker_program.py")]
_TICKS = os.sysconf("SC_CLK_TCK")


def call(address: str, identity: Identity, threads: int, seconds: float, begin: Barrier, results: "Queue[tuple[int, float]]") -> None:
    """Call as often as possible on a connection of its own for each thread; put the number of calls and the CPU seconds they took."""
    counts = [0] * threads

    def run(number: int) -> None:
        with channel(address, identity) as opened:
            stub, request = srm_pb2_grpc.SrmServiceStub(opened), srm_pb2.PingRequest()
            stub.Ping(request, timeout=10)
            begin.wait()
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                stub.Ping(request, timeout=10)
                counts[number] += 1

    callers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for caller in callers:
        caller.start()
    begin.wait()
    began = time.process_time()
    for caller in callers:
        caller.join()
    results.put((sum(counts), time.process_time() - began))


def cpu_seconds(served: WorkersProcess) -> float:
    """Return the CPU time that all workers have used."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in served.pids]
    return sum(int(field[11]) + int(field[12]) for field in fields) / _TICKS


def measure(configuration: Path, identity: Identity, workers: int, clients: int, threads: int, seconds: float) -> None:
    """Measure one number of workers and print its row."""
    spawn = multiprocessing.get_context("spawn")
    with serve_by_workers(PROGRAM, configuration, workers) as served:
        results: Queue[tuple[int, float]] = spawn.Queue()
        begin = spawn.Barrier(clients * (threads + 1) + 1)
        arguments = (served.address, identity, threads, seconds, begin, results)
        calling = [spawn.Process(target=call, args=arguments) for _ in range(clients)]
        for process in calling:
            process.start()
        begin.wait()
        before = cpu_seconds(served)
        found = [results.get() for _ in calling]
        used = cpu_seconds(served) - before
        for process in calling:
            process.join()
    calls, client_used = sum(count for count, _ in found), sum(cpu for _, cpu in found)
    cells = (workers, clients * threads, f"{calls / seconds:,.0f}", f"{used / seconds:.2f}", f"{used / calls * 1e6:.0f}")
    print("|", " | ".join(map(str, cells)), f"| {client_used / calls * 1e6:.0f} |", flush=True)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 1, 2])
    parser.add_argument("--clients", type=int, default=4, help="client processes")
    parser.add_argument("--threads", type=int, default=4, help="callers in each, one connection each")
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    print(f"{machine.state()}; a call on each connection to warm up, {arguments.seconds:.0f} s each\n")
    print("| workers | connections | calls/s | cores used by the service | its CPU µs a call | clients' CPU µs a call |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        ca = DevelopmentCa(Path(folder))
        own = ca.issue(ca.subject("server"))
        configuration = Path(folder) / "service.toml"
        configuration.write_text(
            f'[listen]\nport = 0\n[tls]\ncertificate = "{own.certificate}"\nkey = "{own.key}"\nca = "{own.ca}"\n'
            f'[[trust.ca]]\ncertificate = "{own.ca}"\nnamespaces = ["{ca.namespace}"]\n[log]\nlevel = "INFO"\n'
        )
        for workers in arguments.workers:
            measure(configuration, ca.issue(ca.subject("alice")), workers, arguments.clients, arguments.threads, arguments.seconds)
    print(f"\nload {machine.load()} at the end")


if __name__ == "__main__":
    main()
