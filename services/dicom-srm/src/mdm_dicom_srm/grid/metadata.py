"""The metadata service, for registration."""

from collections.abc import Iterator, Sequence

import grpc
from mdm.metadata.v1 import metadata_pb2 as pb
from mdm.metadata.v1 import metadata_pb2_grpc
from mdm_wire.errors import Conflict, MdmError, NotFound

from mdm_dicom_srm.grid.call import GridService, outcomes, refuse_but
from mdm_dicom_srm.register.rules.model import Value
from mdm_dicom_srm.register.rules.port import Attribute, Collection, Entry

_TYPES = {
    "int": pb.ATTRIBUTE_TYPE_INT,
    "float": pb.ATTRIBUTE_TYPE_FLOAT,
    "text": pb.ATTRIBUTE_TYPE_VARCHAR,
    "date": pb.ATTRIBUTE_TYPE_DATE,
    "uuid": pb.ATTRIBUTE_TYPE_UUID,
}


class GridMetadata(GridService):
    """Stores entries; see `Metadata` for each method."""

    def __init__(self, channel: grpc.Channel, timeout: float = 30.0) -> None:
        super().__init__("metadata", channel, timeout)
        self._metadata = metadata_pb2_grpc.MetadataServiceStub(channel)

    def ensure_collections(self, collections: Sequence[Collection]) -> None:
        """Create the collections that are missing, and add attributes that are; one that exists with other attributes is an error."""
        request = pb.CreateCollectionsRequest(collections=[_collection(item) for item in collections])
        response = self.call(self._metadata.CreateCollections, request)
        for collection, error in zip(collections, outcomes(response.statuses), strict=True):
            # Collections above the site's may belong to another site of the same VO.
            if isinstance(error, Conflict):
                if collection.attributes and not self._add_missing(collection):
                    raise error
            elif error is not None:
                raise error

    def _add_missing(self, collection: Collection) -> bool:
        """Add the attributes that a collection of an earlier configuration lacks; return whether there are any and nothing else differs."""
        page = self.call(self._metadata.ListCollections, pb.ListCollectionsRequest(path=collection.path, page_size=1))
        known = {item.name.casefold(): item for found in page.collections if found.path == collection.path for item in found.attributes}
        missing = [item for item in map(_attribute, collection.attributes) if item.name.casefold() not in known]
        same = all(
            (there.type, there.length) == (item.type, item.length)
            for item in map(_attribute, collection.attributes)
            if (there := known.get(item.name.casefold())) is not None
        )
        if not known or not missing or not same:
            return False
        for item in missing:
            self.call(self._metadata.AlterCollection, pb.AlterCollectionRequest(path=collection.path, add_attribute=item))
        return True

    def upsert(self, collection: str, entries: Sequence[Entry]) -> list[MdmError | None]:
        """Insert or update entries."""
        request = pb.UpsertEntriesRequest(collection=collection, entries=[_entry(item) for item in entries])
        response = self.call(self._metadata.UpsertEntries, request)
        return outcomes(response.statuses)

    def remove(self, collection: str, keys: Sequence[str]) -> None:
        """Remove entries."""
        response = self.call(self._metadata.DeleteEntries, pb.DeleteEntriesRequest(collection=collection, keys=keys))
        refuse_but(outcomes(response.statuses), NotFound)

    def keys(self, collection: str) -> Iterator[str]:
        """Yield the keys of a collection's entries, in order of their bytes; none if there is no such collection."""
        token = ""
        while True:
            try:
                page = self.call(self._metadata.ListEntryKeys, pb.ListEntryKeysRequest(collection=collection, page_token=token))
            except NotFound:
                return
            yield from page.keys
            token = page.next_page_token
            if not token:
                return


def _collection(item: Collection) -> pb.Collection:
    return pb.Collection(
        path=item.path,
        attributes=[_attribute(attribute) for attribute in item.attributes],
        acl_id=str(item.acl_id),
        default_acl_id=str(item.default_acl_id),
        sensitive=item.sensitive,
    )


def _attribute(item: Attribute) -> pb.Attribute:
    return pb.Attribute(
        name=item.name,
        type=_TYPES[item.type],
        length=item.length,
        unit=item.unit,
        description=item.description,
        indexed=item.indexed,
    )


def _entry(item: Entry) -> pb.Entry:
    return pb.Entry(key=item.key, acl_id=str(item.acl_id), values={name: _value(value) for name, value in item.values.items()})


def _value(value: Value) -> pb.Value:
    match value:
        case None:
            return pb.Value()
        case bool():
            return pb.Value(bool=value)
        case int():
            return pb.Value(int=value)
        case float():
            return pb.Value(float=value)
        case str():
            return pb.Value(text=value)
