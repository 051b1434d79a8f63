"""A PACS that drops, refuses, warns, hangs, restarts, lies or never ends: what it cannot send is a failure of that file only."""

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import pydicom
import pytest
from mdm_dicom_srm.config import PacsSettings
from mdm_dicom_srm.pacs.alternatives import Fallback
from mdm_dicom_srm.pacs.c_get import CGet
from mdm_dicom_srm.pacs.c_move import CMove, MoveDestination
from mdm_dicom_srm.pacs.dicomweb import DicomWeb
from mdm_dicom_srm.pacs.dimse import AssociationPool, Peer
from mdm_dicom_srm.pacs.pacs_set import open_pacs
from mdm_dicom_srm.pacs.port import NOT_IN_PACS, InstanceLocator, MissingInstance, Pacs, RetrievedInstance
from mdm_dicom_srm.pacs.wado_rs import WadoRs
from mdm_testing.process import free_port
from mdm_wire.errors import Unavailable

from .conftest import Image, Receiver, RunningPacs
from .scripted import ScriptedPacs, ScriptedWeb

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:Exception ignored in. <.*ocket:pytest.PytestUnraisableExceptionWarning"),
]
TIMEOUT = 2.0


@pytest.fixture
def series(images: list[Image]) -> list[Image]:
    """A series of six CT images."""
    return images[:6]


@pytest.fixture
def peer(series: list[Image], receiver: Receiver) -> Iterator[ScriptedPacs]:
    with ScriptedPacs("SMALL", [image.part10 for image in series], receiver.scp.port) as scripted:
        yield scripted


@contextmanager
def c_get(peer: ScriptedPacs, **limits: Any) -> Iterator[CGet]:
    adapter = CGet(AssociationPool(Peer("127.0.0.1", peer.port, "SMALL", "MDM", TIMEOUT, **limits)))
    yield adapter
    adapter.close()


def locators(images: list[Image]) -> list[InstanceLocator]:
    return [InstanceLocator(image.study_uid, image.series_uid, image.sop_uid) for image in images]


def outcome(pacs: Pacs, images: list[Image]) -> dict[str, str]:
    """By the last part of the UID: "ok", or the reason why it did not come."""
    items = list(pacs.retrieve(locators(images)))
    assert len(items) == len({item.sop_uid for item in items})
    return {item.sop_uid.rpartition(".")[2]: item.reason if isinstance(item, MissingInstance) else "ok" for item in items}


def but(number: int, reason: str) -> dict[str, str]:
    return {str(n): reason if n == number else "ok" for n in range(6)}


def number_of(item: pydicom.Dataset) -> int:
    return int(str(item.SOPInstanceUID).rpartition(".")[2])


def test_an_association_that_is_dropped_once_costs_no_file(peer: ScriptedPacs, series: list[Image]) -> None:
    dropped: list[int] = []

    def drop(event: Any, item: pydicom.Dataset) -> None:
        if number_of(item) == 3 and not dropped:
            dropped.append(1)
            event.assoc.abort()

    peer.on_get = drop
    with c_get(peer) as adapter:
        assert outcome(adapter, series) == but(-1, "")


def test_an_instance_at_which_the_pacs_always_drops_fails_alone(peer: ScriptedPacs, series: list[Image]) -> None:
    peer.on_get = lambda event, item: event.assoc.abort() if number_of(item) == 3 else None
    with c_get(peer) as adapter:
        assert outcome(adapter, series) == but(3, "PACS_BROKE_OFF")


def test_an_instance_that_the_pacs_warns_of_fails_alone(peer: ScriptedPacs, series: list[Image]) -> None:
    """A data set of a class for which there is no context: the sub-operation fails, the C-GET ends as B000."""

    def other(_: Any, item: pydicom.Dataset) -> pydicom.Dataset | None:
        if number_of(item) != 2:
            return None
        strange = pydicom.Dataset()
        strange.SOPClassUID, strange.SOPInstanceUID = "1.2.3.4.5", item.SOPInstanceUID
        return strange

    peer.on_get = other
    with c_get(peer) as adapter:
        assert outcome(adapter, series) == but(2, "PACS_NOT_DELIVERED")


