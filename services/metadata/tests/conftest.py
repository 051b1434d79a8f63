"""Fixtures: a metadata server over real mutual TLS on a real PostgreSQL, and callers of it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any
from uuid import UUID, uuid4

import grpc
import psycopg
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from mdm.acl.v1 import acl_pb2, acl_pb2_grpc
from mdm.metadata.v1 import metadata_pb2 as pb
from mdm.metadata.v1 import metadata_pb2_grpc
from mdm_metadata.__main__ import MIGRATIONS, build
from mdm_metadata.config import MetadataSettings
from mdm_service.database import migrate
from mdm_service.process import main
from mdm_testing.postgres import fresh_databases
from mdm_testing.server import channel, configuration

FIELDS = {pb.ATTRIBUTE_TYPE_INT: "ints", pb.ATTRIBUTE_TYPE_FLOAT: "floats", pb.ATTRIBUTE_TYPE_BOOL: "bools"}


class Failed(Exception):
    """A call that failed: code and reason as a client sees them."""

    def __init__(self, error: grpc.RpcError) -> None:
        super().__init__(error.details())
        self.code = error.code()
        self.message = error.details()
        self.reason = ""
        status = rpc_status.from_call(error)
        for detail in status.details if status else ():
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info):
                self.reason = info.reason


@dataclass
class Answer:
    """A whole answer: names, types and units of columns, and rows."""

    names: list[str]
    types: list[int]
    units: list[str]
    rows: list[tuple[Any, ...]]


class Client:
    """A caller of the service."""

    def __init__(self, opened: grpc.Channel, dn: str) -> None:
        self.dn = dn
        self.metadata = metadata_pb2_grpc.MetadataServiceStub(opened)
        self.acls = acl_pb2_grpc.AclServiceStub(opened)

    def call(self, method: str, request: Any) -> Any:
        try:
            return getattr(self.metadata, method)(request, timeout=30)
        except grpc.RpcError as error:
            raise Failed(error) from None

    def acl(self, entries: dict[str, int], acl_id: UUID | None = None) -> str:
        """Make an ACL and return its id."""
        acl = acl_pb2.Acl(id=str(acl_id or uuid4()), entries=[acl_pb2.AclEntry(principal=p, permissions=b) for p, b in entries.items()])
        created = self.acls.CreateAcls(acl_pb2.CreateAclsRequest(acls=[acl]), timeout=30)
        assert created.statuses[0].code == 0, created.statuses[0]
        return acl.id

    def create(self, *collections: pb.Collection) -> list[str]:
        response = self.call("CreateCollections", pb.CreateCollectionsRequest(collections=collections))
        return [status.reason for status in response.statuses]

    def upsert(self, collection: str, *entries: pb.Entry) -> list[str]:
        response = self.call("UpsertEntries", pb.UpsertEntriesRequest(collection=collection, entries=entries))
        return [status.reason for status in response.statuses]

    def query(self, sql: str, **parameters: Any) -> Answer:
        try:
            return read_answer(self.metadata.Query(pb.QueryRequest(sql=sql, parameters=entry("", "", **parameters).values), timeout=60))
        except grpc.RpcError as error:
            raise Failed(error) from None

    def change(self, sql: str, **parameters: Any) -> tuple[int, list[tuple[Any, ...]]]:
        """Carry out an UPDATE or DELETE; return how many entries it concerned, and what it returned."""
        response = self.call("Change", pb.ChangeRequest(sql=sql, parameters=entry("", "", **parameters).values))
        rows = response.rows if response.rows.count else None
        return response.count, read_answer(iter([pb.QueryResponse(header=response.header, rows=rows)])).rows

    def alter(self, path: str, **change: Any) -> None:
        """Change a schema."""
        self.call("AlterCollection", pb.AlterCollectionRequest(path=path, **change))

    def view(self, **described: Any) -> str:
        """Create a view or link and return the reason why it was not."""
        attributes = [pb.ViewAttribute(name=name, target=target) for name, target in described.pop("attributes", {}).items()]
        view = pb.View(attributes=attributes, **described)
        return self.call("CreateViews", pb.CreateViewsRequest(views=[view])).statuses[0].reason

    def describe(self, path: str) -> pb.Collection:
        """Return the description of one collection."""
        return self.call("ListCollections", pb.ListCollectionsRequest(path=path)).collections[0]

    def rows(self, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
        return self.query(sql, **parameters).rows


def read_answer(responses: Iterator[pb.QueryResponse]) -> Answer:
    first = next(responses)
    header = first.header.columns
    answer = Answer([c.name for c in header], [c.type for c in header], [c.unit for c in header], [])
    for response in chain([first] if first.HasField("rows") else [], responses):
        columns = []
        for described, data in zip(header, response.rows.columns, strict=True):
            values: Sequence[Any] = getattr(data, FIELDS.get(described.type, "texts"))
            missing = [bool(data.nulls) and bool(data.nulls[i >> 3] >> (i & 7) & 1) for i in range(response.rows.count)]
            columns.append([None if m else v for m, v in zip(missing, values, strict=True)])
        answer.rows.extend(zip(*columns, strict=True))
    return answer


def entry(key: str, acl_id: str = "", **values: Any) -> pb.Entry:
    """An entry with values of Python's types."""
    made = {}
    for name, value in values.items():
        if value is None:
            made[name] = pb.Value()
        elif isinstance(value, bool):
            made[name] = pb.Value(bool=value)
        elif isinstance(value, int):
            made[name] = pb.Value(int=value)
        elif isinstance(value, float):
            made[name] = pb.Value(float=value)
        else:
            made[name] = pb.Value(text=value)
    return pb.Entry(key=key, acl_id=acl_id, values=made)


