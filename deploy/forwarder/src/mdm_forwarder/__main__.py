"""Program that makes Orthanc forward each instance it stores to dicom-srm: `python -m mdm_forwarder`.

A Lua script in Orthanc would lose instances while dicom-srm is down; this queue survives restarts of both.
"""

import argparse
import logging
import signal
import threading
from pathlib import Path

import httpx

from mdm_forwarder.delivery import DeliveryQueue, deliver
from mdm_forwarder.orthanc import OrthancSource
from mdm_forwarder.status import StatusFile

_log = logging.getLogger(__name__)
_POLL_SECONDS = 0.2


def step(source: OrthancSource, queue: DeliveryQueue) -> bool:
    """Queue new instances of Orthanc and forward a batch; return whether there may be more to do at once."""
    stored, last = source.stored_since(queue.cursor)
    if last != queue.cursor:
        queue.add(stored, last)
    return deliver(queue, source.send) or bool(stored)


def _report(status: StatusFile, queue: DeliveryQueue) -> None:
    try:
        status.report(queue)
    except OSError as error:
        _log.warning("the status is not written: %s", error.strerror)


def main() -> None:
    """Forward until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="Orthanc's REST root")
    parser.add_argument("--password-file", type=Path, required=True)
    parser.add_argument("--queue", type=Path, required=True)
    parser.add_argument("--status", type=Path, help="write what waits to this file, for dicom-srm")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    source = OrthancSource(arguments.url, arguments.password_file.read_text().strip())
    queue = DeliveryQueue(arguments.queue)
    status = StatusFile(arguments.status) if arguments.status else None
    while not stopping.is_set():
        try:
            busy = step(source, queue)
        except httpx.HTTPError as error:
            _log.warning("Orthanc does not answer: %s", error)
            busy = False
        if status is not None:
            _report(status, queue)
        if not busy:
            stopping.wait(_POLL_SECONDS)
    queue.close()


if __name__ == "__main__":
    main()
