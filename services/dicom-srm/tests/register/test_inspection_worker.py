"""Threads of inspections and scans: several processes share the work, a killed one is replaced, a PACS that is away is waited for."""

from collections.abc import Iterator
from contextlib import ExitStack
from unittest import mock
from uuid import uuid4

import pytest
from mdm.srm.v1 import registration_pb2 as pb
from mdm_dicom_srm.pacs.port import Scope
from mdm_dicom_srm.register import worker
from mdm_dicom_srm.register.rpc.servicer import RegistrationServicer
from mdm_dicom_srm.register.rules.inspector import Inspector
from mdm_dicom_srm.register.rules.scan import Action, Counts, Order, Scan, ScanState
from mdm_dicom_srm.register.rules.scanner import Scanner, Schedule
from mdm_dicom_srm.register.worker import InspectionWorkers
from mdm_testing.process import eventually
from mdm_wire.errors import Invalid, NotFound

from .conftest import STUDY, Site, header

pytestmark = pytest.mark.integration
OPERATOR = Order(Action.REGISTER, Scope(), by="CN=operator")


def workers(site: Site, *, attempts: int = 20, schedule: Schedule = Schedule(), lease: int = 3) -> InspectionWorkers:  # noqa: B008 - frozen
    stores = site.stores()
    inspector = Inspector(site.pacs, site.names, stores, site.service(), 600)
    return InspectionWorkers(stores, inspector, Scanner(site.pacs, stores, schedule), count=2, max_attempts=attempts, lease_seconds=lease)


@pytest.fixture
def started() -> Iterator[ExitStack]:
    with mock.patch.object(worker, "_IDLE_SECONDS", 0.05), ExitStack() as stack:
        yield stack


def start(stack: ExitStack, running: InspectionWorkers) -> InspectionWorkers:
    running.start()
    stack.callback(running.stop)
    return running


def studies(site: Site, count: int) -> None:
    for number in range(count):
        uid = f"1.2.9.{number}"
        site.pacs.take(header(number=number + 1, StudyInstanceUID=uid, SeriesInstanceUID=f"{uid}.1"))


def ended(site: Site, scan_id: object) -> Scan:
    def look() -> Scan | None:
        found = site.stores().scans.get(scan_id)  # type: ignore[arg-type]
        return found if found is not None and found.state not in (ScanState.LISTING, ScanState.INSPECTING) else None

    found: Scan | None = eventually(look, timeout=30)
    assert found is not None
    return found


def test_two_processes_share_a_scan_and_inspect_each_study_once(site: Site, started: ExitStack) -> None:
    studies(site, 12)
    scan_id = site.stores().scans.start(OPERATOR)
    start(started, workers(site))
    start(started, workers(site))
    found = ended(site, scan_id)
    assert (found.state, found.studies, found.inspected, found.counts.new) == (ScanState.DONE, 12, 12, 12)
    assert site.pacs.listings == 12


def test_what_a_killed_process_held_is_taken_over(site: Site, started: ExitStack) -> None:
    studies(site, 2)
    stores = site.stores()
    scan_id = stores.scans.start(OPERATOR)
    listing = stores.scans.claim(1)
    assert listing is not None and stores.scans.add_studies(listing, ["1.2.9.0"])
    held = stores.inspections.claim(1)
    assert held is not None
    start(started, workers(site))
    found = ended(site, scan_id)
    assert (found.state, found.inspected, found.counts.new) == (ScanState.DONE, 2, 2)
    stores.inspections.finish(held, found.counts)
    assert stores.scans.get(scan_id) == found, "what a dead lease says does not count"


def test_a_pacs_that_is_away_is_waited_for(site: Site, started: ExitStack) -> None:
    studies(site, 1)
    site.pacs.away = True
    scan_id = site.stores().scans.start(OPERATOR)
    site.scans().look(STUDY)
    start(started, workers(site))
    assert eventually(lambda: (scan := site.stores().scans.get(scan_id)) and scan.reason == "PACS_UNAVAILABLE", timeout=10)
    site.pacs.away = False
    assert ended(site, scan_id).state is ScanState.DONE


