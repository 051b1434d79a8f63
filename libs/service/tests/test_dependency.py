"""Health tells which dependency is away; the service itself stays healthy, so that nothing restarts it for another's fault."""

import threading

import pytest
from mdm_service.server import probe
from mdm_service.server.monitoring import DependencyWatch
from mdm_testing.process import eventually
from mdm_testing.server import serve_in_process
from mdm_wire.errors import Unavailable
from prometheus_client import REGISTRY


class Pacs:
    def __init__(self) -> None:
        self.away = False
        self.asked = 0

    def ping(self) -> None:
        self.asked += 1
        if self.away:
            raise Unavailable("PACS_UNAVAILABLE", "away")


def test_a_dependency_goes_and_comes_back_while_the_service_serves(pki, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    pacs, files = Pacs(), pki.issue(pki.subject("operator"))
    with serve_in_process(pki.issue(pki.subject("served")), lambda server, _: None, namespaces=(pki.namespace,)) as served:
        watch = DependencyWatch("pacs", pacs.ping, served.server.set_health, seconds=0.05)

        def healthy(service: str) -> bool:
            return probe.is_serving(served.address, files.certificate, files.key, files.ca, 2, service)

        watch.start()
        eventually(lambda: healthy("pacs"))
        pacs.away = True
        eventually(lambda: not healthy("pacs"))
        assert healthy("")
        assert REGISTRY.get_sample_value("mdm_dependency_up", {"dependency": "pacs"}) == 0
        pacs.away = False
        eventually(lambda: healthy("pacs"))
        assert not healthy("no-such-dependency")
        watch.stop()
    told = [(record.message, record.dependency) for record in caplog.records if hasattr(record, "dependency")]
    assert told == [("a dependency does not answer", "pacs"), ("a dependency answers again", "pacs")]


def test_a_dependency_that_never_answered_counts_as_away_and_does_not_hold_up_the_end() -> None:
    release, told = threading.Event(), list[tuple[str, bool]]()
    watch = DependencyWatch("hung", lambda: release.wait(30), lambda name, up: told.append((name, up)), seconds=0.05)
    watch.start()
    watch.stop()
    assert told == [("hung", False)]
    release.set()
