"""The metadata service: queries, whose rows are streamed, and what makes and changes collections and entries."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
from mdm.metadata.v1 import metadata_pb2 as pb
from mdm.metadata.v1 import metadata_pb2_grpc
from mdm_wire.errors import Corrupt
from mdm_wire.retry import RetryPolicy
from mdm_wire.status import translated

from mdm_client.acl import AclClient
from mdm_client.metadata.collections import MetadataCollections, MetadataSequences
from mdm_client.metadata.entries import MetadataEntries
from mdm_client.metadata.value import Row, columns_of, decode_batch, python_rows, to_values
from mdm_client.service import Service


class QueryResult:
    """An answer: its columns, and its rows as they arrive. Iterate once; `close` gives the rest up."""

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

        `parameters` are the values of `:name` in the text: never write values into it that others gave you. A text asked again with other
        values is answered faster than another text.
        With `partial`, a site's part of a query over several, with how it is merged; see `mdm_client.federation.query`.

        Raises:
            MdmError: Invalid where the SQL is not accepted; also later, while rows are read.
        """
        request = pb.QueryRequest(sql=sql, partial=partial, parameters=to_values(parameters))

        def attempt() -> QueryResult:
            call = self._stub.Query(request, timeout=timeout)
            first = next(call, None)
            if first is None or not first.HasField("header"):
                raise Corrupt("ANSWER_MALFORMED", "metadata: the answer does not begin with its header")
            return QueryResult(self.service.place, call, first)

        return self.service.repeat(attempt)
