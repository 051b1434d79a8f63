"""The catalog's command: serve, migrate, check-config; export, import, fsck."""

import sys

from mdm.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from mdm_service.access import servicer as acl_servicer
from mdm_service.process.main import Runtime, run

from mdm_catalog.config import CatalogSettings
from mdm_catalog.rpc.servicer import CatalogServicer
from mdm_catalog.store.store import CatalogAclUses, PostgresStore

COMMANDS = ("export", "import", "fsck")
MIGRATIONS = ("mdm_service.acl_migrations", "mdm_service.delegation_migrations", "mdm_catalog.migrations")


def build(settings: CatalogSettings, runtime: Runtime) -> None:
    """Put the service together on a server and a database."""
    store = PostgresStore(runtime.database)
    store.ensure_root(settings.root.acl())
    catalog_pb2_grpc.add_CatalogServiceServicer_to_server(CatalogServicer(store, runtime.authenticator), runtime.server)
    acl_servicer.add_acl_service(runtime.server, runtime.database, CatalogAclUses(), runtime.authenticator)
    for full_name in (catalog_pb2.DESCRIPTOR.services_by_name["CatalogService"].full_name, acl_servicer.FULL_NAME):
        runtime.add_service(full_name)


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:
        from mdm_catalog.tool import command as tool  # here: what serves needs no client of other services

        sys.exit(tool.run(sys.argv[1:], MIGRATIONS))
    run("catalog", CatalogSettings, build, MIGRATIONS)


if __name__ == "__main__":
    main()
