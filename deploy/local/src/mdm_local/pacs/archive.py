"""A small PACS on pynetdicom, for machines without Orthanc: `python -m mdm_local.pacs.archive`.

pynetdicom's own `qrscp` needs SQLAlchemy and does not forward. This one answers C-ECHO, C-STORE, C-FIND, C-GET and C-MOVE of the study
root model on loopback, keeps each dataset as it was sent, and forwards every instance to dicom-srm until it is accepted.
"""

import argparse
import logging
import signal
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mdm_forwarder.delivery import NOT_NEGOTIATED, DeliveryQueue, Sent, TargetDown, deliver, final_reason
from mdm_site.pacs import MDM_AE_TITLE
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, _config, evt

from mdm_local.pacs.kind import CALLING_AE_TITLES, STUDY_ROOT_FIND, STUDY_ROOT_GET, STUDY_ROOT_MOVE, VERIFICATION
from mdm_local.pacs.storage import LEVELS, Archive, keys_of

_log = logging.getLogger(__name__)
_SUCCESS, _PENDING, _CANCELLED = 0x0000, 0xFF00, 0xFE00
_CANNOT_UNDERSTAND, _OUT_OF_RESOURCES, _UNABLE_TO_PROCESS = 0xC000, 0xA700, 0xC000
_BAD_IDENTIFIER = 0xA900
_MAX_CONTEXTS = 128
_POLL_SECONDS = 0.1


class ArchiveServer:
    """Handlers of the SCP over the archive in `directory`. Handlers run in one thread per association."""

    def __init__(self, directory: Path, destination: tuple[str, int]) -> None:
        self._directory = directory
        self._destination = destination

    def on_store(self, event: evt.Event) -> int:
        """Store an instance and queue it for forwarding."""
        archive, queue = Archive(self._directory), DeliveryQueue(self._directory / "forward.sqlite")
        try:
            header = event.dataset
            context = event.context
            uid = archive.store(event.encoded_dataset(), header, str(context.abstract_syntax), str(context.transfer_syntax))
            queue.add([uid])
        except (OSError, sqlite3.Error) as error:
            _log.error("an instance cannot be kept: %s", type(error).__name__)
            return _OUT_OF_RESOURCES
        except Exception as error:  # whatever the parser meets in a broken dataset
            _log.warning("an instance cannot be understood: %s", type(error).__name__)
            return _CANNOT_UNDERSTAND
        finally:
            archive.close()
            queue.close()
        return _SUCCESS

    def on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        """Answer a query."""
        archive = Archive(self._directory)
        try:
            answers = archive.find(event.identifier)
        except ValueError:
            yield _BAD_IDENTIFIER, None
            return
        finally:
            archive.close()
        for answer in answers:
            if event.is_cancelled:
                yield _CANCELLED, None
                return
            yield _PENDING, answer

    def on_get(self, event: evt.Event) -> Iterator[Any]:
        """Send the requested instances on the same association."""
        yield from self._sub_operations(event)

    def on_move(self, event: evt.Event) -> Iterator[Any]:
        """Send the requested instances to dicom-srm, the only destination."""
        if event.move_destination != MDM_AE_TITLE:
            yield None, None
            return
        yield self._destination
        yield from self._sub_operations(event)

    def _sub_operations(self, event: evt.Event) -> Iterator[Any]:
        level = str(event.identifier.get("QueryRetrieveLevel", ""))
        keys = {name: value for name, value in keys_of(event.identifier).items() if name in LEVELS.values()}
        if level not in LEVELS or not keys:
            yield 0
            yield _BAD_IDENTIFIER, None
            return
        archive = Archive(self._directory)
        try:
            found = archive.instances(keys)
        finally:
            archive.close()
        yield len(found)
        for instance in found:
            if event.is_cancelled:
                yield _CANCELLED, None
                return
            yield _PENDING, dcmread(instance.path)


