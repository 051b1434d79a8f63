"""Migrations: forward only, once, and refused when the program is the older one."""

import os
import socket
import sys
from pathlib import Path

import psycopg
import pytest
from mdm_service import database
from mdm_service.settings import ConfigurationError


@pytest.fixture
def component(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "some_migrations"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "0001_initial.sql").write_text("CREATE TABLE thing (id integer); INSERT INTO thing VALUES (1);")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "some_migrations", raising=False)
    return folder


@pytest.mark.integration
def test_migrations_apply_once_and_the_schema_check_passes_after_them(database_conninfo, component):
    with psycopg.connect(database_conninfo) as connection, pytest.raises(ConfigurationError, match="run `migrate` first"):
        database.check_schema(connection, ["some_migrations"])
    assert database.migrate(database_conninfo, ["some_migrations"]) == ["some_migrations/0001_initial.sql"]
    assert database.migrate(database_conninfo, ["some_migrations"]) == []
    with psycopg.connect(database_conninfo) as connection:
        database.check_schema(connection, ["some_migrations"])


@pytest.mark.integration
def test_a_failing_migration_leaves_nothing_behind(database_conninfo, component):
    database.migrate(database_conninfo, ["some_migrations"])
    (component / "0002_bad.sql").write_text("CREATE TABLE half (id integer); SELECT nonsense;")
    with pytest.raises(psycopg.Error):
        database.migrate(database_conninfo, ["some_migrations"])
    with psycopg.connect(database_conninfo) as connection:
        assert connection.execute("SELECT to_regclass('half')").fetchone() == (None,)


@pytest.mark.integration
def test_a_database_newer_than_the_program_is_refused(database_conninfo, component):
    (component / "0002_more.sql").write_text("SELECT 1;")
    database.migrate(database_conninfo, ["some_migrations"])
    (component / "0002_more.sql").unlink()
    with (
        psycopg.connect(database_conninfo) as connection,
        pytest.raises(ConfigurationError, match=r"does not know \(2\)"),
    ):
        database.check_schema(connection, ["some_migrations"])


@pytest.fixture
def database_conninfo(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue("database").conninfo


@pytest.mark.integration
def test_pooled_connections_do_not_compile_queries(database_conninfo):
    with database.open_pool(database.DatabaseSettings(conninfo=database_conninfo)) as pool, pool.connection() as connection:
        assert connection.execute("SHOW jit").fetchone() == ("off",)


@pytest.mark.integration
@pytest.mark.parametrize("end", ["pg_terminate_backend", "close"])
def test_a_pooled_connection_that_ended_while_idle_is_replaced(database_conninfo, end):
    settings = database.DatabaseSettings(conninfo=database_conninfo, pool_min=1, pool_max=1)
    with database.open_pool(settings) as pool:
        with pool.connection() as connection:
            first = connection.info.backend_pid
            if end == "close":
                connection.commit()
                with socket.socket(fileno=os.dup(connection.fileno())) as end_of_it:
                    end_of_it.shutdown(socket.SHUT_RD)
        if end == "pg_terminate_backend":
            with psycopg.connect(database_conninfo) as other:
                assert other.execute("SELECT pg_terminate_backend(%s, 5000)", (first,)).fetchone() == (True,)
        with pool.connection() as connection:
            assert connection.info.backend_pid != first
            assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.integration
def test_a_pooled_connection_with_an_unread_notice_is_used_on(database_conninfo):
    settings = database.DatabaseSettings(conninfo=database_conninfo, pool_min=1, pool_max=1)
    with database.open_pool(settings) as pool:
        with pool.connection() as connection:
            first = connection.info.backend_pid
            connection.execute("LISTEN something")
        with psycopg.connect(database_conninfo, autocommit=True) as other:
            other.execute("NOTIFY something")
        with pool.connection() as connection:
            assert connection.info.backend_pid == first
            assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.integration
def test_a_reading_pool_reads_in_one_snapshot_and_cannot_write(database_conninfo):
    settings = database.DatabaseSettings(
        conninfo=f"{database_conninfo} target_session_attrs=read-write options='-c geqo=off'", pool_min=1, pool_max=1
    )
    with (
        database.open_reading_pool(settings, {"DateStyle": "ISO, YMD", "statement_timeout": "1500"}) as pool,
        pool.connection() as connection,
    ):
        shown = {
            name: connection.execute(f"SHOW {name}".encode()).fetchone()
            for name in ("default_transaction_isolation", "jit", "geqo", "DateStyle", "statement_timeout")
        }
        assert shown == {
            "default_transaction_isolation": ("repeatable read",),
            "jit": ("off",),
            "geqo": ("off",),
            "DateStyle": ("ISO, YMD",),
            "statement_timeout": ("1500ms",),
        }
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("CREATE TABLE forbidden (x integer)")
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("SELECT pg_sleep(20)")
