"""The keystore's command line: serve, migrate, check-config."""

from datetime import timedelta

from mdm.keystore.v1 import keystore_pb2_grpc
from mdm_service.acl_servicer import FULL_NAME as ACL_SERVICE
from mdm_service.acl_servicer import add_acl_service
from mdm_service.main import Runtime, run

from mdm_keystore.config import KeystoreSettings
from mdm_keystore.purge import PurgeLoop
from mdm_keystore.seal import Sealer
from mdm_keystore.service import KeystoreService
from mdm_keystore.servicer import FULL_NAME, KeystoreServicer
from mdm_keystore.store import PostgresKeys

MIGRATIONS = ("mdm_service.acl_migrations", "mdm_keystore.migrations")


def build(settings: KeystoreSettings, runtime: Runtime) -> None:
    """Compose the service on its store and register it."""
    section = settings.keystore
    service = KeystoreService(
        PostgresKeys(runtime.database),
        Sealer.from_file(section.kek_file),
        name=section.name,
        index=section.index,
        pending_ttl=timedelta(seconds=section.pending_ttl_seconds),
    )
    keystore_pb2_grpc.add_KeystoreServiceServicer_to_server(KeystoreServicer(service), runtime.server)
    add_acl_service(runtime.server, runtime.database)
    runtime.add_service(FULL_NAME)
    runtime.add_service(ACL_SERVICE)
    purge = PurgeLoop(service.purge_expired, section.purge_interval_seconds)
    runtime.on_stop(purge.stop)


def main() -> None:
    """Run the command line."""
    run("keystore", KeystoreSettings, build, migrations=MIGRATIONS)


if __name__ == "__main__":
    main()
