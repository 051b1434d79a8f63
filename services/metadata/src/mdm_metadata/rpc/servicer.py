"""MetadataService: converts messages and calls the rules."""

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import grpc
from mdm.metadata.v1 import metadata_pb2 as pb
from mdm.metadata.v1 import metadata_pb2_grpc
from mdm_service.identity.caller import current_caller
from mdm_wire import status
from mdm_wire.batch import answer_batch
from mdm_wire.errors import Invalid, MdmError

from mdm_metadata.rpc.message import (
    acl_id_from_proto,
    assignment_from_proto,
    attribute_change_from_proto,
    attribute_from_proto,
    batches_to_proto,
    collection_from_proto,
    collection_to_proto,
    column_fields,
    entry_from_proto,
    header_to_proto,
    scalar_from_proto,
    view_from_proto,
)
from mdm_metadata.rules import entry
from mdm_metadata.rules.cancellation import Cancellation
from mdm_metadata.rules.entry import MAX_ENTRIES
from mdm_metadata.rules.execution import Queries, change
from mdm_metadata.rules.model import Check, Scalar
from mdm_metadata.rules.port import Store
from mdm_metadata.rules.query.compilation import Membership
from mdm_metadata.rules.schema import collection, sequence
from mdm_metadata.rules.schema.alteration import Alterations

FULL_NAME = "mdm.metadata.v1.MetadataService"
MAX_PAGE = 1_000

M = TypeVar("M")
T = TypeVar("T")