class Sender:
    """Sends stored instances to dicom-srm by C-STORE, each in the transfer syntax in which it was received."""

    def __init__(self, directory: Path, ae_title: str, destination: tuple[str, int]) -> None:
        self._archive = Archive(directory)
        self._ae = AE(ae_title)
        self._ae.connection_timeout = 5
        self._destination = destination

    def send(self, uids: Sequence[str]) -> Sent:
        """Send instances; those that no longer exist count as accepted.

        Raises:
            TargetDown: dicom-srm does not accept an association.
        """
        found = self._archive.instances({"SOPInstanceUID": uids})
        contexts = list(dict.fromkeys((item.sop_class_uid, item.transfer_syntax_uid) for item in found))[: _MAX_CONTEXTS - 1]
        accepted = set(uids) - {item.sop_instance_uid for item in found}
        refused: dict[str, str] = {}
        if not found:
            return Sent(accepted)
        # C-ECHO is negotiated too, so that an association is accepted even if no instance of this batch is.
        self._ae.requested_contexts = []
        self._ae.add_requested_context(VERIFICATION)
        for sop_class, transfer_syntax in contexts:
            self._ae.add_requested_context(sop_class, transfer_syntax)
        association = self._ae.associate(*self._destination, ae_title=MDM_AE_TITLE)
        if not association.is_established:
            raise TargetDown("dicom-srm's Storage SCP does not accept an association")
        try:
            for item in found:
                try:
                    status = association.send_c_store(item.path)
                except ValueError:
                    refused[item.sop_instance_uid] = NOT_NEGOTIATED
                    continue
                except (AttributeError, RuntimeError):
                    continue
                if "Status" in status and int(status.Status) == _SUCCESS:
                    accepted.add(item.sop_instance_uid)
                elif "Status" in status and (reason := final_reason(int(status.Status))):
                    refused[item.sop_instance_uid] = reason
        finally:
            association.release()
        return Sent(accepted, refused)


def application(ae_title: str) -> AE:
    """Return the application entity, with its presentation contexts and its allowed callers."""
    ae = AE(ae_title)
    ae.maximum_pdu_size = 131072
    # As PACSs do, accept classes that are on no list; pynetdicom has one setting for the whole process.
    _config.UNRESTRICTED_STORAGE_SERVICE = True
    ae.require_calling_aet = [*CALLING_AE_TITLES, MDM_AE_TITLE]
    for context in AllStoragePresentationContexts:
        ae.add_supported_context(str(context.abstract_syntax), ALL_TRANSFER_SYNTAXES, scu_role=True, scp_role=True)
    for model in (VERIFICATION, STUDY_ROOT_FIND, STUDY_ROOT_GET, STUDY_ROOT_MOVE):
        ae.add_supported_context(model)
    return ae


def forward(directory: Path, ae_title: str, destination: tuple[str, int], stopping: threading.Event) -> None:
    """Forward until `stopping` is set."""
    sender, queue = Sender(directory, ae_title, destination), DeliveryQueue(directory / "forward.sqlite")
    while not stopping.is_set():
        if not deliver(queue, sender.send):
            stopping.wait(_POLL_SECONDS)
    queue.close()


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--ae-title", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--destination-port", type=int, required=True, help="dicom-srm's Storage SCP on this machine")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    destination = ("127.0.0.1", arguments.destination_port)
    server = ArchiveServer(arguments.directory, destination)
    handlers: list[Any] = [
        (evt.EVT_C_STORE, server.on_store),
        (evt.EVT_C_FIND, server.on_find),
        (evt.EVT_C_GET, server.on_get),
        (evt.EVT_C_MOVE, server.on_move),
    ]
    running = application(arguments.ae_title).start_server(("127.0.0.1", arguments.port), block=False, evt_handlers=handlers)
    _log.info("listening on port %d", arguments.port)
    forward(arguments.directory, arguments.ae_title, destination, stopping)
    if running is not None:
        running.shutdown()


if __name__ == "__main__":
    main()
