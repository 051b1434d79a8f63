"""The composition of a keystore: its services on its store, its peers, and its background threads."""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

import grpc
from cryptography import x509
from mdm.keystore.v1 import admin_pb2_grpc, keystore_pb2_grpc, peer_pb2_grpc
from mdm_service.access.servicer import FULL_NAME as ACL_SERVICE
from mdm_service.access.servicer import add_acl_service
from mdm_service.identity.caller import Authenticator
from mdm_service.settings import TlsSettings
from mdm_wire import dn
from psycopg_pool import ConnectionPool

from mdm_keystore.config import KeystoreSection
from mdm_keystore.peer.client import LocalPeer, RemotePeer, RemoteWitness, open_channel
from mdm_keystore.rpc import admin_servicer, peer_servicer, servicer
from mdm_keystore.rules.audit import AuditTrail
from mdm_keystore.rules.resharing.driver import Driver
from mdm_keystore.rules.resharing.job import JobControl
from mdm_keystore.rules.resharing.model import Shareholders
from mdm_keystore.rules.resharing.participant import Participant
from mdm_keystore.rules.rewrapping import Rewrapping
from mdm_keystore.rules.seal import Sealer
from mdm_keystore.rules.service import KeystoreService
from mdm_keystore.store.audit import ChainedAclAudit, PostgresTrail
from mdm_keystore.store.job import PostgresJobs
from mdm_keystore.store.key import KeyAclUses, PostgresKeys, PostgresSeals
from mdm_keystore.store.sharing import PostgresParts, PostgresSharings

_log = logging.getLogger(__name__)


class Loop:
    """Calls `work` every `interval` seconds, or sooner when woken, in a thread of its own until stopped.

    If `work` returns True it is called again at once; if it fails, in the next round.
    """

    def __init__(self, name: str, work: Callable[[], int | None], interval: float) -> None:
        self._name = name
        self._work = work
        self._interval = interval
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Begin the next round now."""
        self._woken.set()

    def stop(self) -> None:
        """End the loop, and wait for a round under way."""
        self._stopping.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            if not self._round():
                self._woken.wait(self._interval)
                self._woken.clear()

    def _round(self) -> bool:
        try:
            return bool(self._work())
        except Exception as error:
            # Whatever went wrong (usually the database is away), the next round tries again.
            _log.warning("%s failed", self._name, extra={"error": type(error).__name__})
            return False


_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Keystore:
    """The parts of one keystore that outlive a call."""

    service: KeystoreService
    participant: Participant
    trail: AuditTrail
    job_control: JobControl
    rewrapping: Rewrapping
    loops: Sequence[Loop]
    channels: Sequence[grpc.Channel]
    executor: ThreadPoolExecutor

    def register(
        self,
        server: grpc.Server,
        pool: ConnectionPool,
        authenticator: Authenticator,
        keys: Callable[[KeystoreService], keystore_pb2_grpc.KeystoreServiceServicer] = servicer.KeystoreServicer,
    ) -> Sequence[str]:
        """Add every service to a server; return their names."""
        keystore_pb2_grpc.add_KeystoreServiceServicer_to_server(keys(self.service), server)
        admin = admin_servicer.AdminServicer(self.job_control, self.rewrapping, self.trail)
        admin_pb2_grpc.add_KeystoreAdminServiceServicer_to_server(admin, server)
        peer = peer_servicer.PeerServicer(self.participant, self.trail)
        peer_pb2_grpc.add_KeystorePeerServiceServicer_to_server(peer, server)
        add_acl_service(server, pool, KeyAclUses(), authenticator, ChainedAclAudit())
        return servicer.FULL_NAME, admin_servicer.FULL_NAME, peer_servicer.FULL_NAME, ACL_SERVICE

    def start(self) -> None:
        """Start the threads."""
        for loop in self.loops:
            loop.start()

    def stop(self) -> None:
        """Stop the threads and close the channels."""
        for channel in self.channels:
            channel.close()
        for loop in self.loops:
            loop.stop()
        self.executor.shutdown(cancel_futures=True)


def compose(section: KeystoreSection, tls: TlsSettings, pool: ConnectionPool, sealer: Sealer) -> Keystore:
    """Return the composed keystore; no thread runs yet."""
    ttl = timedelta(seconds=section.pending_ttl_seconds)
    service = KeystoreService(PostgresKeys(pool), sealer, name=section.name, index=section.index, pending_ttl=ttl)
    jobs = PostgresJobs(pool)
    own = dn.of_certificate(x509.load_pem_x509_certificate(tls.certificate.read_bytes()))
    subjects = {section.index: own, **{peer.index: peer.subject for peer in section.peers}}
    shareholders = Shareholders(section.index, subjects, section.minimum_threshold)
    participant = Participant(PostgresSharings(pool), jobs, PostgresParts(pool, sealer), sealer, shareholders)
    channels = {peer.index: open_channel(peer.address, tls) for peer in section.peers}
    remote = {index: RemotePeer(index, channel) for index, channel in channels.items()}
    participant.peers = {section.index: LocalPeer(participant, own), **remote}
    witnesses = {index: RemoteWitness(index, channel) for index, channel in channels.items()}
    trail = AuditTrail(PostgresTrail(pool, section.index), sealer, index=section.index, witnesses=witnesses)
    executor = ThreadPoolExecutor(max(1, len(subjects)), thread_name_prefix="resharing")
    driving = Loop("resharing", Driver(jobs, participant, executor).step, _POLL_SECONDS)
    control = JobControl(jobs, shareholders, driving.wake)
    loops = (
        Loop("purge", service.purge_expired, section.purge_interval_seconds),
        Loop("witness", trail.show_head, section.witness_interval_seconds),
        driving,
    )
    return Keystore(service, participant, trail, control, Rewrapping(PostgresSeals(pool), sealer), loops, list(channels.values()), executor)
