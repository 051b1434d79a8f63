"""File keys, fetched in batches while files are being staged."""

from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from uuid import UUID

from mdm_wire.batch import in_batches
from mdm_wire.errors import Cancelled, MdmError, NotFound
from mdm_wire.retry import Backoff, Retries, is_transient

from mdm_client.fetch.transfer import Cancellation
from mdm_client.keystore.client import KeySource

#: Fewer than a request may have, so that the first files do not wait for the keys of the last.
_BATCH = 500


class KeyRing:
    """The keys of the files of one download; requested at once, waited for one by one."""

    def __init__(self, source: KeySource, cancellation: Cancellation, seconds: float) -> None:
        self._source = source
        self._cancellation = cancellation
        self._seconds = seconds
        self._executor = ThreadPoolExecutor(max_workers=2, thread_name_prefix="keys")
        self._batches: dict[UUID, Future[Mapping[UUID, bytes | MdmError]]] = {}

    def request(self, guids: Sequence[UUID]) -> None:
        """Start fetching these keys."""
        for batch in in_batches(guids, _BATCH):
            future = self._executor.submit(self._fetch, batch)
            self._batches.update(dict.fromkeys(batch, future))

    def key(self, guid: UUID) -> bytes:
        """Return a file's key, waiting for it.

        Raises:
            MdmError: why the keystores do not give it.
        """
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
        """Give up what was not fetched, and wait for the calls that run."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _fetch(self, guids: list[UUID]) -> Mapping[UUID, bytes | MdmError]:
        """Fetch a batch; ask again for keys that too few keystores could give, as long as time is left."""
        answers: dict[UUID, bytes | MdmError] = {}
        retries = Retries(self._seconds, Backoff(0.3, 5.0), self._cancellation.wait)
        missing = guids
        while missing:
            answers.update(self._ask(missing))
            missing = [guid for guid in missing if _may_come(answers.get(guid))]
            if self._cancellation.stopped or (missing and not retries.pause()):
                break
        return answers

    def _ask(self, guids: list[UUID]) -> Mapping[UUID, bytes | MdmError]:
        try:
            return self._source.get_keys(guids)
        except MdmError as error:
            return dict.fromkeys(guids, error)


def _may_come(answer: bytes | MdmError | None) -> bool:
    return isinstance(answer, MdmError) and is_transient(answer)