class MetadataServicer(metadata_pb2_grpc.MetadataServiceServicer):
    """MetadataService over gRPC."""

    def __init__(self, store: Store, membership: Membership) -> None:
        self._store = store
        self._queries = Queries(store, membership)

    def CreateCollections(self, request: pb.CreateCollectionsRequest, context: grpc.ServicerContext) -> pb.CreateCollectionsResponse:
        """Create collections in order."""
        caller = current_caller()
        failures = answer_batch(request.collections, collection_from_proto, lambda items: collection.create(self._store, caller, items))
        return pb.CreateCollectionsResponse(statuses=map(status.to_item, failures))

    def ListCollections(self, request: pb.ListCollectionsRequest, context: grpc.ServicerContext) -> pb.ListCollectionsResponse:
        """List one page of collections."""
        if not 0 <= request.page_size <= MAX_PAGE:
            raise Invalid("PAGE_SIZE", f"A page has 1 to {MAX_PAGE} collections.", fields={"page_size": "out of range"})
        size = request.page_size or MAX_PAGE
        found = collection.list_at_and_below(self._store, current_caller(), request.path, request.page_token, size + 1)
        more = found[size - 1].collection.folded if len(found) > size else ""
        return pb.ListCollectionsResponse(collections=[collection_to_proto(item) for item in found[:size]], next_page_token=more)

    def DropCollections(self, request: pb.DropCollectionsRequest, context: grpc.ServicerContext) -> pb.DropCollectionsResponse:
        """Drop collections in order."""
        failures = collection.drop(self._store, current_caller(), request.paths, _cancellation(context))
        return pb.DropCollectionsResponse(statuses=map(status.to_item, failures))

    def UpsertEntries(self, request: pb.UpsertEntriesRequest, context: grpc.ServicerContext) -> pb.UpsertEntriesResponse:
        """Insert or update entries."""
        entries = [_read(entry_from_proto, message) for message in request.entries]
        failures = entry.upsert(self._store, current_caller(), request.collection, entries, _cancellation(context))
        return pb.UpsertEntriesResponse(statuses=map(status.to_item, failures))

    def DeleteEntries(self, request: pb.DeleteEntriesRequest, context: grpc.ServicerContext) -> pb.DeleteEntriesResponse:
        """Delete entries by key."""
        failures = entry.delete(self._store, current_caller(), request.collection, request.keys, _cancellation(context))
        return pb.DeleteEntriesResponse(statuses=map(status.to_item, failures))

    def ListEntryKeys(self, request: pb.ListEntryKeysRequest, context: grpc.ServicerContext) -> pb.ListEntryKeysResponse:
        """List one page of keys."""
        if not 0 <= request.page_size <= MAX_ENTRIES:
            raise Invalid("PAGE_SIZE", f"A page has 1 to {MAX_ENTRIES} keys.", fields={"page_size": "out of range"})
        size = request.page_size or MAX_ENTRIES
        keys = entry.list_keys(self._store, current_caller(), request.collection, request.page_token, size)
        return pb.ListEntryKeysResponse(keys=keys, next_page_token=keys[-1] if len(keys) == size else "")

    def AssignAcls(self, request: pb.AssignAclsRequest, context: grpc.ServicerContext) -> pb.AssignAclsResponse:
        """Point entries at ACLs."""
        assignments = [_read(assignment_from_proto, message) for message in request.assignments]
        failures = entry.assign(self._store, current_caller(), assignments, _cancellation(context))
        return pb.AssignAclsResponse(statuses=map(status.to_item, failures))

    def Query(self, request: pb.QueryRequest, context: grpc.ServicerContext) -> Iterator[pb.QueryResponse]:
        """Stream the answer to a query; if the call ends early, the database stops its work."""
        with self._queries.query(current_caller(), request.sql, _scalars(request.parameters), partial=request.partial) as answer:
            if not context.add_callback(answer.cancel):
                return
            fields = column_fields(answer.outputs)
            header: pb.QueryHeader | None = header_to_proto(answer.outputs, answer.merge)
            for columns in answer.batches:
                for batch in batches_to_proto(fields, columns):
                    yield pb.QueryResponse(header=header, rows=batch)
                    header = None
            if header is not None:
                yield pb.QueryResponse(header=header)

    def Change(self, request: pb.ChangeRequest, context: grpc.ServicerContext) -> pb.ChangeResponse:
        """Carry out an UPDATE or DELETE."""
        changed = change(self._store, current_caller(), request.sql, _scalars(request.parameters), _cancellation(context))
        columns = list(zip(*changed.rows, strict=True))
        rows = next(batches_to_proto(column_fields(changed.outputs), columns)) if columns else None
        return pb.ChangeResponse(count=changed.count, header=header_to_proto(changed.outputs), rows=rows)

    def Explain(self, request: pb.ExplainRequest, context: grpc.ServicerContext) -> pb.ExplainResponse:
        """Show how a SELECT would be answered."""
        return pb.ExplainResponse(lines=self._queries.explain(current_caller(), request.sql, _scalars(request.parameters)))

    def AlterCollection(self, request: pb.AlterCollectionRequest, context: grpc.ServicerContext) -> pb.AlterCollectionResponse:
        """Change the schema of a collection."""
        alterations = Alterations(self._store, current_caller(), request.path)
        match request.WhichOneof("change"):
            case "add_attribute":
                alterations.add_attribute(attribute_from_proto(request.add_attribute))
            case "remove_attribute":
                alterations.remove_attribute(request.remove_attribute)
            case "change_attribute":
                alterations.change_attribute(attribute_change_from_proto(request.change_attribute))
            case "add_check":
                alterations.add_check(Check(request.add_check.name, request.add_check.condition))
            case "drop_check":
                alterations.drop_check(request.drop_check)
            case "min_cell":
                alterations.set_min_cell(request.min_cell)
            case "acls":
                alterations.set_acls(acl_id_from_proto(request.acls.acl_id), acl_id_from_proto(request.acls.default_acl_id))
            case _:
                raise Invalid("CHANGE_MISSING", "The change is missing: name exactly one.")
        return pb.AlterCollectionResponse()

    def CreateViews(self, request: pb.CreateViewsRequest, context: grpc.ServicerContext) -> pb.CreateViewsResponse:
        """Create views and links, in order."""
        views = [_read(view_from_proto, message) for message in request.views]
        return pb.CreateViewsResponse(
            statuses=[status.to_item(item) for item in collection.create_views(self._store, current_caller(), views)]
        )

    def CreateSequence(self, request: pb.CreateSequenceRequest, context: grpc.ServicerContext) -> pb.CreateSequenceResponse:
        """Create a sequence."""
        place = request.collection, request.name, request.start, request.step
        sequence.create(self._store, current_caller(), *place, resume=request.resume)
        return pb.CreateSequenceResponse()

    def DropSequence(self, request: pb.DropSequenceRequest, context: grpc.ServicerContext) -> pb.DropSequenceResponse:
        """Drop a sequence."""
        sequence.drop(self._store, current_caller(), request.collection, request.name)
        return pb.DropSequenceResponse()

    def TakeNumbers(self, request: pb.TakeNumbersRequest, context: grpc.ServicerContext) -> pb.TakeNumbersResponse:
        """Take numbers from a sequence."""
        first, step = sequence.take_numbers(self._store, current_caller(), request.collection, request.name, request.count)
        return pb.TakeNumbersResponse(first=first, step=step)

    def ListSequences(self, request: pb.ListSequencesRequest, context: grpc.ServicerContext) -> pb.ListSequencesResponse:
        """List a collection's sequences."""
        found = sequence.list_of(self._store, current_caller(), request.collection)
        states = [pb.SequenceState(name=state.name, next=state.next, step=state.step) for state in found]
        return pb.ListSequencesResponse(sequences=states)


def _cancellation(context: grpc.ServicerContext) -> Cancellation:
    """Return a cancellation that is set as soon as the call has ended, for whatever reason."""
    cancellation = Cancellation()
    if not context.add_callback(cancellation.set):
        cancellation.set()
    return cancellation


def _scalars(values: Mapping[str, pb.Value]) -> dict[str, Scalar]:
    return {name: scalar_from_proto(value) for name, value in values.items()}


def _read(read: Callable[[M], T], message: M) -> T | MdmError:
    try:
        return read(message)
    except MdmError as error:
        return error
