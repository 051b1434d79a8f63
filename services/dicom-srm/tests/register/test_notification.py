"""Instance Availability Notification and Storage Commitment, with pynetdicom as the PACS."""

from collections.abc import Iterator
from typing import Any

import pytest
from mdm_dicom_srm.register.rpc.notification import Notifications, Peer
from mdm_dicom_srm.register.rpc.storage_scp import StorageScp
from mdm_dicom_srm.register.rules.commitment import commit
from mdm_testing.process import eventually
from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import InstanceAvailabilityNotification, StorageCommitmentPushModel

from .conftest import SERIES, STUDY, Site, header

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]
CT = "1.2.840.10008.5.1.4.1.1.2"
WELL_KNOWN = "1.2.840.10008.1.20.1.1"


class Listener:
    """A PACS that takes reports of commitment."""

    def __init__(self) -> None:
        self.reports: list[tuple[int, Dataset]] = []
        self.handlers = [(evt.EVT_N_EVENT_REPORT, self._take)]
        ae = AE("ORTHANC")
        ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        self.server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=self.handlers)
        self.port = self.server.server_address[1]

    def _take(self, event: Any) -> tuple[int, None]:
        self.reports.append((event.event_type, event.event_information))
        return 0x0000, None


@pytest.fixture
def listener() -> Iterator[Listener]:
    found = Listener()
    yield found
    found.server.shutdown()


@pytest.fixture
def scp(site: Site, listener: Listener) -> Iterator[StorageScp]:
    notifications = Notifications(site.scans(), site.commitments(), "MDM", {"ORTHANC": Peer("127.0.0.1", listener.port)}, 0.1)
    scp = StorageScp(site.service(), "127.0.0.1", 0, "MDM", ["ORTHANC", "OTHER"], notifications=notifications)
    scp.start()
    yield scp
    scp.stop()


def associate(scp: StorageScp, handlers: Any = (), calling: str = "ORTHANC") -> Any:
    ae = AE(calling)
    ae.add_requested_context(InstanceAvailabilityNotification)
    ae.add_requested_context(StorageCommitmentPushModel)
    association = ae.associate("127.0.0.1", scp.port, ae_title="MDM", evt_handlers=list(handlers))
    assert association.is_established and len(association.accepted_contexts) == 2
    return association


def notify(scp: StorageScp, content: Dataset) -> int:
    association = associate(scp)
    status, _ = association.send_n_create(content, InstanceAvailabilityNotification, "1.2.3.4")
    association.release()
    return int(status.Status)


def notification(study_uid: str) -> Dataset:
    content, series, instance = Dataset(), Dataset(), Dataset()
    instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = CT, f"{SERIES}.1"
    instance.InstanceAvailability, instance.RetrieveAETitle = "ONLINE", "ORTHANC"
    series.SeriesInstanceUID, series.ReferencedSOPSequence = SERIES, [instance]
    content.ReferencedPerformedProcedureStepSequence = []
    content.StudyInstanceUID, content.ReferencedSeriesSequence = study_uid, [series]
    return content


def commitment(*numbers: int) -> Dataset:
    content = Dataset()
    content.TransactionUID = "1.2.3.9"
    content.ReferencedSOPSequence = []
    for number in numbers:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CT, f"{SERIES}.{number}"
        content.ReferencedSOPSequence.append(item)
    return content


def nameless() -> Dataset:
    content = commitment(1)
    del content.TransactionUID
    return content


def ask(association: Any, content: Dataset, action: int = 1, instance: str = WELL_KNOWN) -> int:
    status, _ = association.send_n_action(content, action, StorageCommitmentPushModel, instance)
    return int(status.Status)


def test_a_notification_is_acknowledged_when_the_inspection_is_durable(scp: StorageScp, site: Site) -> None:
    site.pacs.take(header())
    assert notify(scp, notification(STUDY)) == 0x0000
    with site.pool.connection() as connection:
        assert connection.execute("SELECT count(*) FROM inspection").fetchone() == (1,)
    site.look()
    assert site.run() and [state for state, _ in site.states().values()] == ["PUBLISHED"]


@pytest.mark.parametrize(("study_uid", "status"), [("", 0x0120), ("no uid", 0x0106)])
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_a_notification_without_a_study_is_refused(scp: StorageScp, study_uid: str, status: int) -> None:
    assert notify(scp, notification(study_uid)) == status


def test_a_notification_is_refused_while_the_database_is_away(scp: StorageScp, site: Site) -> None:
    with site.pool.connection() as connection:
        connection.execute("ALTER TABLE inspection RENAME TO elsewhere")
    assert notify(scp, notification(STUDY)) == 0x0110