def test_an_instance_that_is_gone_since_it_was_looked_up_is_reported_as_gone(peer: ScriptedPacs, series: list[Image]) -> None:
    with c_get(peer) as adapter:
        assert outcome(adapter, series) == but(-1, "")
        del peer.stored[series[4].sop_uid]
        assert outcome(adapter, series) == but(4, NOT_IN_PACS)


def test_an_instance_under_a_wrong_name_fails_alone_and_is_not_given_out(peer: ScriptedPacs, series: list[Image]) -> None:
    def swap(_: Any, item: pydicom.Dataset) -> pydicom.Dataset | None:
        return peer.stored[series[0].sop_uid] if number_of(item) == 5 else None

    peer.on_get = swap
    with c_get(peer) as adapter:
        assert outcome(Fallback([adapter]), series) == but(5, "PACS_NOT_DELIVERED")


def test_a_pacs_that_hangs_is_given_up_in_time_and_others_of_the_series_come(peer: ScriptedPacs, series: list[Image]) -> None:
    released = threading.Event()

    def hang(_: Any, item: pydicom.Dataset) -> None:
        if number_of(item) == 3:
            released.wait(20)

    peer.on_get = hang
    began = time.monotonic()
    with c_get(peer) as adapter:
        assert outcome(adapter, series) == but(3, "PACS_TIMEOUT")
    assert time.monotonic() - began < 4 * TIMEOUT
    released.set()


def test_an_instance_that_is_too_long_fails_alone(peer: ScriptedPacs, series: list[Image]) -> None:
    def swell(_: Any, item: pydicom.Dataset) -> pydicom.Dataset | None:
        if number_of(item) != 1:
            return None
        item = pydicom.dcmread(io.BytesIO(series[1].part10))
        item.PixelData = bytes(4_000_000)
        return item

    peer.on_get = swell
    with c_get(peer, max_message_bytes=1_000_000) as adapter:
        assert outcome(adapter, series) == but(1, "PACS_BROKE_OFF")


def test_a_pacs_that_restarts_between_two_retrievals_is_met_by_a_new_association(series: list[Image], receiver: Receiver) -> None:
    files = [image.part10 for image in series]
    with ScriptedPacs("SMALL", files) as first:
        port = first.port
        pool = AssociationPool(Peer("127.0.0.1", port, "SMALL", "MDM", TIMEOUT))
        adapter = CGet(pool)
        assert outcome(adapter, series[:1]) == {"0": "ok"}
    with ScriptedPacs("SMALL", files, port=port):
        assert outcome(adapter, series[:2]) == {"0": "ok", "1": "ok"}
        pool.close()


def test_associations_are_used_again_and_closed_when_idle(peer: ScriptedPacs, series: list[Image]) -> None:
    pool = AssociationPool(Peer("127.0.0.1", peer.port, "SMALL", "MDM", TIMEOUT, idle_seconds=3))
    adapter = CGet(pool)
    for image in series:
        assert outcome(adapter, [image]) == {image.sop_uid[-1]: "ok"}
    assert peer.associations == 2, "one for C-FIND, one for C-GET"
    until = time.monotonic() + 15
    while pool._idle and time.monotonic() < until:
        time.sleep(0.05)
    assert not pool._idle
    assert outcome(adapter, series[:1]) == {"0": "ok"}
    pool.close()


def test_no_more_retrievals_than_allowed_run_at_a_time(peer: ScriptedPacs, series: list[Image]) -> None:
    running, most, lock, overlapping = 0, 0, threading.Lock(), threading.Event()

    def count(*_: Any) -> None:
        """Stay until two run at a time, and then a moment longer in which a third one would be seen."""
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running > 1:
                overlapping.set()
        overlapping.wait(60)
        time.sleep(0.05)
        with lock:
            running -= 1

    peer.on_get = count
    adapter = CGet(AssociationPool(Peer("127.0.0.1", peer.port, "SMALL", "MDM", 120.0)))
    with closing(adapter):
        limited = Fallback([adapter], retrievals=2, wait_seconds=120)
        threads = [threading.Thread(target=outcome, args=(limited, [image])) for image in series]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most == 2


