"""What operators do with keystores: give keys new shares, seal shares under a new key, read the audit. Never a share."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import UUID, uuid4

from mdm.keystore.v1 import admin_pb2
from mdm_wire.errors import Invalid
from mdm_wire.retry import RetryPolicy

from mdm_client.keystore.calls import KeystoreServer
from mdm_client.service import Service

REFRESH = admin_pb2.RESHARING_KIND_REFRESH
REPAIR = admin_pb2.RESHARING_KIND_REPAIR
RESHARE = admin_pb2.RESHARING_KIND_RESHARE
_ENDED = (admin_pb2.RESHARING_STATE_DONE, admin_pb2.RESHARING_STATE_CANCELLED)


class KeystoreOperator:
    """All keystores, for a caller that is an operator of each. Calls are repeated while a keystore is away, within `policy`."""

    def __init__(self, servers: Sequence[KeystoreServer], policy: RetryPolicy | None = None) -> None:
        self._servers = {server.name: server for server in servers}
        self._policy = policy or RetryPolicy()

    @property
    def names(self) -> list[str]:
        """The keystores' names."""
        return list(self._servers)

    def refresh(self, driver: str = "", resharing_id: UUID | None = None) -> admin_pb2.Resharing:
        """Begin to give every key new shares on the same keystores. `driver` names the keystore that does it (default: the first).

        The job goes on by itself, also after that keystore was killed; watch it with `resharing` or `wait`. With the id of an earlier
        attempt it is begun once, however often it is asked for.

        Raises:
            MdmError: RESHARING_RUNNING, where that keystore drives another one; PEERS_UNKNOWN; or it cannot be reached.
        """
        return self._begin(driver or self.names[0], resharing_id, kind=REFRESH)

    def repair(self, lost: Sequence[str], driver: str = "", resharing_id: UUID | None = None) -> admin_pb2.Resharing:
        """Begin to give the named keystores the shares that they lost or cannot open; no keystore learns a key. Else as `refresh`."""
        indexes = [self._server(name).index for name in lost]
        sound = next((name for name in self.names if name not in lost), "")
        return self._begin(driver or sound or self.names[0], resharing_id, kind=REPAIR, lost=indexes)

    def reshare(self, threshold: int, total: int, driver: str = "", resharing_id: UUID | None = None) -> admin_pb2.Resharing:
        """Begin to split every key `threshold` of `total`, over the keystores 1 to `total`. Else as `refresh`."""
        return self._begin(driver or self.names[0], resharing_id, kind=RESHARE, threshold=threshold, total=total)

    def resharing(self, driver: str, resharing_id: UUID | None = None) -> admin_pb2.Resharing:
        """Return a job (None: the latest) that the named keystore drives.

        Raises:
            MdmError: RESHARING_NOT_FOUND, or it cannot be reached.
        """
        request = admin_pb2.GetResharingRequest(id=str(resharing_id) if resharing_id else "")
        job: admin_pb2.Resharing = self._call(driver, "GetResharing", request).resharing
        return job

    def wait(
        self, driver: str, resharing_id: UUID, progress: Callable[[admin_pb2.Resharing], None] = lambda _: None, pause: float = 0.5
    ) -> admin_pb2.Resharing:
        """Return a job when it has ended; `progress` gets its state every `pause` seconds. Interrupting this does not stop the job."""
        while True:
            job = self.resharing(driver, resharing_id)
            progress(job)
            if job.state in _ENDED:
                return job
            time.sleep(pause)

    def cancel(self, driver: str, resharing_id: UUID) -> admin_pb2.Resharing:
        """Stop a job after the batch under way; keys already done keep their new shares.

        Raises:
            MdmError: RESHARING_FORBIDDEN unless the caller began it; RESHARING_NOT_FOUND; RESHARING_ENDED.
        """
        request = admin_pb2.CancelResharingRequest(id=str(resharing_id))
        job: admin_pb2.Resharing = self._call(driver, "CancelResharing", request).resharing
        return job

    def rewrap(self, name: str) -> Iterator[admin_pb2.RewrapSharesResponse]:
        """Seal a keystore's shares under the first key of its file, batch by batch; yields what each batch did. Safe to repeat."""
        while True:
            done = self._call(name, "RewrapShares", admin_pb2.RewrapSharesRequest())
            yield done
            if not done.remaining or not done.rewrapped:
                return

    def audit_pages(self, name: str, after_seq: int = 0) -> Iterator[admin_pb2.ListAuditEntriesResponse]:
        """Yield the audit of a keystore from behind `after_seq`, page by page, each with the signed head; the last one is empty."""
        while True:
            page = self._call(name, "ListAuditEntries", admin_pb2.ListAuditEntriesRequest(after_seq=after_seq))
            yield page
            if not page.entries:
                return
            after_seq = page.entries[-1].seq

    def witnessed_heads(self, name: str, share_index: int = 0) -> Iterator[admin_pb2.WitnessedHead]:
        """Yield the heads that a keystore has witnessed (of one keystore, or 0: of all), oldest first."""
        server = self._server(name)

        def request(token: str) -> admin_pb2.ListWitnessedHeadsRequest:
            return admin_pb2.ListWitnessedHeadsRequest(share_index=share_index, page_token=token)

        for page in self._service(server).pages(server.admin.ListWitnessedHeads, request):
            yield from page.heads

    def index_of(self, name: str) -> int:
        """Return the share index that the configuration gives a keystore."""
        return self._server(name).index

    def _begin(self, driver: str, resharing_id: UUID | None, **fields: Any) -> admin_pb2.Resharing:
        request = admin_pb2.BeginResharingRequest(id=str(resharing_id or uuid4()), **fields)
        job: admin_pb2.Resharing = self._call(driver, "BeginResharing", request).resharing
        return job

    def _call(self, name: str, method: str, request: Any) -> Any:
        server = self._server(name)
        return self._service(server).call(getattr(server.admin, method), request)

    def _service(self, server: KeystoreServer) -> Service:
        return Service(server.place, server.channel, self._policy)

    def _server(self, name: str) -> KeystoreServer:
        if name not in self._servers:
            known = ", ".join(self._servers)
            raise Invalid("KEYSTORE_UNKNOWN", f"{name}: no such keystore in the configuration; there: {known}")
        return self._servers[name]
