"""A de-identifier for worker processes of tests: obeys what the file says."""

import os
import time

from mdm_deid import Patient
from mdm_deid.outcome import Outcome, Result


class Hostile:
    """Dies, hangs or releases."""

    def deidentify(self, part10: bytes, patient: Patient | None = None, released: frozenset[str] = frozenset()) -> Result:
        if part10 == b"die":
            os._exit(3)
        if part10 == b"hang":
            time.sleep(60)
        return Result(Outcome.RELEASED, data=[bytes(128) + b"DICM", part10])


def broken() -> Hostile:
    """Fails to make one."""
    raise RuntimeError
