"""Collections of the metadata service: schemas, entries, views, sequences."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from mdm.metadata.v1 import feed_pb2, feed_pb2_grpc, metadata_pb2_grpc
from mdm.metadata.v1 import metadata_pb2 as pb
from mdm_wire.errors import Invalid, MdmError, NotFound
from mdm_wire.status import from_item, from_rpc_error

from mdm_client.calls import Patience, Service, in_batches
from mdm_client.metadata.client import Column, Row, columns_of, decode_batch, to_values

BATCH = 1_000
TYPES = {name.removeprefix("ATTRIBUTE_TYPE_").lower(): value for name, value in pb.AttributeType.items() if value}
_TYPE_NAMES = {value: name for name, value in TYPES.items()}


@dataclass(frozen=True)
class Attribute:
    """An attribute: `type` is one of int, float, numeric, text, varchar, bool, date, timestamp, uuid; `references` a path."""

    name: str
    type: str
    length: int = 0
    unit: str = ""
    description: str = ""
    not_null: bool = False
    indexed: bool = False
    unique: bool = False
    references: str = ""


@dataclass(frozen=True)
class Collection:
    """A collection, or a view or link with its `target`; `checks` are conditions by name.

    Of a view, `shown` are the names of its attributes with their names in the target; a link has no `definer`. The condition of a view that
    is `withheld` is not told to this caller.
    """

    path: str
    attributes: tuple[Attribute, ...] = ()
    acl_id: str = ""
    default_acl_id: str = ""
    sensitive: bool = False
    min_cell: int = 0
    checks: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    condition: str = ""
    definer: str = ""
    has_key: bool = True
    shown: Mapping[str, str] = field(default_factory=dict)
    withheld: bool = False


@dataclass(frozen=True)
class SequenceState:
    """A sequence: the number it gives next, and the step to the one after; None where the caller may not take numbers."""

    name: str
    next: int | None = None
    step: int | None = None


@dataclass(frozen=True)
class ReplicaState:
    """A copy of a subtree: still being copied, or how many change sets and seconds behind (-1: never been up to date)."""

    origin: str
    subtree: str
    copying: bool
    behind: int
    lag_seconds: float
    problem: str


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


class CollectionsClient(Service):
    """Calls of `mdm.metadata.v1` that make and change collections and entries."""

    def __init__(self, channel: grpc.Channel, patience: Patience = Patience()) -> None:  # noqa: B008 - frozen
        super().__init__("metadata", channel, patience)
        self._stub = metadata_pb2_grpc.MetadataServiceStub(channel)

    def create(self, collections: Sequence[Collection]) -> list[MdmError | None]:
        """Create collections, parents first; one that exists with these attributes counts as created."""
        request = pb.CreateCollectionsRequest(collections=[_to_proto(item) for item in collections])
        return self._outcomes(self.call(self._stub.CreateCollections, request).statuses)

    def list_collections(self, path: str) -> Iterable[Collection]:
        """Yield the collections at and below `path`, by path."""
        token = ""
        while True:
            page = self.call(self._stub.ListCollections, pb.ListCollectionsRequest(path=path, page_token=token))
            yield from map(_from_proto, page.collections)
            token = page.next_page_token
            if not token:
                return

    def describe(self, path: str) -> Collection:
        """Return one collection.

        Raises:
            NotFound: there is none at the path for this caller.
        """
        page = self.call(self._stub.ListCollections, pb.ListCollectionsRequest(path=path, page_size=1))
        if not page.collections or page.collections[0].path.casefold() != path.casefold():
            raise NotFound("COLLECTION_NOT_FOUND", f"{path}: no such collection, or you may not see it")
        return _from_proto(page.collections[0])

    def drop(self, paths: Sequence[str]) -> list[MdmError | None]:
        """Drop collections with their entries."""
        return self._outcomes(self.call(self._stub.DropCollections, pb.DropCollectionsRequest(paths=paths)).statuses)

    def alter(self, path: str, **change: Any) -> None:
        """Change a schema by one step, named as in AlterCollectionRequest; building an index takes as long as it takes.

        Raises:
            MdmError: what the service answered.
        """
        self._once(self._stub.AlterCollection, pb.AlterCollectionRequest(path=path, **change))

    def add_attribute(self, path: str, attribute: Attribute) -> None:
        """Add an attribute to a collection."""
        self.alter(path, add_attribute=_attribute_to_proto(attribute))

    def change_attribute(self, path: str, name: str, **properties: Any) -> None:
        """Change properties of an attribute: new_name, unit, description, not_null, indexed, unique, references."""
        self.alter(path, change_attribute=pb.AttributeChange(name=name, **properties))

    def create_view(
        self, path: str, target: str, attributes: Mapping[str, str], condition: str, *, with_key: bool, is_link: bool, acl_id: str = ""
    ) -> None:
        """Create a view of `attributes` (name in the view → name in the target), or a link.

        Raises:
            MdmError: what the service answered.
        """
        shown = [pb.ViewAttribute(name=name, target=original) for name, original in attributes.items()]
        view = pb.View(path=path, target=target, attributes=shown, condition=condition, with_key=with_key, is_link=is_link, acl_id=acl_id)
        for error in self._outcomes(self.call(self._stub.CreateViews, pb.CreateViewsRequest(views=[view])).statuses):
            if error is not None:
                raise error

    def upsert(self, path: str, entries: Iterable[Entry]) -> list[MdmError | None]:
        """Insert or update entries, in batches; return what is wrong with each, in order."""
        outcomes: list[MdmError | None] = []
        for batch in in_batches(list(entries), BATCH):
            request = pb.UpsertEntriesRequest(collection=path, entries=[_entry(entry) for entry in batch])
            outcomes += self._outcomes(self.call(self._stub.UpsertEntries, request).statuses)
        return outcomes

    def delete(self, path: str, keys: Sequence[str]) -> list[MdmError | None]:
        """Delete entries by key; return what is wrong with each, in order."""
        outcomes: list[MdmError | None] = []
        for batch in in_batches(list(keys), BATCH):
            outcomes += self._outcomes(self.call(self._stub.DeleteEntries, pb.DeleteEntriesRequest(collection=path, keys=batch)).statuses)
        return outcomes

    def entry_keys(self, path: str) -> Iterator[str]:
        """Yield the keys of a collection's entries, in order of their bytes, whatever their access lists; for operators.

        Raises:
            MdmError: on use of the iterator: what the service answered.
        """
        token = ""
        while True:
            page = self.call(self._stub.ListEntryKeys, pb.ListEntryKeysRequest(collection=path, page_token=token))
            yield from page.keys
            token = page.next_page_token
            if not token:
                return

    def assign_acl(self, path: str, keys: Sequence[str], acl_id: str) -> list[MdmError | None]:
        """Point entries at another ACL; return what is wrong with each, in order."""
        outcomes: list[MdmError | None] = []
        for batch in in_batches(list(keys), BATCH):
            wanted = [pb.AclAssignment(collection=path, key=key, acl_id=acl_id) for key in batch]
            outcomes += self._outcomes(self.call(self._stub.AssignAcls, pb.AssignAclsRequest(assignments=wanted)).statuses)
        return outcomes

    def change(self, sql: str, timeout: float | None = None, parameters: Mapping[str, Any] | None = None) -> Changed:
        """Carry out an UPDATE or DELETE; with LIMIT, an atomic take. Not repeated when its answer is lost: it may have happened.

        After `timeout` seconds the service gives it up. `parameters` are the values of `:name` in the text.

        Raises:
            MdmError: what the service answered; nothing was changed, unless a service was away.
        """
        response = self._once(self._stub.Change, pb.ChangeRequest(sql=sql, parameters=to_values(parameters)), timeout)
        types = [column.type for column in response.header.columns]
        rows = decode_batch(response.rows, types) if response.rows.count else []
        return Changed(response.count, columns_of(response.header), rows)

    def explain(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[str]:
        """Return how the database would answer a SELECT; for operators."""
        return list(self.call(self._stub.Explain, pb.ExplainRequest(sql=sql, parameters=to_values(parameters))).lines)

    def replicas(self) -> Sequence[ReplicaState]:
        """Return the copies of other services' subtrees that this service keeps; for operators."""
        stub = feed_pb2_grpc.MetadataFeedServiceStub(self.channel)
        found = self.call(stub.ListReplicas, feed_pb2.ListReplicasRequest()).replicas
        states = []
        for r in found:
            behind = max(r.head - r.position.sequence, 0)
            states.append(ReplicaState(r.origin, r.subtree, r.position.copying, behind, r.lag_seconds, r.problem))
        return states

    def create_sequence(self, path: str, name: str, start: int, step: int) -> None:
        """Create a sequence of a collection."""
        self._once(self._stub.CreateSequence, pb.CreateSequenceRequest(collection=path, name=name, start=start, step=step))

    def resume_sequence(self, path: str, name: str, start: int, step: int) -> None:
        """Create a sequence, or let the one that is there go on at `start`, unless it is further already.

        Raises:
            Conflict: SEQUENCE_EXISTS: it has another step.
        """
        request = pb.CreateSequenceRequest(collection=path, name=name, start=start, step=step, resume=True)
        self.call(self._stub.CreateSequence, request)

    def drop_sequence(self, path: str, name: str) -> None:
        """Drop a sequence."""
        self._once(self._stub.DropSequence, pb.DropSequenceRequest(collection=path, name=name))

    def sequences(self, path: str) -> Sequence[SequenceState]:
        """Return a collection's sequences by name."""
        found = self.call(self._stub.ListSequences, pb.ListSequencesRequest(collection=path)).sequences
        return [SequenceState(s.name, s.next, s.step) if s.step else SequenceState(s.name) for s in found]

    def take_numbers(self, path: str, name: str, count: int = 1) -> range:
        """Return numbers of a sequence that nobody else gets."""
        taken = self._once(self._stub.TakeNumbers, pb.TakeNumbersRequest(collection=path, name=name, count=count))
        return range(taken.first, taken.first + taken.step * count, taken.step)

    def _once(self, method: Any, request: Any, timeout: float | None = None) -> Any:
        """Return the response of a call that must not be repeated blindly, and that may take long."""
        try:
            return method(request, timeout=timeout)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.place) from error

    def _outcomes(self, statuses: Iterable[Any]) -> list[MdmError | None]:
        return [from_item(status) for status in statuses]


