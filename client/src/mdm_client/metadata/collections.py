"""Collections of the metadata service: schemas, views, links, replicas of subtrees, and sequences."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mdm.metadata.v1 import feed_pb2, feed_pb2_grpc, metadata_pb2_grpc
from mdm.metadata.v1 import metadata_pb2 as pb
from mdm_wire.batch import item_errors
from mdm_wire.errors import Invalid, MdmError, NotFound

from mdm_client.metadata.value import TYPE_NAMES, TYPES
from mdm_client.service import Service, raise_first


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

    `shown` are the names of a view's attributes, with their names in the target; a link has no `definer`. The condition of a `withheld`
    view is not for this caller.
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
class ReplicaState:
    """A replica of a subtree: being copied, or how many change sets and seconds behind its origin (-1: never up to date yet)."""

    origin: str
    subtree: str
    copying: bool
    behind: int
    lag_seconds: float
    problem: str


@dataclass(frozen=True)
class SequenceState:
    """A sequence: its next number, and the step to the one after; None if the caller may not take numbers."""

    name: str
    next: int | None = None
    step: int | None = None


class MetadataCollections:
    """Calls of `mdm.metadata.v1` that make and change collections; they raise MdmError."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stub = metadata_pb2_grpc.MetadataServiceStub(service.channel)

    def create(self, collections: Sequence[Collection]) -> list[MdmError | None]:
        """Create collections, parents first; one that exists with the same attributes counts as created."""
        request = pb.CreateCollectionsRequest(collections=[_to_proto(item) for item in collections])
        return item_errors(collections, self._service.call(self._stub.CreateCollections, request).statuses)

    def walk(self, path: str) -> Iterable[Collection]:
        """Yield the collections at and below `path`, by path."""
        for page in self._service.pages(self._stub.ListCollections, lambda token: pb.ListCollectionsRequest(path=path, page_token=token)):
            yield from map(_from_proto, page.collections)

    def describe(self, path: str) -> Collection:
        """Return one collection.

        Raises:
            NotFound: the caller can see no collection of this path.
        """
        page = self._service.call(self._stub.ListCollections, pb.ListCollectionsRequest(path=path, page_size=1))
        if not page.collections or page.collections[0].path.casefold() != path.casefold():
            raise NotFound("COLLECTION_NOT_FOUND", f"{path}: no such collection, or you may not see it")
        return _from_proto(page.collections[0])

    def drop(self, paths: Sequence[str]) -> list[MdmError | None]:
        """Drop collections with their entries."""
        return item_errors(paths, self._service.call(self._stub.DropCollections, pb.DropCollectionsRequest(paths=paths)).statuses)

    def alter(self, path: str, **change: Any) -> None:
        """Change a schema by one step, named as in AlterCollectionRequest; there is no time limit for building an index."""
        self._service.call_once(self._stub.AlterCollection, pb.AlterCollectionRequest(path=path, **change), None)

    def add_attribute(self, path: str, attribute: Attribute) -> None:
        self.alter(path, add_attribute=_attribute_to_proto(attribute))

    def change_attribute(self, path: str, name: str, **properties: Any) -> None:
        """Change properties of an attribute: new_name, unit, description, not_null, indexed, unique, references."""
        self.alter(path, change_attribute=pb.AttributeChange(name=name, **properties))

    def create_view(
        self, path: str, target: str, attributes: Mapping[str, str], condition: str, *, with_key: bool, is_link: bool, acl_id: str = ""
    ) -> None:
        """Create a view of `attributes` (name in the view → name in the target), or a link."""
        shown = [pb.ViewAttribute(name=name, target=original) for name, original in attributes.items()]
        view = pb.View(path=path, target=target, attributes=shown, condition=condition, with_key=with_key, is_link=is_link, acl_id=acl_id)
        raise_first(item_errors([view], self._service.call(self._stub.CreateViews, pb.CreateViewsRequest(views=[view])).statuses))

    def replicas(self) -> Sequence[ReplicaState]:
        """Return the replicas of subtrees that this service keeps; for operators."""
        stub = feed_pb2_grpc.MetadataFeedServiceStub(self._service.channel)
        found = self._service.call(stub.ListReplicas, feed_pb2.ListReplicasRequest()).replicas
        states = []
        for r in found:
            behind = max(r.head - r.position.sequence, 0)
            states.append(ReplicaState(r.origin, r.subtree, r.position.copying, behind, r.lag_seconds, r.problem))
        return states


class MetadataSequences:
    """Calls of `mdm.metadata.v1` about sequences."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stub = metadata_pb2_grpc.MetadataServiceStub(service.channel)

    def create(self, path: str, name: str, start: int, step: int) -> None:
        request = pb.CreateSequenceRequest(collection=path, name=name, start=start, step=step)
        self._service.call_once(self._stub.CreateSequence, request, None)

    def resume(self, path: str, name: str, start: int, step: int) -> None:
        """Create a sequence, or continue an existing one at `start`, unless it is further already.

        Raises:
            Conflict: SEQUENCE_EXISTS: it has another step.
        """
        request = pb.CreateSequenceRequest(collection=path, name=name, start=start, step=step, resume=True)
        self._service.call(self._stub.CreateSequence, request)

    def drop(self, path: str, name: str) -> None:
        self._service.call_once(self._stub.DropSequence, pb.DropSequenceRequest(collection=path, name=name), None)

    def of_collection(self, path: str) -> Sequence[SequenceState]:
        """Return a collection's sequences by name."""
        found = self._service.call(self._stub.ListSequences, pb.ListSequencesRequest(collection=path)).sequences
        return [SequenceState(s.name, s.next, s.step) if s.step else SequenceState(s.name) for s in found]

    def take(self, path: str, name: str, count: int = 1) -> range:
        """Take the next numbers of a sequence; each is given only once."""
        taken = self._service.call_once(self._stub.TakeNumbers, pb.TakeNumbersRequest(collection=path, name=name, count=count), None)
        return range(taken.first, taken.first + taken.step * count, taken.step)


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
        Attribute(a.name, TYPE_NAMES.get(a.type, "text"), a.length, a.unit, a.description, a.not_null, a.indexed, a.unique, a.references)
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