def attribute(name: str, kind: str, **more: Any) -> pb.Attribute:
    return pb.Attribute(name=name, type=pb.AttributeType.Value(f"ATTRIBUTE_TYPE_{kind}"), **more)


@dataclass
class Service:
    """A running metadata service, and what tests need to speak to it."""

    conninfo: str
    address: str
    client: Callable[[str], Client]
    failed: type[Failed] = Failed

    entry = staticmethod(entry)
    attribute = staticmethod(attribute)


@pytest.fixture(scope="session")
def running_service(postgres: Any, pki: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose root collection `loader` may write to; `alice` and `bob` are in group `/biomed/neuro`, `mallory` in none."""
    groups = tmp_path_factory.mktemp("metadata") / "groups.toml"
    groups.write_text(f'[groups]\n"/biomed/neuro" = ["{pki.subject("alice")}", "{pki.subject("bob")}"]\n')
    sections = {
        "groups": {"file": groups},
        "database": {"pool_min": 1, "pool_max": 8},
        "roles": {"operator": [pki.subject("operator")], "service.dicom-srm": [pki.subject("srm")]},
        "root": {"owner": pki.subject("operator"), "entries": [{"principal": f"dn:{pki.subject('loader')}", "permissions": "rwl"}]},
        "query": {"statement_seconds": 8, "max_rows": 150_000},
    }
    with ExitStack() as stack:
        (conninfo,) = stack.enter_context(fresh_databases(postgres, "metadata"))
        migrate(conninfo, MIGRATIONS)
        runtime = main.start(MetadataSettings(**configuration(pki, "metadata", conninfo, **sections)), build, MIGRATIONS)
        stack.callback(runtime.close)
        stack.callback(runtime.service_server.stop, 0.5)
        address = f"127.0.0.1:{runtime.service_server.port}"

        @cache
        def client(name: str) -> Client:
            subject = pki.subject(name)
            return Client(stack.enter_context(channel(address, pki.issue(subject))), subject)

        yield Service(conninfo, address, client)


@pytest.fixture
def service(running_service: Service) -> Iterator[Service]:
    """The running service, emptied afterwards."""
    yield running_service
    with psycopg.connect(running_service.conninfo) as connection:
        connection.execute("TRUNCATE entry, unique_value, view, view_attribute")
        connection.execute("UPDATE attribute SET reference_id = NULL")
        connection.execute("DELETE FROM collection WHERE parent_id IS NOT NULL")