def value_of(kind: str, text: str, name: str) -> Any:
    """Return the value of the attribute `name`, of type `kind`, that `text` means, in the form entries take.

    Raises:
        Invalid: VALUE_TYPE: it is none.
    """
    try:
        if kind == "int":
            return int(text)
        if kind == "float":
            return float(text)
        if kind == "bool":
            return {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}[text.lower()]
    except (ValueError, KeyError):
        raise Invalid("VALUE_TYPE", f"{name}: a value of type {kind} is expected") from None
    return text


def _entry(entry: Entry) -> pb.Entry:
    return pb.Entry(key=entry.key, acl_id=entry.acl_id, values=to_values(entry.values))


def _attribute_to_proto(item: Attribute) -> pb.Attribute:
    if item.type not in TYPES:
        raise Invalid("ATTRIBUTE_TYPE", f"{item.type}: types are {', '.join(TYPES)}")
    described = {name: getattr(item, name) for name in ("name", "length", "unit", "description", "references")}
    flags = {name: getattr(item, name) for name in ("not_null", "indexed", "unique")}
    return pb.Attribute(type=TYPES[item.type], **described, **flags)


def _to_proto(item: Collection) -> pb.Collection:
    return pb.Collection(
        path=item.path,
        attributes=[_attribute_to_proto(attribute) for attribute in item.attributes],
        acl_id=item.acl_id,
        default_acl_id=item.default_acl_id,
        sensitive=item.sensitive,
        min_cell=item.min_cell,
    )


def _from_proto(item: pb.Collection) -> Collection:
    attributes = tuple(
        Attribute(a.name, _TYPE_NAMES.get(a.type, "text"), a.length, a.unit, a.description, a.not_null, a.indexed, a.unique, a.references)
        for a in item.attributes
    )
    shows = item.HasField("view")
    return Collection(
        item.path,
        attributes,
        item.acl_id,
        item.default_acl_id,
        item.sensitive,
        item.min_cell,
        {check.name: check.condition for check in item.checks},
        item.view.target if shows else "",
        item.view.condition if shows else "",
        item.view.definer if shows else "",
        not shows or item.view.with_key,
        {shown.name: shown.target for shown in item.view.attributes},
        item.view.withheld,
    )
