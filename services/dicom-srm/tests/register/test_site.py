"""A site as its operators see it: states, reasons, dependencies, policy, on a real database."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mdm.srm.v1 import registration_pb2
from mdm.srm.v1 import site_pb2 as pb
from mdm_dicom_srm.oversight.rpc.site import SiteServicer
from mdm_dicom_srm.oversight.rules.site import Dependencies, SiteService, SpoolStatus
from mdm_dicom_srm.oversight.store.forwarder import ForwarderFile
from mdm_dicom_srm.oversight.store.site import SiteStore
from mdm_dicom_srm.register.rpc.servicer import RegistrationServicer
from mdm_wire.errors import Invalid, Unavailable

from .conftest import Site, guid_of, header

pytestmark = pytest.mark.integration


@pytest.fixture
def report(tmp_path: Path) -> Path:
    return tmp_path / "status.json"


@pytest.fixture
def make_servicer(site: Site, report: Path) -> Iterator[Callable[..., SiteServicer]]:
    opened: list[Dependencies] = []

    def make(**asks: Callable[[], object]) -> SiteServicer:
        opened.append(Dependencies(asks, 0.3))
        spool = SpoolStatus(quota=100, stored=40, pinned=30, files=2)
        return SiteServicer(
            SiteService(SiteStore(site.pool), opened[-1], lambda: spool, {"deid.profile": "basic"}, ForwarderFile(report).status),
            "hospital-a",
        )

    yield make
    for dependencies in opened:
        dependencies.close()


def test_states_are_counted_with_their_ages(site: Site, make_servicer: Callable[..., SiteServicer]) -> None:
    site.enqueue(header(), header(number=2), header(number=3, Modality="US"))
    site.run()
    with site.pool.connection() as connection:
        connection.execute("UPDATE registration SET modified_at = now() - interval '3 days' WHERE guid = %s", (guid_of(),))
    found = make_servicer().GetSiteStatus(pb.GetSiteStatusRequest(), None)
    assert [(item.state, item.count) for item in found.states] == [
        (registration_pb2.REGISTRATION_STATE_PUBLISHED, 2),
        (registration_pb2.REGISTRATION_STATE_QUARANTINED, 1),
    ]
    assert not found.instances
    with site.pool.connection() as connection:
        connection.execute("INSERT INTO srm_instance (name, process, host, lost) VALUES ('b', gen_random_uuid(), 'host-1', true)")
    [instance] = make_servicer().GetSiteStatus(pb.GetSiteStatusRequest(), None).instances
    assert (instance.name, instance.host, instance.lost) == ("b", "host-1", True)
    published = found.states[0]
    assert 2.9 * 86_400 < published.newest_time.seconds - published.oldest_time.seconds < 3.1 * 86_400
    assert (found.site, found.conflicts, found.spool.stored, found.spool.files) == ("hospital-a", 0, 40, 2)


def test_what_waits_is_listed_with_why_and_when_it_is_tried(site: Site, make_servicer: Callable[..., SiteServicer]) -> None:
    site.keys.trouble = Unavailable("KEYSTORE_UNAVAILABLE", "away")
    site.enqueue(header(), header(number=2), header(number=3, BurnedInAnnotation="YES"))
    site.run()
    waiting = [registration_pb2.REGISTRATION_STATE_RECEIVED, registration_pb2.REGISTRATION_STATE_KEYED]
    [found] = make_servicer().ListReasons(pb.ListReasonsRequest(states=waiting), None).reasons
    assert (found.reason, found.count, found.example_guid) == ("KEYSTORE_UNAVAILABLE", 2, str(min(guid_of(), guid_of(number=2))))
    assert found.due_time.seconds >= found.newest_time.seconds
    everything = make_servicer().ListReasons(pb.ListReasonsRequest(), None).reasons
    assert {(item.reason, item.HasField("due_time")) for item in everything} == {
        ("KEYSTORE_UNAVAILABLE", True),
        ("BURNED_IN_ANNOTATION", False),
    }
    with pytest.raises(Invalid):
        make_servicer().ListReasons(pb.ListReasonsRequest(states=[99]), None)
    with pytest.raises(Invalid):
        make_servicer().ListReasons(pb.ListReasonsRequest(states=[0]), None)


def test_registrations_of_one_reason_are_listed(site: Site) -> None:
    site.enqueue(header(number=1, Modality="US"), header(number=2, BurnedInAnnotation="YES"))
    site.run()
    servicer = RegistrationServicer(site.service(), site.scans())
    listed = servicer.ListRegistrations(registration_pb2.ListRegistrationsRequest(reason="ULTRASOUND"), None).registrations
    assert [item.guid for item in listed] == [str(guid_of())]


def test_what_does_not_answer_is_reported_in_time_and_not_asked_twice(make_servicer: Callable[..., SiteServicer]) -> None:
    hangs, asked = threading.Event(), []

    def hang() -> None:
        asked.append(1)
        hangs.wait(30)

    def refuse() -> None:
        raise Unavailable("PACS_UNAVAILABLE", "Doe^John")

    def break_down() -> None:
        raise RuntimeError("Doe^John")

    servicer = make_servicer(pacs=lambda: None, hanging=hang, refusing=refuse, broken=break_down)
    began = time.monotonic()
    for _ in range(3):
        found = servicer.GetSiteStatus(pb.GetSiteStatusRequest(), None)
    assert time.monotonic() - began < 5
    assert {item.name: item.reason for item in found.dependencies} == {
        "pacs": "",
        "hanging": "NO_ANSWER",
        "refusing": "PACS_UNAVAILABLE",
        "broken": "INTERNAL",
    }
    assert [item.name for item in found.dependencies if item.up] == ["pacs"]
    assert asked == [1] and "Doe" not in str(found)
    hangs.set()


def test_the_policy_says_what_is_in_force_and_what_it_leaves_out(site: Site, make_servicer: Callable[..., SiteServicer]) -> None:
    site.enqueue(header(SOPClassUID="1.2.840.10008.1.3.10"), header(number=2), header(number=3))
    site.run()
    with site.pool.connection() as connection:
        out = "UPDATE registration SET state = 'FILTERED', reason = 'SITE_POLICY', rule = 'no-ct' WHERE state = 'PUBLISHED'"
        connection.execute(out)
    found = make_servicer().GetPolicy(pb.GetPolicyRequest(), None)
    assert [(item.name, item.value) for item in found.settings] == [("deid.profile", "basic")]
    assert [(item.reason, item.count) for item in found.filtered] == [("SITE_POLICY no-ct", 2), ("MEDIA_DIRECTORY", 1)]


SOUND = {"waiting": 3, "oldest": 1_700_000_000.5, "refused": {"DIMSE_0x0122": 2}, "time": 1_700_000_100}


def test_what_waits_in_the_forwarder_is_reported(make_servicer: Callable[..., SiteServicer], report: Path) -> None:
    assert not make_servicer().GetSiteStatus(pb.GetSiteStatusRequest(), None).HasField("forwarder"), "it has never reported"
    report.write_text(json.dumps(SOUND))
    found = make_servicer().GetSiteStatus(pb.GetSiteStatusRequest(), None).forwarder
    assert (found.waiting, found.oldest_time.seconds, found.report_time.seconds) == (3, 1_700_000_000, 1_700_000_100)
    assert [(item.reason, item.count) for item in found.refused] == [("DIMSE_0x0122", 2)]
    report.write_text(json.dumps(SOUND | {"oldest": None, "waiting": 0, "refused": {}}))
    assert not make_servicer().GetSiteStatus(pb.GetSiteStatusRequest(), None).forwarder.HasField("oldest_time")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "not JSON",
        "[" * 60_000,
        {"waiting": "3"},
        {"waiting": -1},
        {"waiting": 10**30},
        {"waiting": True},
        {"time": None},
        {"time": 1e300},
        {"time": float("nan")},
        {"oldest": "yesterday"},
        {"refused": ["x"]},
        {"refused": {"Doe^John": 1}},
        {"refused": {"X": "many"}},
    ],
)
def test_a_report_that_makes_no_sense_is_left_out(make_servicer: Callable[..., SiteServicer], report: Path, content: Any) -> None:
    report.write_text(content if isinstance(content, str) else json.dumps(SOUND | content))
    assert not make_servicer().GetSiteStatus(pb.GetSiteStatusRequest(), None).HasField("forwarder")
