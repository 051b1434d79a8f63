"""One file: de-identified, checked, encrypted and written."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from mdm_crypto import stream
from mdm_deid import Patient
from mdm_deid.outcome import Outcome

from mdm_dicom_srm.judgement import DEFECTS, Deidentifier, decide
from mdm_dicom_srm.stage.rules.model import State
from mdm_dicom_srm.stage.rules.port import Sealed

# PS3.10 section 7.1: 128 bytes of preamble, which is emptied, then the prefix.
_PROLOGUE = bytes(128) + b"DICM"
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def seal(
    deidentifier: Deidentifier,
    part10: bytes | memoryview,
    patient: Patient | None,
    guid: UUID,
    key: bytes,
    path: Path,
    released: frozenset[str] = frozenset(),
) -> Sealed:
    """De-identify a DICOM file as one of `patient`; write its ciphertext, bound to the GUID, to the new file `path` (mode 0600).

    `released`: see `judgement.decide`.

    Nothing but ciphertext of a released file is ever written. Never raises: what went wrong is in the result.
    """
    result = decide(deidentifier, part10, patient, released)
    if result.reason.startswith(DEFECTS):
        return Sealed(state=State.INTERNAL_ERROR, reason=result.reason)
    if result.outcome is not Outcome.RELEASED:
        return Sealed(state=State.FAILURE, reason=f"{result.outcome}_{result.reason}".rstrip("_"), verdict=(result.outcome, result.reason))
    if not result.data or bytes(b"".join(result.data[:1])[: len(_PROLOGUE)]) != _PROLOGUE:
        return Sealed(state=State.INTERNAL_ERROR, reason="DEIDENTIFIED_FILE_MALFORMED")
    try:
        plain_size = sum(memoryview(buffer).nbytes for buffer in result.data)
        return Sealed(write(result.data, guid, key, path), plain_size)
    except OSError as error:
        full = error.errno in _NO_SPACE
        return Sealed(state=State.NO_FREE_SPACE if full else State.INTERNAL_ERROR, reason="SPOOL_FULL" if full else "SPOOL_WRITE")


def write(data: Sequence[bytes | memoryview], guid: UUID, key: bytes, path: Path) -> int:
    """Encrypt buffers into a new file; return its size.

    Raises:
        OSError: it exists, or cannot be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        return stream.encrypt_buffers(key, guid.bytes, data, file)
