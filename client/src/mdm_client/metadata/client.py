"""The metadata service: queries, whose rows are streamed, and entries."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from mdm.metadata.v1 import metadata_pb2 as pb
from mdm.metadata.v1 import metadata_pb2_grpc
from mdm_wire.batch import MAX_ENTRIES
from mdm_wire.errors import Corrupt, MdmError
from mdm_wire.retry import RetryPolicy
from mdm_wire.status import translated

from mdm_client.acl import AclClient
from mdm_client.metadata.collections import MetadataCollections, MetadataSequences
from mdm_client.metadata.value import Column, Row, columns_of, decode_batch, python_rows, to_values
from mdm_client.service import Service


class QueryResult:
    """An answer: its columns, and its rows as they arrive. Iterate once; `close` ends it early."""

    def __init__(self, place: str, call: Any, first: pb.QueryResponse) -> None:
        self.columns = columns_of(first.header)
        self.merge = first.header.merge
        self.kinds = [column.type for column in first.header.columns]
        self._place = place
        self._call = call
        self._first = first

    def batches(self) -> Iterator[list[Row]]:
        """Yield lists of rows as they were sent; values are int, float, bool, text or None."""
        with translated(self._place):
            for response in itertools.chain([self._first], self._call):
                if response.HasField("rows"):
                    yield decode_batch(response.rows, self.kinds)

    def __iter__(self) -> Iterator[Row]:
        """Yield rows whose values have Python's types: Decimal, date, datetime and UUID too."""
        for batch in self.batches():
            yield from python_rows(batch, self.columns)

    def close(self) -> None:
        """Stop the query on the server."""
        self._call.cancel()


class MetadataClient:
    """Queries, and the parts `collections`, `entries`, `sequences` and `acls` of the metadata service."""

    def __init__(self, channel: grpc.Channel, policy: RetryPolicy = RetryPolicy()) -> None:  # noqa: B008 - frozen
        self.service = Service("metadata", channel, policy)
        self.collections = MetadataCollections(self.service)
        self.entries = MetadataEntries(self.service)
        self.sequences = MetadataSequences(self.service)
        self.acls = AclClient(self.service)
        self._stub = metadata_pb2_grpc.MetadataServiceStub(channel)

    def query(
        self, sql: str, timeout: float | None = None, *, partial: bool = False, parameters: Mapping[str, Any] | None = None
    ) -> QueryResult:
        """Return the answer to a SQL SELECT once its first rows are there; `timeout` in seconds covers all rows.

        `parameters` are the values of `:name` in the text: never write values that others gave you into the text itself. The same text with
        other values is answered faster than another text.
        `partial` asks for a site's part of a query over several sites; see `mdm_client.federation.query`.

        Raises:
            MdmError: Invalid where the SQL is not accepted; other errors also while rows are read.
        """
        request = pb.QueryRequest(sql=sql, partial=partial, parameters=to_values(parameters))

        def attempt() -> QueryResult:
            call = self._stub.Query(request, timeout=timeout)
            first = next(call, None)
            if first is None or not first.HasField("header"):
                raise Corrupt("ANSWER_MALFORMED", "metadata: the answer does not begin with its header")
            return QueryResult(self.service.place, call, first)

        return self.service.repeat(attempt)


@dataclass(frozen=True)
class Entry:
    """An entry to store; None removes a value. Without an ACL id, the collection's default ACL guards a new entry."""

    key: str
    values: Mapping[str, Any]
    acl_id: str = ""


@dataclass(frozen=True)
class Changed:
    """The result of an UPDATE or DELETE: how many entries it changed, and the rows of its RETURNING."""

    count: int
    columns: Sequence[Column]
    rows: Sequence[Row]


class MetadataEntries:
    """Calls of `mdm.metadata.v1` about entries."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stub = metadata_pb2_grpc.MetadataServiceStub(service.channel)

    def upsert(self, path: str, entries: Iterable[Entry]) -> list[MdmError | None]:
        """Insert or update entries, in batches; return the error of each, or None, in order."""
        items = (pb.Entry(key=entry.key, acl_id=entry.acl_id, values=to_values(entry.values)) for entry in entries)
        return self._service.errors(
            self._stub.UpsertEntries, items, lambda batch: pb.UpsertEntriesRequest(collection=path, entries=batch), MAX_ENTRIES
        )

    def delete(self, path: str, keys: Sequence[str]) -> list[MdmError | None]:
        """Delete entries by key; return the error of each, or None, in order."""
        return self._service.errors(
            self._stub.DeleteEntries, keys, lambda batch: pb.DeleteEntriesRequest(collection=path, keys=batch), MAX_ENTRIES
        )

    def keys(self, path: str) -> Iterator[str]:
        """Yield the keys of all entries of a collection, in order of their bytes; for operators."""
        for page in self._service.pages(self._stub.ListEntryKeys, lambda token: pb.ListEntryKeysRequest(collection=path, page_token=token)):
            yield from page.keys

    def assign_acl(self, path: str, keys: Sequence[str], acl_id: str) -> list[MdmError | None]:
        """Put entries under another ACL; return the error of each, or None, in order."""
        items = (pb.AclAssignment(collection=path, key=key, acl_id=acl_id) for key in keys)
        return self._service.errors(self._stub.AssignAcls, items, lambda batch: pb.AssignAclsRequest(assignments=batch), MAX_ENTRIES)

    def change(self, sql: str, timeout: float | None = None, parameters: Mapping[str, Any] | None = None) -> Changed:
        """Execute an UPDATE or DELETE; with LIMIT, an atomic take. If its answer is lost it may have been done, and is not repeated.

        After `timeout` seconds the service cancels it. `parameters` are the values of `:name` in the text.

        Raises:
            MdmError: what the service answered. Nothing was changed, except perhaps if it is Unavailable or TimedOut.
        """
        response = self._service.call_once(self._stub.Change, pb.ChangeRequest(sql=sql, parameters=to_values(parameters)), timeout)
        types = [column.type for column in response.header.columns]
        rows = decode_batch(response.rows, types) if response.rows.count else []
        return Changed(response.count, columns_of(response.header), rows)

    def explain(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[str]:
        """Return the database's plan of a SELECT; for operators."""
        return list(self._service.call(self._stub.Explain, pb.ExplainRequest(sql=sql, parameters=to_values(parameters))).lines)
