"""Protobuf to model and back."""

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import grpc
from mdm.common.v1 import common_pb2
from mdm.metadata.v1 import metadata_pb2 as pb
from mdm.metadata.v1 import metadata_pb2_grpc
from mdm_service.identity.caller import current_caller
from mdm_wire import status
from mdm_wire.errors import Invalid, MdmError

from mdm_metadata.rpc.message import (
    acl_id_of,
    assignment_of,
    attribute_change_of,
    attribute_of,
    batches_of,
    collection_of,
    described,
    entry_of,
    fields_of,
    header_of,
    scalar_of,
    view_of,
)
from mdm_metadata.rules.interruption import Interruption
from mdm_metadata.rules.model import Check, Collection, Scalar
from mdm_metadata.rules.port import Outcome
from mdm_metadata.rules.service import MAX_ENTRIES, MetadataService

FULL_NAME = "mdm.metadata.v1.MetadataService"
MAX_PAGE = 1_000

M = TypeVar("M")
T = TypeVar("T")


class MetadataServicer(metadata_pb2_grpc.MetadataServiceServicer):
    """MetadataService over gRPC."""

    def __init__(self, service: MetadataService) -> None:
        self._service = service

    def CreateCollections(self, request: pb.CreateCollectionsRequest, context: grpc.ServicerContext) -> pb.CreateCollectionsResponse:
        """Create collections in order."""
        items = [_read(collection_of, message) for message in request.collections]
        created = iter(self._service.create_collections(current_caller(), [item for item in items if isinstance(item, Collection)]))
        return pb.CreateCollectionsResponse(statuses=[_status(item if isinstance(item, MdmError) else next(created)) for item in items])

    def ListCollections(self, request: pb.ListCollectionsRequest, context: grpc.ServicerContext) -> pb.ListCollectionsResponse:
        """List one page of collections."""
        if not 0 <= request.page_size <= MAX_PAGE:
            raise Invalid("PAGE_SIZE", f"A page has 1 to {MAX_PAGE} collections.", fields={"page_size": "out of range"})
        size = request.page_size or MAX_PAGE
        found = self._service.list_collections(current_caller(), request.path, request.page_token, size + 1)
        more = found[size - 1].collection.folded if len(found) > size else ""
        return pb.ListCollectionsResponse(collections=[described(item) for item in found[:size]], next_page_token=more)

    def DropCollections(self, request: pb.DropCollectionsRequest, context: grpc.ServicerContext) -> pb.DropCollectionsResponse:
        """Drop collections in order."""
        outcomes = self._service.drop_collections(current_caller(), request.paths, _interruption(context))
        return pb.DropCollectionsResponse(statuses=[_status(outcome) for outcome in outcomes])

    def UpsertEntries(self, request: pb.UpsertEntriesRequest, context: grpc.ServicerContext) -> pb.UpsertEntriesResponse:
        """Insert or update entries."""
        entries = [_read(entry_of, message) for message in request.entries]
        outcomes = self._service.upsert(current_caller(), request.collection, entries, _interruption(context))
        return pb.UpsertEntriesResponse(statuses=[_status(outcome) for outcome in outcomes])

    def DeleteEntries(self, request: pb.DeleteEntriesRequest, context: grpc.ServicerContext) -> pb.DeleteEntriesResponse:
        """Delete entries by key."""
        outcomes = self._service.delete(current_caller(), request.collection, request.keys, _interruption(context))
        return pb.DeleteEntriesResponse(statuses=[_status(outcome) for outcome in outcomes])

    def ListEntryKeys(self, request: pb.ListEntryKeysRequest, context: grpc.ServicerContext) -> pb.ListEntryKeysResponse:
        """List one page of keys."""
        if not 0 <= request.page_size <= MAX_ENTRIES:
            raise Invalid("PAGE_SIZE", f"A page has 1 to {MAX_ENTRIES} keys.", fields={"page_size": "out of range"})
        size = request.page_size or MAX_ENTRIES
        keys = self._service.list_entry_keys(current_caller(), request.collection, request.page_token, size)
        return pb.ListEntryKeysResponse(keys=keys, next_page_token=keys[-1] if len(keys) == size else "")

    def AssignAcls(self, request: pb.AssignAclsRequest, context: grpc.ServicerContext) -> pb.AssignAclsResponse:
        """Point entries at ACLs."""
        assignments = [_read(assignment_of, message) for message in request.assignments]
        outcomes = self._service.assign(current_caller(), assignments, _interruption(context))
        return pb.AssignAclsResponse(statuses=[_status(outcome) for outcome in outcomes])

    def Query(self, request: pb.QueryRequest, context: grpc.ServicerContext) -> Iterator[pb.QueryResponse]:
        """Stream the answer to a query; when the call ends early, so does the database's work."""
        with self._service.reading.query(current_caller(), request.sql, _scalars(request.parameters), partial=request.partial) as answer:
            if not context.add_callback(answer.cancel):
                return
            fields = fields_of(answer.outputs)
            header: pb.QueryHeader | None = header_of(answer.outputs, answer.merge)
            for columns in answer.batches:
                for batch in batches_of(fields, columns):
                    yield pb.QueryResponse(header=header, rows=batch)
                    header = None
            if header is not None:
                yield pb.QueryResponse(header=header)

    def Change(self, request: pb.ChangeRequest, context: grpc.ServicerContext) -> pb.ChangeResponse:
        """Carry out an UPDATE or DELETE."""
        changed = self._service.reading.change(current_caller(), request.sql, _scalars(request.parameters), _interruption(context))
        columns = list(zip(*changed.rows, strict=True))
        rows = next(batches_of(fields_of(changed.outputs), columns)) if columns else None
        return pb.ChangeResponse(count=changed.count, header=header_of(changed.outputs), rows=rows)

    def Explain(self, request: pb.ExplainRequest, context: grpc.ServicerContext) -> pb.ExplainResponse:
        """Show how a SELECT would be answered."""
        return pb.ExplainResponse(lines=self._service.reading.explain(current_caller(), request.sql, _scalars(request.parameters)))

    def AlterCollection(self, request: pb.AlterCollectionRequest, context: grpc.ServicerContext) -> pb.AlterCollectionResponse:
        """Change the schema of a collection."""
        alterations = self._service.alter(current_caller(), request.path)
        match request.WhichOneof("change"):
            case "add_attribute":
                alterations.add_attribute(attribute_of(request.add_attribute))
            case "remove_attribute":
                alterations.remove_attribute(request.remove_attribute)
            case "change_attribute":
                alterations.change_attribute(attribute_change_of(request.change_attribute))
            case "add_check":
                alterations.add_check(Check(request.add_check.name, request.add_check.condition))
            case "drop_check":
                alterations.drop_check(request.drop_check)
            case "min_cell":
                alterations.set_min_cell(request.min_cell)
            case "acls":
                alterations.set_acls(acl_id_of(request.acls.acl_id), acl_id_of(request.acls.default_acl_id))
            case _:
                raise Invalid("CHANGE_MISSING", "Name one change.")
        return pb.AlterCollectionResponse()

    def CreateViews(self, request: pb.CreateViewsRequest, context: grpc.ServicerContext) -> pb.CreateViewsResponse:
        """Create views and links, in order."""
        views = [_read(view_of, message) for message in request.views]
        return pb.CreateViewsResponse(statuses=[_status(item) for item in self._service.create_views(current_caller(), views)])

    def CreateSequence(self, request: pb.CreateSequenceRequest, context: grpc.ServicerContext) -> pb.CreateSequenceResponse:
        """Create a sequence."""
        place = request.collection, request.name, request.start, request.step
        self._service.create_sequence(current_caller(), *place, resume=request.resume)
        return pb.CreateSequenceResponse()

    def DropSequence(self, request: pb.DropSequenceRequest, context: grpc.ServicerContext) -> pb.DropSequenceResponse:
        """Drop a sequence."""
        self._service.drop_sequence(current_caller(), request.collection, request.name)
        return pb.DropSequenceResponse()

    def TakeNumbers(self, request: pb.TakeNumbersRequest, context: grpc.ServicerContext) -> pb.TakeNumbersResponse:
        """Take numbers from a sequence."""
        first, step = self._service.take_numbers(current_caller(), request.collection, request.name, request.count)
        return pb.TakeNumbersResponse(first=first, step=step)

    def ListSequences(self, request: pb.ListSequencesRequest, context: grpc.ServicerContext) -> pb.ListSequencesResponse:
        """List a collection's sequences."""
        found = self._service.list_sequences(current_caller(), request.collection)
        states = [pb.SequenceState(name=state.name, next=state.next, step=state.step) for state in found]
        return pb.ListSequencesResponse(sequences=states)


def _interruption(context: grpc.ServicerContext) -> Interruption:
    """Return what is set as soon as the call has ended, by whichever side."""
    interruption = Interruption()
    if not context.add_callback(interruption.set):
        interruption.set()
    return interruption


def _scalars(values: Mapping[str, pb.Value]) -> dict[str, Scalar]:
    return {name: scalar_of(value) for name, value in values.items()}


def _status(outcome: Outcome) -> common_pb2.ItemStatus:
    return status.ok() if outcome is None else status.failed(outcome)


def _read(read: Callable[[M], T], message: M) -> T | MdmError:
    try:
        return read(message)
    except MdmError as error:
        return error