def test_a_scan_gives_up_after_its_attempts_and_a_notification_does_not(site: Site, started: ExitStack) -> None:
    studies(site, 1)
    site.pacs.away = True
    scan_id = site.stores().scans.start(OPERATOR)
    site.scans().look(STUDY)
    start(started, workers(site, attempts=1))
    found = ended(site, scan_id)
    assert (found.state, found.reason) == (ScanState.FAILED, "PACS_UNAVAILABLE")
    with site.pool.connection() as connection:
        attempts = "SELECT attempts > 0, outcome FROM inspection"
        assert eventually(lambda: connection.execute(attempts).fetchone() == (True, ""), timeout=10)


def test_scans_begin_by_schedule_and_a_defect_ends_no_thread(site: Site, started: ExitStack) -> None:
    studies(site, 1)
    running = workers(site, schedule=Schedule(every_seconds=3600, days=36_500, all_every_seconds=3600))
    with mock.patch.object(Inspector, "inspect", side_effect=ZeroDivisionError):
        start(started, running)
        with site.pool.connection() as connection:
            failed = "SELECT count(*) FROM inspection WHERE reason = 'INTERNAL'"
            assert eventually(lambda: connection.execute(failed).fetchone() != (0,), timeout=10)
    assert eventually(lambda: site.states() != {}, timeout=20)
    assert len(site.stores().scans.page(10)) == 2


def test_a_trigger_while_a_study_is_looked_at_has_it_looked_at_again(site: Site) -> None:
    stores = site.stores()
    stores.inspections.queue(STUDY)
    stores.inspections.queue(STUDY)
    first = stores.inspections.claim(60)
    assert first is not None and stores.inspections.claim(60) is None
    stores.inspections.queue(STUDY)
    assert stores.inspections.claim(60) is None, "it is under way"
    stores.inspections.finish(first, Counts())
    second = stores.inspections.claim(60)
    assert second is not None
    stores.inspections.finish(second, Counts())
    assert stores.inspections.claim(60) is None


@pytest.mark.parametrize(
    "call",
    [
        lambda servicer: list(servicer.WatchScan(pb.WatchScanRequest(scan_id="x"), None)),
        lambda servicer: servicer.CancelScan(pb.CancelScanRequest(scan_id=""), None),
        lambda servicer: servicer.ListScans(pb.ListScansRequest(page_size=101), None),
        lambda servicer: servicer.ListRegistrations(pb.ListRegistrationsRequest(study_instance_uids=["1.2"] * 101), None),
    ],
)
def test_a_malformed_request_is_refused(site: Site, call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(Invalid):
        call(RegistrationServicer(site.service(), site.scans()))


def test_a_scan_is_watched_until_it_ends_and_an_unknown_one_is_not(site: Site) -> None:
    servicer = RegistrationServicer(site.service(), site.scans())
    context = mock.Mock(add_callback=lambda _: True)
    scan_id = str(site.scans().start(Scope(), "CN=operator", dry_run=False))
    watch = servicer.WatchScan(pb.WatchScanRequest(scan_id=scan_id), context)
    assert next(watch).scan.state == pb.SCAN_STATE_LISTING
    site.look()
    assert [item.scan.state for item in watch] == [pb.SCAN_STATE_DONE]
    with pytest.raises(NotFound):
        next(servicer.WatchScan(pb.WatchScanRequest(scan_id=str(uuid4())), context))


def test_names_and_a_scope_together_are_refused(site: Site) -> None:
    servicer = RegistrationServicer(site.service(), site.scans())
    request = pb.UnregisterRequest(guids=[str(uuid4())], scope=pb.Scope())
    with mock.patch("mdm_dicom_srm.register.rpc.servicer.current_caller"), pytest.raises(Invalid) as caught:
        servicer.Unregister(request, mock.Mock())
    assert caught.value.reason == "SCOPE_AND_NAMES"
