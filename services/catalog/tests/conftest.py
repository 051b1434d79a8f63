"""A catalog server over mutual TLS on a fresh database, and its callers."""

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psycopg
import pytest
from mdm.acl.v1 import acl_pb2, acl_pb2_grpc
from mdm.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from mdm_catalog.__main__ import MIGRATIONS, build
from mdm_catalog.config import CatalogSettings
from mdm_catalog.store.store import PostgresStore
from mdm_service import database as service_database
from mdm_service.process import main
from mdm_testing.server import channel
from mdm_wire.permission import parse_permissions

GROUPS = {"/biomed/neuro": ["alice", "bob"], "/biomed/hospital-a/stewards": ["steward"]}


@dataclass
class Client:
    """One caller's stubs."""

    dn: str
    catalog: catalog_pb2_grpc.CatalogServiceStub
    acls: acl_pb2_grpc.AclServiceStub

    def mkdir(self, *lfns: str, acl: str = "", default: str = "", parents: bool = False) -> list[str]:
        """Make directories; return reasons, empty for success."""
        directories = [catalog_pb2.NewDirectory(lfn=lfn, acl_id=acl, default_acl_id=default) for lfn in lfns]
        answer = self.catalog.MakeDirectories(catalog_pb2.MakeDirectoriesRequest(directories=directories, parents=parents))
        return [status.reason for status in answer.statuses]

    def register(self, *files: catalog_pb2.NewFile) -> list[str]:
        """Register files; return reasons, empty for success."""
        return [status.reason for status in self.catalog.RegisterFiles(catalog_pb2.RegisterFilesRequest(files=files)).statuses]

    def stat(self, *lfns: str, replicas: bool = False) -> list[catalog_pb2.EntryResult]:
        """Stat paths."""
        targets = [catalog_pb2.Target(lfn=lfn) for lfn in lfns]
        return list(self.catalog.Stat(catalog_pb2.StatRequest(targets=targets, with_replicas=replicas)).results)

    def resolve(self, *targets: catalog_pb2.Target) -> list[catalog_pb2.ResolveResult]:
        """Resolve targets."""
        return list(self.catalog.Resolve(catalog_pb2.ResolveRequest(targets=targets)).results)

    def ls(self, lfn: str, *, recursive: bool = False, after: str = "") -> list[str]:
        """List the paths of a directory."""
        answers = self.catalog.List(catalog_pb2.ListRequest(lfn=lfn, recursive=recursive, after=after))
        return [entry.lfn for answer in answers for entry in answer.entries]

    def remove(self, *lfns: str, recursive: bool = False) -> list[str]:
        """Remove paths; return reasons, empty for success."""
        targets = [catalog_pb2.Target(lfn=lfn) for lfn in lfns]
        return [status.reason for status in self.catalog.Remove(catalog_pb2.RemoveRequest(targets=targets, recursive=recursive)).statuses]

    def new_acl(self, **entries: str) -> str:
        """Create an ACL owned by this caller; a keyword is a user's common name, `authenticated` or a group with `_` for `/`."""
        acl_id = str(uuid.uuid4())
        messages = [
            acl_pb2.AclEntry(principal=_principal(self.dn, name), permissions=int(parse_permissions(letters)))
            for name, letters in entries.items()
        ]
        answer = self.acls.CreateAcls(acl_pb2.CreateAclsRequest(acls=[acl_pb2.Acl(id=acl_id, entries=messages)]))
        assert answer.statuses[0].code == 0, answer
        return acl_id


def _principal(own_dn: str, name: str) -> str:
    if name == "authenticated":
        return name
    if name.startswith("_"):
        return "group:" + name.replace("_", "/")
    return "dn:" + own_dn.replace(own_dn.partition(",")[0], f"CN={name}")


@dataclass
class Catalog:
    """A running catalog."""

    conninfo: str
    address: str
    runtime: main.Runtime
    settings: CatalogSettings
    client: Callable[[str], Client]
    clients: dict[str, Client] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Client:
        if name not in self.clients:
            self.clients[name] = self.client(name.replace("_", "-"))
        return self.clients[name]


