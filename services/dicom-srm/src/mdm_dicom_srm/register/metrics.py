"""Prometheus metrics of registration, counted in the database when they are asked for."""

import logging
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from mdm_dicom_srm.register.rules.model import State

_log = logging.getLogger(__name__)


class _Registrations(Collector):
    def __init__(self, summary: Callable[[], Mapping[State, int]]) -> None:
        self._summary = summary

    def describe(self) -> list[GaugeMetricFamily]:
        return [self._family()]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = self._family()
        try:
            counts = self._summary()
        except Exception as error:
            _log.warning("registrations cannot be counted", extra={"error": type(error).__name__})
            return
        for state in State:
            family.add_metric([str(state)], counts.get(state, 0))
        yield family

    @staticmethod
    def _family() -> GaugeMetricFamily:
        return GaugeMetricFamily("mdm_registrations", "Instances known to registration, by state.", labels=["state"])


def watch_registrations(summary: Callable[[], Mapping[State, int]]) -> Callable[[], None]:
    """Report how many registrations are in each state; returns how to end it."""
    collector = _Registrations(summary)
    REGISTRY.register(collector)
    return lambda: REGISTRY.unregister(collector)
