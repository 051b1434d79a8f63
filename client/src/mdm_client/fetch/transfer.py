"""Transfer: ciphertext from a site is decrypted with keys from the keystores and written to local files."""

from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

from mdm_crypto.stream import StreamError, decrypt, decrypt_stream
from mdm_wire.batch import in_batches
from mdm_wire.errors import Cancelled, Corrupt, MdmError, NotFound
from mdm_wire.retry import Backoff, Retries, is_transient

from mdm_client.fetch.ciphertext import Ciphertext
from mdm_client.fetch.export import export_file
from mdm_client.fetch.waiting import Cancellation
from mdm_client.keystore.client import KeySource
from mdm_client.local_file import AtomicFile

# Files up to this size are decrypted in memory in one go: cheaper per file than a stream.
ONE_SHOT_BYTES = 8 * 1024 * 1024


def fetch_file(
    source: Ciphertext,
    key: bytes,
    guid: UUID,
    destination: Path,
    durable: bool = False,
    *,
    replace: bool = False,
    recipients: Sequence[bytes] = (),
) -> int:
    """Write the plaintext of a staged file to `destination` and return its size in bytes; with `recipients`, encrypted for them.

    Only authenticated bytes are written, and only a whole file gets its name: after any error nothing remains. A file that has the name
    already stays unless `replace`.

    Raises:
        Corrupt: CIPHERTEXT_NOT_AUTHENTIC.
        MdmError: the site could not be read.
        OSError: the local file could not be written; FileExistsError where one has its name.
    """
    try:
        if recipients:
            return export_file(source, key, guid, destination, recipients, durable, replace=replace)
        if source.size <= ONE_SHOT_BYTES:
            plaintext = decrypt(key, guid.bytes, source.read_all())
            with AtomicFile(destination, durable, replace=replace) as file:
                file.write(plaintext)
            return len(plaintext)
        with AtomicFile(destination, durable, replace=replace) as file:
            return decrypt_stream(key, guid.bytes, source, file)
    except StreamError as error:
        raise Corrupt(
            "CIPHERTEXT_NOT_AUTHENTIC", f"{guid}: the data from the site are not authentic for this file; nothing was kept"
        ) from error


#: Fewer keys than a request may have, so that the first files do not wait for the keys of the last.
_BATCH = 500


class KeyRing:
    """The keys of the files of one download: requested together, returned one by one."""

    def __init__(self, source: KeySource, cancellation: Cancellation, seconds: float) -> None:
        self._source = source
        self._cancellation = cancellation
        self._seconds = seconds
        self._executor = ThreadPoolExecutor(max_workers=2, thread_name_prefix="keys")
        self._batches: dict[UUID, Future[Mapping[UUID, bytes | MdmError]]] = {}

    def request(self, guids: Sequence[UUID]) -> None:
        for batch in in_batches(guids, _BATCH):
            future = self._executor.submit(self._fetch, batch)
            self._batches.update(dict.fromkeys(batch, future))

    def key(self, guid: UUID) -> bytes:
        """Wait for a file's key and return it, or raise the keystores' error."""
        try:
            answer = self._batches[guid].result().get(guid)
        except CancelledError:
            raise Cancelled("CANCELLED", "given up on request") from None
        if answer is None:
            raise NotFound("KEY_NOT_FOUND", f"keystores: no key for {guid}")
        if isinstance(answer, MdmError):
            raise answer
        return answer

    def close(self) -> None:
        """Start no more calls, and wait for those that run."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _fetch(self, guids: list[UUID]) -> Mapping[UUID, bytes | MdmError]:
        """Fetch a batch; while time is left, ask again for keys of which too few keystores returned a share."""
        answers: dict[UUID, bytes | MdmError] = {}
        retries = Retries(self._seconds, Backoff(0.3, 5.0), self._cancellation.wait)
        missing = guids
        while missing:
            answers.update(self._ask(missing))
            missing = [guid for guid in missing if isinstance(answer := answers.get(guid), MdmError) and is_transient(answer)]
            if self._cancellation.stopped or (missing and not retries.pause()):
                break
        return answers

    def _ask(self, guids: list[UUID]) -> Mapping[UUID, bytes | MdmError]:
        try:
            return self._source.get_keys(guids)
        except MdmError as error:
            return dict.fromkeys(guids, error)