def test_a_retrieval_that_waits_too_long_for_its_turn_is_refused(peer: ScriptedPacs, series: list[Image]) -> None:
    with c_get(peer) as adapter:
        slow = Fallback([adapter], retrievals=1, wait_seconds=0.2)
        first = slow.retrieve(locators(series))
        next(first)
        with pytest.raises(Unavailable, match="busy"):
            next(iter(slow.retrieve(locators(series))))
        first.close()  # type: ignore[attr-defined]


def test_memory_holds_one_instance_however_many_a_pacs_sends_without_pending_answers(peer: ScriptedPacs, series: list[Image]) -> None:
    sent: list[int] = []
    peer.on_get = lambda _, item: sent.append(number_of(item))
    with c_get(peer) as adapter:
        arriving = adapter.retrieve(locators(series))
        next(arriving)
        time.sleep(0.3)
        assert len(sent) <= 2, "the PACS waits until an instance is taken"
        assert sum(1 for _ in arriving) == 5


# C-MOVE


@pytest.fixture
def mover(peer: ScriptedPacs, receiver: Receiver) -> Iterator[CMove]:
    adapter = CMove(AssociationPool(Peer("127.0.0.1", peer.port, "SMALL", "MDM", TIMEOUT)), receiver.destination)
    yield adapter
    adapter.close()


def test_what_a_retrieval_awaits_is_not_registered_and_the_rest_is(
    mover: CMove, series: list[Image], receiver: Receiver, peer: ScriptedPacs
) -> None:
    receiver.registry.queued.clear()
    assert outcome(mover, series[:2]) == {"0": "ok", "1": "ok"}
    assert receiver.registry.queued == []
    assert not receiver.destination._awaited
    # Nobody awaits it: it is an auto-forward, by the AE title of a PACS that is known by name.
    peer.send(receiver.scp.port, series[2].sop_uid)
    assert receiver.registry.queued == [(series[2].sop_uid, "small")]


