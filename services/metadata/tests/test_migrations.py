"""A database of the first version becomes one of this version with all it holds."""

import importlib.resources

import psycopg
import pytest
from mdm_metadata.__main__ import MIGRATIONS
from mdm_metadata.store import PostgresStore
from mdm_metadata.store.session import QueryLimits
from mdm_service.database import check_schema, migrate, open_pool
from mdm_service.identity.caller import Caller
from mdm_service.settings import DatabaseSettings

pytestmark = pytest.mark.integration

ACL = "0190b0a0-1234-4abc-8def-0123456789ab"


def test_what_the_first_version_stored_is_read_after_the_upgrade(postgres):
    conninfo = postgres.create_database("metadata_migrations")
    try:
        first = importlib.resources.files("mdm_metadata.migrations").joinpath("0001_initial.sql").read_text()
        migrate(conninfo, MIGRATIONS[:1])
        with psycopg.connect(conninfo) as connection:
            connection.execute(first.encode())
            connection.execute(
                "INSERT INTO schema_migration (component, number, name) VALUES (%s, 1, '0001_initial.sql')", (MIGRATIONS[-1],)
            )
            connection.execute("INSERT INTO acl (id, owner) VALUES (%s, 'CN=alice')", (ACL,))
            connection.execute(
                "INSERT INTO collection (path, folded_path, acl_id, default_acl_id) VALUES ('/', '/', %(acl)s, %(acl)s)", {"acl": ACL}
            )
            connection.execute(
                "INSERT INTO collection (parent_id, path, folded_path, acl_id, default_acl_id)"
                " SELECT id, '/Old', '/old', acl_id, acl_id FROM collection"
            )
            connection.execute(
                "INSERT INTO attribute (collection_id, position, slot, name, type, indexed)"
                " SELECT id, 0, 'i1', 'Rows', 1, true FROM collection WHERE path = '/Old'"
            )
        applied = migrate(conninfo, MIGRATIONS)
        assert next(name for name in applied if name.startswith(MIGRATIONS[-1])) == "mdm_metadata.migrations/0002_schema.sql"
        with psycopg.connect(conninfo) as connection:
            check_schema(connection, MIGRATIONS)
        pool = open_pool(DatabaseSettings(conninfo=conninfo, pool_min=1, pool_max=1))
        try:
            with PostgresStore(pool, pool, QueryLimits()).transaction() as transaction:
                found = transaction.collections(["/old"], Caller("CN=alice"))["/old"]
        finally:
            pool.close()
        assert (found.collection.path, found.attributes[0].slot, found.attributes[0].attribute.name) == ("/Old", "i1", "Rows")
        assert found.permissions == 255
    finally:
        postgres.drop_database("metadata_migrations")
