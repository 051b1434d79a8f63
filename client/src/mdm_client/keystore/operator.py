"""Keystores for their operators: new shares of keys, new keys that seal shares, the audit. No share leaves a keystore."""

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
    """All keystores, for an operator of each. While a keystore is unreachable, calls are repeated as `policy` says."""

    def __init__(self, servers: Sequence[KeystoreServer], policy: RetryPolicy | None = None) -> None:
        self._servers = {server.name: server for server in servers}
        self._policy = policy or RetryPolicy()

    @property
    def names(self) -> list[str]:
        return list(self._servers)

    def refresh(self, driver: str = "", resharing_id: UUID | None = None) -> admin_pb2.Resharing:
        """Begin to give every key new shares on the same keystores. `driver` names the keystore that drives the job (default: the first).

        The job continues by itself, also after that keystore was restarted; watch it with `resharing` or `wait`. A job is begun only once
        under one id.

        Raises:
            MdmError: RESHARING_RUNNING: that keystore drives another job. PEERS_UNKNOWN. It cannot be reached.
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
        """Return a job (None: the latest) that the named keystore drives; NotFound: RESHARING_NOT_FOUND."""
        request = admin_pb2.GetResharingRequest(id=str(resharing_id) if resharing_id else "")
        return self._job(driver, "GetResharing", request)

    def wait(
        self, driver: str, resharing_id: UUID, progress: Callable[[admin_pb2.Resharing], None] = lambda _: None, pause: float = 0.5
    ) -> admin_pb2.Resharing:
        """Return a job when it has ended; `progress` gets it every `pause` seconds. An interrupt of this method does not stop the job."""
        while True:
            job = self.resharing(driver, resharing_id)
            progress(job)
            if job.state in _ENDED:
                return job
            time.sleep(pause)

    def cancel(self, driver: str, resharing_id: UUID) -> admin_pb2.Resharing:
        """Stop a job after its current batch; keys that are done keep their new shares.

        Raises:
            MdmError: RESHARING_FORBIDDEN unless the caller began it; RESHARING_NOT_FOUND; RESHARING_ENDED.
        """
        request = admin_pb2.CancelResharingRequest(id=str(resharing_id))
        return self._job(driver, "CancelResharing", request)

    def rewrap(self, name: str) -> Iterator[admin_pb2.RewrapSharesResponse]:
        """Seal a keystore's shares under the first key of its file; yield the result of each batch. Safe to repeat."""
        while True:
            done = self._call(name, "RewrapShares", admin_pb2.RewrapSharesRequest())
            yield done
            if not done.remaining or not done.rewrapped:
                return

    def audit_pages(self, name: str, after_seq: int = 0) -> Iterator[admin_pb2.ListAuditEntriesResponse]:
        """Yield the pages of a keystore's audit after `after_seq`, each with the signed head; the last page is empty."""
        while True:
            page = self._call(name, "ListAuditEntries", admin_pb2.ListAuditEntriesRequest(after_seq=after_seq))
            yield page
            if not page.entries:
                return
            after_seq = page.entries[-1].seq

    def witnessed_heads(self, name: str) -> Iterator[admin_pb2.WitnessedHead]:
        """Yield the heads that a keystore has witnessed, oldest first."""
        server = self._server(name)

        def request(token: str) -> admin_pb2.ListWitnessedHeadsRequest:
            return admin_pb2.ListWitnessedHeadsRequest(page_token=token)

        for page in self._service(server).pages(server.admin.ListWitnessedHeads, request):
            yield from page.heads

    def index_of(self, name: str) -> int:
        """Return the share index of a keystore in the configuration."""
        return self._server(name).index

    def _begin(self, driver: str, resharing_id: UUID | None, **fields: Any) -> admin_pb2.Resharing:
        request = admin_pb2.BeginResharingRequest(id=str(resharing_id or uuid4()), **fields)
        return self._job(driver, "BeginResharing", request)

    def _job(self, driver: str, method: str, request: Any) -> admin_pb2.Resharing:
        job: admin_pb2.Resharing = self._call(driver, method, request).resharing
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
