"""mdm-catalog fsck asks three keystores and a metadata service itself, lists what is on one side only, and mends it."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from mdm_catalog import __main__ as catalog_main
from mdm_catalog.store.store import PostgresStore
from mdm_catalog.tool import command as tool
from mdm_client.metadata.client import MetadataClient
from mdm_client.metadata.collections import Attribute, Collection
from mdm_client.metadata.entries import Entry
from mdm_metadata import __main__ as metadata_main
from mdm_metadata.config import MetadataSettings
from mdm_service.access.acl import Acl
from mdm_service.access.settings import ROOT_ACL_ID
from mdm_service.database import DatabaseSettings, migrate, open_pool
from mdm_service.process import main
from mdm_site import toml
from mdm_wire.channel import open_channel
from mdm_wire.errors import MdmError
from mdm_wire.tls import TlsFiles

from tests.integration.conftest import NAMES, Processes

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
IMAGES, PATIENTS = "/images", "/patients"


@pytest.fixture
def metadata(postgres: Any, pki: Any) -> Iterator[tuple[str, MetadataClient]]:
    """The address of a metadata service with a collection of images and one of patients, and its client as who registers."""
    name = f"metadata_{uuid4().hex[:12]}"
    conninfo = postgres.create_database(name)
    migrate(conninfo, metadata_main.MIGRATIONS)
    own = pki.issue(pki.subject("metadata"))
    settings = MetadataSettings(
        listen={"port": 0},
        tls={"certificate": own.certificate, "key": own.key, "ca": own.ca},
        trust={"ca": [{"certificate": own.ca, "namespaces": [pki.namespace]}]},
        database={"conninfo": conninfo, "pool_min": 1, "pool_max": 4},
        roles={"operator": [pki.subject("operator")], "service.dicom-srm": [pki.subject("srm")]},
        root={"owner": pki.subject("nobody"), "entries": [{"principal": f"dn:{pki.subject('srm')}", "permissions": "w"}]},
    )
    with ExitStack() as stack:
        stack.callback(postgres.drop_database, name)
        runtime = main.start(settings, metadata_main.build, metadata_main.MIGRATIONS)
        stack.callback(runtime.close)
        stack.callback(runtime.service_server.stop, 0.5)
        address = f"127.0.0.1:{runtime.service_server.port}"
        channel = stack.enter_context(open_channel([address], _identity(pki, "srm")))
        client = MetadataClient(channel)
        acl = client.acls.create({})
        described = [Collection(IMAGES, (Attribute("Rows", "int"),), acl, acl), Collection(PATIENTS, (), acl, acl, sensitive=True)]
        assert client.collections.create(described) == [None, None]
        yield address, client


@pytest.fixture
def catalog(postgres: Any, pki: Any, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A catalog's database and its configuration file."""
    name = f"catalog_{uuid4().hex[:12]}"
    conninfo = postgres.create_database(name)
    migrate(conninfo, catalog_main.MIGRATIONS)
    with open_pool(DatabaseSettings(conninfo=conninfo, pool_min=1, pool_max=1)) as pool:
        PostgresStore(pool).ensure_root(Acl(ROOT_ACL_ID, pki.subject("operator")))
    own = pki.issue(pki.subject("catalog"))
    document = {
        "listen": {"port": 7001},
        "tls": {"certificate": own.certificate, "key": own.key, "ca": own.ca},
        "trust": {"ca": [{"certificate": own.ca, "namespaces": [pki.namespace]}]},
        "database": {"conninfo": conninfo},
        "roles": {"service.dicom-srm": [pki.subject("srm")]},
        "root": {"owner": pki.subject("operator")},
    }
    (tmp_path / "catalog.toml").write_text(toml.dumps(document))
    yield conninfo, tmp_path / "catalog.toml"
    postgres.drop_database(name)


@pytest.fixture
def fsck(keystores: Processes, metadata: Any, catalog: Any, pki: Any, tmp_path: Path, capsys: Any) -> Callable[..., Any]:
    """Run fsck as a user; return its exit code, problems by GUID, those repaired by GUID, and what it said on standard error."""

    def run(*options: str, user: str = "operator", age: str = "0") -> tuple[int, dict[str, str], dict[str, str], str]:
        tls = _identity(pki, user)
        document = {
            "certificate": tls.certificate,
            "key": tls.key,
            "ca": tls.ca,
            "catalog": ["127.0.0.1:1"],
            "metadata": [metadata[0]],
            "threshold": 2,
            "keystores": [
                {"name": name, "index": index, "addresses": [f"127.0.0.1:{keystores.ports[name]}"]} for index, name in enumerate(NAMES, 1)
            ],
        }
        (tmp_path / "client.toml").write_text(toml.dumps(document))
        config = ["--config", str(catalog[1]), "--client", str(tmp_path / "client.toml"), "--min-age", age]
        code = tool.run(["fsck", *config, *options], catalog_main.MIGRATIONS)
        said = capsys.readouterr()
        lines = [json.loads(line) for line in said.out.splitlines()]
        found = {line["guid"]: line["problem"] for line in lines if not line["repaired"] and line["problem"] != "file-without-replica"}
        return code, found, {line["guid"]: line["problem"] for line in lines if line["repaired"]}, said.err

    return run


