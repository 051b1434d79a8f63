"""Prometheus metrics of registration, staging and the door."""

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from mdm_service.process.supervisor import METRICS_VARIABLE
from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

_log = logging.getLogger(__name__)
REFUSED = Counter("mdm_scp_refused_total", "Instances that the Storage SCP refused, by reason.", ("reason",))
STAGED_FILES = Counter("mdm_stage_files_total", "Files that left the staging engine, by outcome: STAGED or the SRM state.", ("outcome",))
STAGED_BYTES = Counter("mdm_stage_bytes_total", "Bytes of ciphertext staged.")
RETRIEVAL_SECONDS = Histogram(
    "mdm_stage_retrieval_seconds",
    "Time of one retrieval from the PACS with de-identification and encryption.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
DOOR_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "PROPFIND", "POST", "PUT", "DELETE"})
DOOR_REQUESTS = Counter("mdm_door_requests_total", "Requests to the HTTPS door, by method and status.", ("method", "status"))
DOOR_BYTES = Counter("mdm_door_bytes_total", "Bytes of ciphertext that the HTTPS door has sent.")
_SPOOL = Gauge("mdm_spool_bytes", "Bytes of the spool, by kind.", ("kind",), multiprocess_mode="livesum")


def note_spool(quota: int, stored: int, pinned: int) -> None:
    """Report how full the spool is, in bytes."""
    for kind, size in (("quota", quota), ("stored", stored), ("pinned", pinned)):
        _SPOOL.labels(kind).set(size)


_NAME, _HELP = "mdm_registrations", "Instances known to registration, by state."
# How old the counts of several workers may be.
_PAUSE_SECONDS = 10.0


class _Registrations(Collector):
    """Counted in the database whenever the metrics are read."""

    def __init__(self, states: Sequence[str], count: Callable[[], Mapping[str, int] | None]) -> None:
        self._states = states
        self._count = count

    def describe(self) -> list[GaugeMetricFamily]:
        return [self._family()]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family, counts = self._family(), self._count()
        if counts is None:
            return
        for state in self._states:
            family.add_metric([state], counts.get(state, 0))
        yield family

    @staticmethod
    def _family() -> GaugeMetricFamily:
        return GaugeMetricFamily(_NAME, _HELP, labels=["state"])


def watch_registrations(states: Iterable[str], summary: Callable[[], Mapping[str, int]]) -> Callable[[], None]:
    """Report how many registrations are in each of `states`; return a function that ends it.

    A process that serves alone counts whenever its metrics are read. Of several workers, whose metrics their parent adds up from files,
    one is to call this: it counts every ten seconds.
    """
    names = [str(state) for state in states]

    def count() -> Mapping[str, int] | None:
        try:
            return summary()
        except Exception as error:
            _log.warning("registrations cannot be counted", extra={"error": type(error).__name__})
            return None

    if METRICS_VARIABLE in os.environ:
        return _count_again_and_again(names, count)
    collector = _Registrations(names, count)
    REGISTRY.register(collector)
    return lambda: REGISTRY.unregister(collector)


def _count_again_and_again(states: Sequence[str], count: Callable[[], Mapping[str, int] | None]) -> Callable[[], None]:
    gauge = Gauge(_NAME, _HELP, ("state",), multiprocess_mode="livemostrecent")

    def report() -> None:
        counts = count()
        for state in states if counts is not None else ():
            gauge.labels(state).set(counts.get(state, 0) if counts else 0)

    return _repeat(report, "count-registrations", gauge)


def watch_inspections(waiting: Callable[[], tuple[int, float]]) -> Callable[[], None]:
    """Report every ten seconds how many inspections wait and since when the first is due, in seconds; return a function that ends it."""
    count = Gauge("mdm_inspections_waiting", "Studies that wait to be compared with the PACS.", multiprocess_mode="livemostrecent")
    overdue = Gauge("mdm_inspections_overdue_seconds", "For how long the first of them is due.", multiprocess_mode="livemostrecent")

    def report() -> None:
        try:
            found, seconds = waiting()
        except Exception as error:
            _log.warning("inspections cannot be counted", extra={"error": type(error).__name__})
            return
        count.set(found)
        overdue.set(seconds)

    return _repeat(report, "count-inspections", count, overdue)


def _repeat(report: Callable[[], None], name: str, *gauges: Gauge) -> Callable[[], None]:
    """Report now and every ten seconds; return a function that ends it."""
    stopped = threading.Event()

    def work() -> None:
        report()
        while not stopped.wait(_PAUSE_SECONDS):
            report()

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()

    def stop() -> None:
        stopped.set()
        thread.join()
        for gauge in gauges:
            REGISTRY.unregister(gauge)

    return stop
