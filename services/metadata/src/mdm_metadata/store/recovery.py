"""A thread that ends what a crash left undone of changes of schemas, here or in another process of the service."""

import logging
import threading

import psycopg
from mdm_wire.errors import MdmError
from psycopg_pool import PoolTimeout

from mdm_metadata.rules.port import Store
from mdm_metadata.rules.schema.validation import recover

_log = logging.getLogger(__name__)
#: A statement of a killed process may run on for a while; until it ends, its validation looks as if another process ran it.
PAUSE_SECONDS = 10.0


class Recovery:
    """Looks at the start, and again and again until `stop`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recovery", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after what is under way."""
        self._stopping.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if ended := recover(self._store):
                    _log.info("changes of schemas were ended after a crash", extra={"count": ended})
            except (MdmError, psycopg.Error, PoolTimeout) as error:
                _log.warning("what a crash left is still undone", extra={"reason": type(error).__name__})
            self._stopping.wait(PAUSE_SECONDS)
