"""Entries of collections: stored, removed, changed by SQL."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mdm.metadata.v1 import metadata_pb2 as pb
from mdm.metadata.v1 import metadata_pb2_grpc
from mdm_wire.batch import MAX_ENTRIES
from mdm_wire.errors import MdmError

from mdm_client.metadata.value import Column, Row, columns_of, decode_batch, to_values
from mdm_client.service import Service


@dataclass(frozen=True)
class Entry:
    """An entry to store; a value of None removes one. Without an ACL id, the collection's default guards a new entry."""

    key: str
    values: Mapping[str, Any]
    acl_id: str = ""


@dataclass(frozen=True)
class Changed:
    """What an UPDATE or DELETE did: how many entries, and what it returned of them."""

    count: int
    columns: Sequence[Column]
    rows: Sequence[Row]


class MetadataEntries:
    """Calls of `mdm.metadata.v1` about entries."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stub = metadata_pb2_grpc.MetadataServiceStub(service.channel)

    def upsert(self, path: str, entries: Iterable[Entry]) -> list[MdmError | None]:
        """Insert or update entries, in batches; return what is wrong with each, in order."""
        items = (pb.Entry(key=entry.key, acl_id=entry.acl_id, values=to_values(entry.values)) for entry in entries)
        return self._service.errors(
            self._stub.UpsertEntries, items, lambda batch: pb.UpsertEntriesRequest(collection=path, entries=batch), MAX_ENTRIES
        )

    def delete(self, path: str, keys: Sequence[str]) -> list[MdmError | None]:
        """Delete entries by key; return what is wrong with each, in order."""
        return self._service.errors(
            self._stub.DeleteEntries, keys, lambda batch: pb.DeleteEntriesRequest(collection=path, keys=batch), MAX_ENTRIES
        )

    def keys(self, path: str) -> Iterator[str]:
        """Yield the keys of a collection's entries, in order of their bytes, whatever their access lists; for operators.

        Raises:
            MdmError: on use of the iterator: what the service answered.
        """
        for page in self._service.pages(self._stub.ListEntryKeys, lambda token: pb.ListEntryKeysRequest(collection=path, page_token=token)):
            yield from page.keys

    def assign_acl(self, path: str, keys: Sequence[str], acl_id: str) -> list[MdmError | None]:
        """Point entries at another ACL; return what is wrong with each, in order."""
        items = (pb.AclAssignment(collection=path, key=key, acl_id=acl_id) for key in keys)
        return self._service.errors(self._stub.AssignAcls, items, lambda batch: pb.AssignAclsRequest(assignments=batch), MAX_ENTRIES)

    def change(self, sql: str, timeout: float | None = None, parameters: Mapping[str, Any] | None = None) -> Changed:
        """Carry out an UPDATE or DELETE; with LIMIT, an atomic take. Not repeated when its answer is lost: it may have happened.

        After `timeout` seconds the service gives it up. `parameters` are the values of `:name` in the text.

        Raises:
            MdmError: what the service answered; nothing was changed, unless a service was away.
        """
        response = self._service.call_once(self._stub.Change, pb.ChangeRequest(sql=sql, parameters=to_values(parameters)), timeout)
        types = [column.type for column in response.header.columns]
        rows = decode_batch(response.rows, types) if response.rows.count else []
        return Changed(response.count, columns_of(response.header), rows)

    def explain(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[str]:
        """Return how the database would answer a SELECT; for operators."""
        return list(self._service.call(self._stub.Explain, pb.ExplainRequest(sql=sql, parameters=to_values(parameters))).lines)
