"""Help for tests: a keystore in this process over real mutual TLS and a real database."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mdm.keystore.v1 import keystore_pb2_grpc
from mdm_keystore.__main__ import MIGRATIONS
from mdm_keystore.composition import compose
from mdm_keystore.config import KeystoreSection
from mdm_keystore.rpc.servicer import KeystoreServicer
from mdm_keystore.rules.seal import Sealer
from mdm_keystore.rules.service import KeystoreService
from mdm_keystore.store.store import PostgresKeys
from mdm_service import database
from mdm_service.database import DatabaseSettings
from mdm_service.identity.authentication import Authenticator
from mdm_service.server.server import ServiceServer
from mdm_service.settings import TlsSettings
from mdm_testing.server import Identity, serve_in_process


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
    servicer: Callable[[KeystoreService], keystore_pb2_grpc.KeystoreServiceServicer] = KeystoreServicer,
) -> Iterator[RunningKeystore]:
    """Migrate a database and serve a keystore without peers on a free port until the block ends.

    `servicer` may return one that lies or hangs.
    """
    database.migrate(conninfo, MIGRATIONS)
    pool = database.open_pool(DatabaseSettings(conninfo=conninfo, pool_min=1, pool_max=8))
    section = KeystoreSection(name=f"keystore-{index}", index=index, kek_file=Path("kek"))
    tls = TlsSettings(certificate=identity.certificate, key=identity.key, ca=identity.ca)
    keystore = compose(section, tls, pool, sealer)

    def register(server: ServiceServer, _: Authenticator) -> None:
        for name in keystore.register(server.grpc, pool, servicer):
            server.add_service(name)

    try:
        with serve_in_process(identity, register, namespaces=(namespace,), roles=roles) as running:
            yield RunningKeystore(running.address, index, keystore.service, PostgresKeys(pool), conninfo)
    finally:
        keystore.stop()
        pool.close()
