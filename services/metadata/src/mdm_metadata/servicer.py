"""Protobuf to model and back."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar
from uuid import UUID

import grpc
from mdm.common.v1 import common_pb2
from mdm.metadata.v1 import metadata_pb2 as pb
from mdm.metadata.v1 import metadata_pb2_grpc
from mdm_service import status
from mdm_service.errors import Exhausted, Invalid, MdmError
from mdm_service.identity import current_caller

from mdm_metadata.model import Assignment, Attribute, AttributeType, Collection, Entry, Scalar, StoredCollection
from mdm_metadata.query.tree import Output
from mdm_metadata.service import MetadataService, Outcome

FULL_NAME = "mdm.metadata.v1.MetadataService"
MAX_PAGE = 1_000
MAX_BATCH_BYTES = 4 * 1024 * 1024 - 1024

M = TypeVar("M")
T = TypeVar("T")

_PLACEHOLDERS: dict[str, Any] = {"ints": 0, "floats": 0.0, "texts": "", "bools": False}
_FIELDS = {AttributeType.INT: "ints", AttributeType.FLOAT: "floats", AttributeType.BOOL: "bools"}


class MetadataServicer(metadata_pb2_grpc.MetadataServiceServicer):
    """MetadataService over gRPC."""

    def __init__(self, service: MetadataService) -> None:
        self._service = service

    def CreateCollections(self, request: pb.CreateCollectionsRequest, context: grpc.ServicerContext) -> pb.CreateCollectionsResponse:
        """Create collections in order."""
        items = [_read(_collection, message) for message in request.collections]
        created = iter(self._service.create_collections(current_caller(), [item for item in items if isinstance(item, Collection)]))
        return pb.CreateCollectionsResponse(statuses=[_status(item if isinstance(item, MdmError) else next(created)) for item in items])

    def ListCollections(self, request: pb.ListCollectionsRequest, context: grpc.ServicerContext) -> pb.ListCollectionsResponse:
        """List one page of collections."""
        if not 0 <= request.page_size <= MAX_PAGE:
            raise Invalid("PAGE_SIZE", f"A page has 1 to {MAX_PAGE} collections.", fields={"page_size": "out of range"})
        size = request.page_size or MAX_PAGE
        found = self._service.list_collections(current_caller(), request.path, request.page_token, size + 1)
        more = found[size - 1].collection.folded if len(found) > size else ""
        return pb.ListCollectionsResponse(collections=[_described(item) for item in found[:size]], next_page_token=more)

    def DropCollections(self, request: pb.DropCollectionsRequest, context: grpc.ServicerContext) -> pb.DropCollectionsResponse:
        """Drop collections in order."""
        outcomes = self._service.drop_collections(current_caller(), request.paths)
        return pb.DropCollectionsResponse(statuses=[_status(outcome) for outcome in outcomes])

    def UpsertEntries(self, request: pb.UpsertEntriesRequest, context: grpc.ServicerContext) -> pb.UpsertEntriesResponse:
        """Insert or update entries."""
        entries = [_read(_entry, message) for message in request.entries]
        outcomes = self._service.upsert(current_caller(), request.collection, entries)
        return pb.UpsertEntriesResponse(statuses=[_status(outcome) for outcome in outcomes])

    def DeleteEntries(self, request: pb.DeleteEntriesRequest, context: grpc.ServicerContext) -> pb.DeleteEntriesResponse:
        """Delete entries by key."""
        outcomes = self._service.delete(current_caller(), request.collection, request.keys)
        return pb.DeleteEntriesResponse(statuses=[_status(outcome) for outcome in outcomes])

    def AssignAcls(self, request: pb.AssignAclsRequest, context: grpc.ServicerContext) -> pb.AssignAclsResponse:
        """Point entries at ACLs."""
        assignments = [_read(_assignment, message) for message in request.assignments]
        outcomes = self._service.assign(current_caller(), assignments)
        return pb.AssignAclsResponse(statuses=[_status(outcome) for outcome in outcomes])

    def Query(self, request: pb.QueryRequest, context: grpc.ServicerContext) -> Iterator[pb.QueryResponse]:
        """Stream the answer to a query; when the call ends early, so does the database's work."""
        with self._service.query(current_caller(), request.sql) as answer:
            if not context.add_callback(answer.cancel):
                return
            fields = [_FIELDS.get(output.type, "texts") for output in answer.outputs]
            yield pb.QueryResponse(header=pb.QueryHeader(columns=[_column(output) for output in answer.outputs]))
            for columns in answer.batches:
                for batch in _batches(fields, columns):
                    yield pb.QueryResponse(rows=batch)