def test_commitment_is_reported_over_the_same_association(scp: StorageScp, site: Site, listener: Listener) -> None:
    site.enqueue(header(number=1), header(number=2))
    association = associate(scp, listener.handlers)
    assert ask(association, commitment(1, 2)) == 0x0000
    eventually(lambda: bool(listener.reports))
    association.release()
    [(event, content)] = listener.reports
    assert event == 1 and content.TransactionUID == "1.2.3.9" and "FailedSOPSequence" not in content
    assert [item.ReferencedSOPInstanceUID for item in content.ReferencedSOPSequence] == [f"{SERIES}.1", f"{SERIES}.2"]


def test_commitment_is_reported_over_a_new_association_when_the_caller_has_left(scp: StorageScp, site: Site, listener: Listener) -> None:
    site.enqueue(header(number=1))
    association = associate(scp)
    assert ask(association, commitment(1, 7)) == 0x0000
    association.release()
    eventually(lambda: bool(listener.reports))
    event, content = listener.reports[-1]
    assert event == 2 and [item.ReferencedSOPInstanceUID for item in content.ReferencedSOPSequence] == [f"{SERIES}.1"]
    assert [(item.ReferencedSOPInstanceUID, item.FailureReason) for item in content.FailedSOPSequence] == [(f"{SERIES}.7", 0x0112)]


def test_what_was_removed_is_not_committed(scp: StorageScp, site: Site, listener: Listener) -> None:
    (guid,) = site.enqueue(header(number=1))
    site.scans().unregister([guid], [], [], "CN=operator", "", dry_run=False)
    association = associate(scp, listener.handlers)
    assert ask(association, commitment(1)) == 0x0000
    eventually(lambda: bool(listener.reports))
    association.release()
    assert listener.reports[-1][0] == 2 and "ReferencedSOPSequence" not in listener.reports[-1][1]


@pytest.mark.parametrize(
    ("content", "action", "instance", "status"),
    [
        (commitment(1), 2, WELL_KNOWN, 0x0123),
        (commitment(1), 1, "1.2.3", 0x0117),
        (commitment(), 1, WELL_KNOWN, 0x0120),
        (nameless(), 1, WELL_KNOWN, 0x0120),
    ],
)
def test_a_request_for_commitment_that_says_nothing_is_refused(
    scp: StorageScp, listener: Listener, content: Dataset, action: int, instance: str, status: int
) -> None:
    association = associate(scp)
    assert ask(association, content, action, instance) == status
    association.release()
    assert not listener.reports


def waiting(site: Site) -> list[tuple[str, int]]:
    """AE titles and attempts of the reports that nobody has taken."""
    with site.pool.connection() as connection:
        return connection.execute("SELECT calling_ae, attempts FROM commitment").fetchall()


def let_time_pass(site: Site, interval: str) -> None:
    with site.pool.connection() as connection:
        sql = "UPDATE commitment SET due_at = due_at - %(past)s::interval, created_at = created_at - %(past)s::interval"
        connection.execute(sql, {"past": interval})


def test_a_report_outlives_the_process_and_is_sent_once_its_caller_listens(scp: StorageScp, site: Site, listener: Listener) -> None:
    site.enqueue(header(number=1))
    with site.pool.connection() as connection:
        assert connection.execute("SELECT count(*) FROM commitment").fetchone() == (0,)
    scp.stop()
    asked = commit("ORTHANC", "1.2.3.9", [(CT, f"{SERIES}.1")], site.scans().held)
    assert site.commitments().add(asked, 0)
    with site.pool.connection() as connection:
        (content,) = connection.execute("SELECT content FROM commitment").fetchone()
    assert SERIES.encode() not in content
    later = Notifications(site.scans(), site.commitments(), "MDM", {"ORTHANC": Peer("127.0.0.1", listener.port)}, 0.1)
    later.start()
    eventually(lambda: bool(listener.reports) and waiting(site) == [])
    later.stop()
    [(event, content)] = listener.reports
    assert event == 1 and content.TransactionUID == "1.2.3.9"


def test_a_report_that_nobody_takes_is_tried_again_and_dropped_after_a_week(scp: StorageScp, site: Site) -> None:
    unknown = associate(scp, calling="OTHER")
    assert ask(unknown, commitment(1)) == 0x0000
    unknown.abort()
    eventually(lambda: waiting(site) == [("OTHER", 1)])
    let_time_pass(site, "1 hour")
    eventually(lambda: waiting(site) == [("OTHER", 2)])
    let_time_pass(site, "8 days")
    eventually(lambda: waiting(site) == [])


def test_a_caller_that_cannot_be_reached_does_not_hold_up_others(scp: StorageScp, site: Site, listener: Listener) -> None:
    site.enqueue(header(number=1))
    unknown = associate(scp, calling="OTHER")
    assert ask(unknown, commitment(1)) == 0x0000
    unknown.abort()
    association = associate(scp, listener.handlers)
    assert ask(association, commitment(1)) == 0x0000
    eventually(lambda: bool(listener.reports))
    association.release()