def test_two_retrievals_of_one_instance_both_get_it(mover: CMove, series: list[Image]) -> None:
    found: list[dict[str, str]] = []
    threads = [threading.Thread(target=lambda: found.append(outcome(mover, series[:1]))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [{"0": "ok"}, {"0": "ok"}]


def test_an_instance_that_a_pacs_does_not_move_fails_alone(mover: CMove, series: list[Image], peer: ScriptedPacs) -> None:
    peer.withheld.add(series[3].sop_uid)
    assert outcome(mover, series) == but(3, "PACS_NOT_DELIVERED")


def test_a_retrieval_that_is_broken_off_lets_the_pacs_go_on(mover: CMove, series: list[Image], receiver: Receiver) -> None:
    arriving = mover.retrieve(locators(series))
    next(arriving)
    arriving.close()  # type: ignore[attr-defined]
    assert not receiver.destination._awaited
    assert outcome(mover, series) == but(-1, "")


def test_a_destination_that_the_pacs_does_not_know_is_one_clear_error(peer: ScriptedPacs, series: list[Image]) -> None:
    adapter = CMove(AssociationPool(Peer("127.0.0.1", peer.port, "SMALL", "MDM", TIMEOUT)), MoveDestination("NOBODY"))
    with pytest.raises(Unavailable, match="does not know NOBODY"):
        list(adapter.retrieve(locators(series)))
    adapter.close()


# DICOMweb


@pytest.fixture
def web(series: list[Image]) -> Iterator[ScriptedWeb]:
    with ScriptedWeb({image.sop_uid: image.part10 for image in series}) as scripted:
        yield scripted


@pytest.fixture
def wado(web: ScriptedWeb) -> Iterator[WadoRs]:
    adapter = WadoRs(DicomWeb(web.url, timeout=TIMEOUT), max_instance_bytes=1_000_000)
    yield adapter
    adapter.close()


def test_half_a_series_is_completed_one_by_one(wado: WadoRs, web: ScriptedWeb, series: list[Image]) -> None:
    web.series_ends_after = 3
    assert outcome(wado, series) == but(-1, "")


FAULTS: list[tuple[Callable[[bytes], Any], str]] = [
    (lambda file: 404, NOT_IN_PACS),
    (lambda file: 410, NOT_IN_PACS),
    (lambda file: 500, "PACS_NOT_DELIVERED"),
    (lambda file: 406, "PACS_NOT_DELIVERED"),
    (lambda file: b"<html>not DICOM at all</html>" * 10, "PACS_SENT_ANOTHER"),
    (lambda file: file.replace(b"1.2.826.0.1.99.1.1.3", b"1.2.826.0.1.99.1.1.8"), "PACS_SENT_ANOTHER"),
    (lambda file: "drop", "PACS_BROKE_OFF"),
    (lambda file: "hang", "PACS_TIMEOUT"),
    (lambda file: "endless", "PACS_BROKE_OFF"),
]


@pytest.mark.parametrize(("fault", "reason"), FAULTS, ids=["404", "410", "500", "406", "no DICOM", "wrong UID", "drop", "hang", "endless"])
def test_one_instance_that_fails_over_http_fails_alone(
    wado: WadoRs, web: ScriptedWeb, series: list[Image], fault: Callable[[bytes], Any], reason: str
) -> None:
    web.series_ends_after = 0
    web.faults[series[3].sop_uid] = fault(series[3].part10)
    assert outcome(Fallback([wado]), series) == but(3, reason)


@pytest.mark.parametrize("status", [401, 403, 503])
def test_a_server_that_refuses_everything_is_unavailable(wado: WadoRs, web: ScriptedWeb, series: list[Image], status: int) -> None:
    web.faults = {image.sop_uid: status for image in series}
    web.series_ends_after = 0
    with pytest.raises(Unavailable, match=f"HTTP {status}"):
        list(wado.retrieve(locators(series)))


def test_a_server_that_is_busy_once_is_asked_again(wado: WadoRs, web: ScriptedWeb, series: list[Image]) -> None:
    web.busy = 1
    assert outcome(wado, series[:1]) == {"0": "ok"}


def test_what_one_way_cannot_deliver_the_next_one_does(wado: WadoRs, web: ScriptedWeb, peer: ScriptedPacs, series: list[Image]) -> None:
    web.series_ends_after = 3
    web.faults[series[3].sop_uid] = 500
    with c_get(peer) as second:
        items = list(Fallback([wado, second]).retrieve(locators(series)))
    assert all(isinstance(item, RetrievedInstance) for item in items)
    assert peer.gets == [[series[3].sop_uid]]


def test_the_pacs_of_a_configuration_are_each_asked_by_their_ways(
    orthanc: RunningPacs, peer: ScriptedPacs, series: list[Image], receiver: Receiver
) -> None:
    """The main PACS has lost its DICOMweb; the small one lacks two instances that the main one has."""
    nowhere = f"http://127.0.0.1:{free_port()}/dicom-web"
    common = {"host": "127.0.0.1", "timeout_seconds": 10}
    main = PacsSettings(name="main", ae_title="ORTHANC", port=orthanc.port, dicomweb_url=nowhere, retrieve=("wado-rs", "c-move"), **common)
    small = PacsSettings(name="small", ae_title="SMALL", port=peer.port, retrieve=("c-get",), **common)
    for image in series[:2]:
        del peer.stored[image.sop_uid]
    pacs = open_pacs([main, small], receiver.destination)
    wanted = [replace(locator, pacs="small") for locator in locators(series)]
    got = {item.sop_uid[-1]: item.pacs for item in pacs.retrieve(wanted) if isinstance(item, RetrievedInstance)}
    assert got == {str(number): "main" if number < 2 else "small" for number in range(6)}
    pacs.ping()
    assert {item.locator.pacs for item in pacs.listing(series[0].study_uid)} == {"main", "small"}
    pacs.close()
    assert all(not adapter._pool._idle for adapter in (pacs.members["small"]._adapters))  # type: ignore[attr-defined]


def test_a_peer_that_speaks_no_dicom_is_unavailable(series: list[Image]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            for _ in range(8):
                try:
                    connection, _address = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        adapter = CGet(AssociationPool(Peer("127.0.0.1", listener.getsockname()[1], "X", "MDM", TIMEOUT)))
        with pytest.raises(Unavailable):
            list(adapter.retrieve(locators(series)))