def _identity(pki: Any, user: str) -> TlsFiles:
    files = pki.issue(pki.subject(user))
    return TlsFiles(files.certificate, files.key, files.ca)


def _register(catalog: tuple[str, Path], guids: list[UUID], age: timedelta = timedelta(days=1)) -> None:
    """Put files into the catalog."""
    since = (datetime.now(UTC) - age).isoformat()
    shared = {"acl": str(ROOT_ACL_ID), "created": since, "modified": since, "rev": 1}
    lines = [{"type": "file", "lfn": f"/{guid}", "guid": str(guid), **shared} for guid in guids]
    source = catalog[1].with_name(f"{uuid4().hex}.jsonl")
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert tool.run(["import", "--config", str(catalog[1]), "--from", str(source)], catalog_main.MIGRATIONS) == 0


def _files(catalog: tuple[str, Path]) -> set[UUID]:
    with psycopg.connect(catalog[0]) as connection:
        return {row[0] for row in connection.execute("SELECT guid FROM entry WHERE kind = 2")}


@pytest.fixture
def sides(keystores: Processes, metadata: Any, catalog: Any) -> dict[str, UUID]:
    """Files of which one lacks nothing, and each other something or everything but one thing."""
    guids = list(keystores.create(keystores.client("srm"), 6))
    sides = dict(zip(("sound", "keyless", "short", "unrecorded", "key", "record"), guids, strict=True))
    for name in ("keyless", "record"):
        for keystore in NAMES:
            keystores.sql(keystore, f"DELETE FROM key_share WHERE guid = '{sides[name]}'")
    for keystore in ("a", "b"):
        keystores.sql(keystore, f"DELETE FROM key_share WHERE guid = '{sides['short']}'")
    _register(catalog, [sides[name] for name in ("sound", "keyless", "short", "unrecorded")])
    recorded = [Entry(str(sides[name]), {"Rows": 1}) for name in ("sound", "keyless", "short", "record")]
    assert metadata[1].entries.upsert(IMAGES, recorded) == [None] * 4
    keystores.create(keystores.client("alice"), 1)  # of a file of her own, which no catalog needs to know
    return sides


def test_every_side_is_asked_and_mended(sides, fsck, keystores, catalog, metadata):
    expected = {
        str(sides["keyless"]): "file-without-key",
        str(sides["short"]): "file-short-of-shares",
        str(sides["unrecorded"]): "file-without-record",
        str(sides["key"]): "key-without-file",
        str(sides["record"]): "record-without-file",
    }
    assert fsck("--collection", IMAGES)[:3] == (1, expected, {})
    assert fsck("--collection", IMAGES, age="3600")[1].keys() == {str(sides[name]) for name in ("keyless", "short", "unrecorded", "record")}
    assert _files(catalog) == {sides[name] for name in ("sound", "keyless", "short", "unrecorded")}, "listing changes nothing"

    _, left, repaired, _ = fsck("--collection", IMAGES, "--repair")
    gone = {str(sides["record"]): "record-without-file"}
    assert repaired == {**gone, str(sides["keyless"]): "record-without-file"}, "its file went first, then its record"
    assert left.keys() == {str(sides[name]) for name in ("short", "unrecorded", "key")}
    assert _files(catalog) == {sides[name] for name in ("sound", "short", "unrecorded")}

    assert fsck("--repair", "--destroy-keys")[2] == {str(sides["key"]): "key-without-file"}
    for of_keystore in keystores.client("operator").key_attributes([sides["key"], sides["sound"]]).values():
        assert [isinstance(of_keystore[sides[name]], MdmError) for name in ("key", "sound")] == [True, False]
    assert keystores.sql("a", "SELECT count(*) FROM key_share WHERE creator LIKE 'CN=alice%'") == [(1,)]


def test_more_than_is_likely_is_not_mended_unasked(fsck, keystores, catalog):
    keystores.create(keystores.client("srm"), 1)
    _register(catalog, [uuid4() for _ in range(3)])
    code, left, repaired, said = fsck("--repair", "--at-most", "2")
    assert (code, len(left), repaired, "repeat with --at-most 3" in said) == (1, 4, {}, True)
    assert len(_files(catalog)) == 3
    assert len(fsck("--repair", "--at-most", "3")[2]) == 3


def test_nothing_is_concluded_from_a_part(sides, fsck, keystores, metadata, catalog):
    before = _files(catalog)
    code, left, _, said = fsck("--repair", user="alice")
    assert (code, left, said.count("\n")) == (2, {}, 1), "a listing for others than operators would miss keys"
    assert fsck("--collection", PATIENTS)[0] == fsck("--collection", "/nowhere")[0] == 2
    keystores.kill("b")
    assert fsck("--repair")[0] == 2
    assert _files(catalog) == before
