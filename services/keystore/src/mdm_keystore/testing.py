"""Help for tests: a keystore in this process over real mutual TLS and a real database."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from mdm.keystore.v1 import keystore_pb2_grpc
from mdm_service import database
from mdm_service.acl_servicer import add_acl_service
from mdm_service.authentication import Authenticator
from mdm_service.database import DatabaseSettings
from mdm_service.server import ServiceServer
from mdm_service.testing import Identity, serve_in_process

from mdm_keystore.__main__ import MIGRATIONS
from mdm_keystore.seal import Sealer
from mdm_keystore.service import KeystoreService
from mdm_keystore.servicer import FULL_NAME, KeystoreServicer
from mdm_keystore.store import PostgresKeys


@dataclass(frozen=True)
class RunningKeystore:
    """A running keystore: where it listens, and its parts for a test to look into."""

    address: str
    index: int
    service: KeystoreService
    keys: PostgresKeys
    conninfo: str
    running: bool = True


@contextmanager
def serve_keystore(
    conninfo: str,
    identity: Identity,
    index: int,
    *,
    namespace: str,
    sealer: Sealer,
    roles: dict[str, tuple[str, ...]] | None = None,
    pending_ttl: timedelta = timedelta(hours=1),
    servicer: Callable[[KeystoreService], keystore_pb2_grpc.KeystoreServiceServicer] = KeystoreServicer,
) -> Iterator[RunningKeystore]:
    """Migrate a database and serve a keystore on a free port until the block ends.

    `servicer` may return one that lies or hangs.
    """
    database.migrate(conninfo, MIGRATIONS)
    pool = database.open_pool(DatabaseSettings(conninfo=conninfo, pool_min=1, pool_max=8))
    keys = PostgresKeys(pool)
    service = KeystoreService(keys, sealer, name=f"keystore-{index}", index=index, pending_ttl=pending_ttl)

    def register(server: ServiceServer, _: Authenticator) -> None:
        keystore_pb2_grpc.add_KeystoreServiceServicer_to_server(servicer(service), server.grpc)
        add_acl_service(server.grpc, pool)
        server.add_service(FULL_NAME)

    try:
        with serve_in_process(identity, register, namespaces=(namespace,), roles=roles) as running:
            yield RunningKeystore(running.address, index, service, keys, conninfo)
    finally:
        pool.close()