def write_settings(directory: Path, pki: object, conninfo: str, root: Mapping[str, str]) -> CatalogSettings:
    """Write groups and return settings of a catalog whose root gives the named users these permissions."""
    groups = directory / "groups.toml"
    lines = [f'"{group}" = {[pki.subject(user) for user in users]}' for group, users in GROUPS.items()]
    groups.write_text("\n".join(["[groups]", *lines]))
    files = pki.issue(pki.subject("catalog"))
    return CatalogSettings(
        listen={"port": 0},
        tls={"certificate": files.certificate, "key": files.key, "ca": files.ca},
        trust={"ca": [{"certificate": files.ca, "namespaces": [pki.namespace]}]},
        groups={"file": groups},
        roles={"operator": [pki.subject("operator")], "service.dicom-srm": [pki.subject("dicom-srm")]},
        database={"conninfo": conninfo},
        root={
            "owner": pki.subject("operator"),
            "entries": [
                {"principal": name if name == "authenticated" else f"dn:{pki.subject(name)}", "permissions": letters}
                for name, letters in root.items()
            ],
        },
    )


@pytest.fixture(scope="session")
def running_catalog(postgres, pki, tmp_path_factory) -> Iterator[Catalog]:
    """A catalog in this process, shared by all tests of a session."""
    conninfo = postgres.create_database(f"catalog_{uuid.uuid4().hex[:12]}")
    service_database.migrate(conninfo, MIGRATIONS)
    settings = write_settings(tmp_path_factory.mktemp("catalog"), pki, conninfo, {"dicom-srm": "wxlg", "authenticated": "x"})
    with ExitStack() as stack:
        runtime = main.start(settings, build, MIGRATIONS)
        stack.callback(runtime.close)
        stack.callback(runtime.service_server.stop, 0.5)
        address = f"127.0.0.1:{runtime.service_server.port}"

        def client(name: str) -> Client:
            opened: grpc.Channel = stack.enter_context(channel(address, pki.issue(pki.subject(name))))
            return Client(pki.subject(name), catalog_pb2_grpc.CatalogServiceStub(opened), acl_pb2_grpc.AclServiceStub(opened))

        yield Catalog(conninfo, address, runtime, settings, client)


@pytest.fixture
def catalog(running_catalog) -> Catalog:
    """The running catalog, emptied; `catalog.alice` calls it as alice."""
    with psycopg.connect(running_catalog.conninfo) as opened:
        opened.execute("TRUNCATE replica, entry, directory_content, acl_entry, acl")
    PostgresStore(running_catalog.runtime.database).ensure_root(running_catalog.settings.root.acl())
    return running_catalog


@pytest.fixture
def new_file() -> Callable[..., catalog_pb2.NewFile]:
    """Make a file message with a replica of its own."""

    def make(lfn: str, guid: str = "", **fields: object) -> catalog_pb2.NewFile:
        guid = guid or str(uuid.uuid4())
        fields.setdefault("replicas", [catalog_pb2.Replica(surl=f"srm://hospital-a/{guid}")])
        return catalog_pb2.NewFile(lfn=lfn, guid=guid, **fields)

    return make


@pytest.fixture
def study(catalog, new_file) -> str:
    """A study of two series with two files each under `/biomed/hospital-a`, readable by the group `/biomed/neuro`; its ACL."""
    srm = catalog.dicom_srm
    site = srm.new_acl(authenticated="x", _biomed_neuro="lxg")
    assert srm.mkdir("/biomed", "/biomed/hospital-a", acl=site) == ["", ""]
    acl = srm.new_acl(_biomed_neuro="rlxg")
    assert srm.mkdir("/biomed/hospital-a/p/study", acl=acl, parents=True) == [""]
    assert srm.mkdir("/biomed/hospital-a/p/study/1", "/biomed/hospital-a/p/study/2") == ["", ""]
    files = [new_file(f"/biomed/hospital-a/p/study/{series}/{number}.dcm") for series in (1, 2) for number in (1, 2)]
    assert srm.register(*files) == [""] * 4
    return acl


@pytest.fixture
def connection(catalog) -> Iterator[psycopg.Connection]:
    """A connection to the catalog's database."""
    with psycopg.connect(catalog.conninfo) as opened:
        yield opened