def _status(outcome: Outcome) -> common_pb2.ItemStatus:
    return status.ok() if outcome is None else status.failed(outcome)


def _read(read: Callable[[M], T], message: M) -> T | MdmError:
    try:
        return read(message)
    except MdmError as error:
        return error


def _collection(message: pb.Collection) -> Collection:
    attributes = tuple(_attribute(attribute) for attribute in message.attributes)
    acl_id, default = _acl_id(message.acl_id), _acl_id(message.default_acl_id)
    return Collection(message.path, attributes, acl_id, default, message.sensitive)


def _attribute(message: pb.Attribute) -> Attribute:
    if message.type not in AttributeType._value2member_map_:
        raise Invalid("ATTRIBUTE_TYPE", "Types are INT, FLOAT, NUMERIC, TEXT, VARCHAR, BOOL, DATE, TIMESTAMP, UUID.")
    return Attribute(
        message.name,
        AttributeType(message.type),
        message.length,
        message.unit,
        message.description,
        message.not_null,
        message.indexed,
        message.unique,
    )


def _entry(message: pb.Entry) -> Entry:
    return Entry(message.key, {name: _scalar(value) for name, value in message.values.items()}, _acl_id(message.acl_id))


def _scalar(message: pb.Value) -> Scalar:
    kind = message.WhichOneof("kind")
    scalar: Scalar = None if kind is None else getattr(message, kind)
    return scalar


def _assignment(message: pb.AclAssignment) -> Assignment:
    acl_id = _acl_id(message.acl_id)
    if acl_id is None:
        raise Invalid("ACL_ID_MALFORMED", "An ACL id is a UUID.")
    return Assignment(message.collection, message.key, acl_id)


def _acl_id(text: str) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        raise Invalid("ACL_ID_MALFORMED", "An ACL id is a UUID.") from None


def _described(stored: StoredCollection) -> pb.Collection:
    item = stored.collection
    attributes = [
        pb.Attribute(
            name=attribute.name,
            type=pb.AttributeType.ValueType(attribute.type),
            length=attribute.length,
            unit=attribute.unit,
            description=attribute.description,
            not_null=attribute.not_null,
            indexed=attribute.indexed,
            unique=attribute.unique,
        )
        for attribute in item.attributes
    ]
    return pb.Collection(
        path=item.path, attributes=attributes, acl_id=str(item.acl_id), default_acl_id=str(item.default_acl_id), sensitive=item.sensitive
    )


def _column(output: Output) -> pb.ResultColumn:
    return pb.ResultColumn(name=output.name, type=pb.AttributeType.ValueType(output.type), unit=output.unit)


def _batches(fields: Sequence[str], columns: Sequence[Sequence[Any]]) -> Iterator[pb.RowBatch]:
    """Yield rows as one message, or as several when one would be too large for a message."""
    count = len(columns[0])
    batch = pb.RowBatch(count=count, columns=[_data(field, values) for field, values in zip(fields, columns, strict=True)])
    if batch.ByteSize() <= MAX_BATCH_BYTES:
        yield batch
        return
    if count == 1:
        raise Exhausted("QUERY_ROW_TOO_LARGE", f"A row has more than {MAX_BATCH_BYTES} bytes: select fewer columns.")
    for part in (slice(0, count // 2), slice(count // 2, count)):
        yield from _batches(fields, [values[part] for values in columns])


def _data(field: str, values: Sequence[Any]) -> pb.ColumnData:
    data = pb.ColumnData()
    if None in values:
        bits = bytearray((len(values) + 7) // 8)
        for index, value in enumerate(values):
            if value is None:
                bits[index >> 3] |= 1 << (index & 7)
        data.nulls = bytes(bits)
        missing = _PLACEHOLDERS[field]
        values = [missing if value is None else value for value in values]
    getattr(data, field).extend(values)
    return data
