"""The metadata service, for registration."""

from collections.abc import Sequence

import grpc
from mdm.metadata.v1 import metadata_pb2 as pb
from mdm.metadata.v1 import metadata_pb2_grpc
from mdm_wire.errors import Conflict, MdmError, NotFound

from mdm_dicom_srm.grid.acl import GrpcAcls, outcomes, refuse_but
from mdm_dicom_srm.grid.error import calling
from mdm_dicom_srm.register.rules.port import Attribute, Collection, Entry
from mdm_dicom_srm.register.rules.statement import Value

_TYPES = {
    "int": pb.ATTRIBUTE_TYPE_INT,
    "float": pb.ATTRIBUTE_TYPE_FLOAT,
    "text": pb.ATTRIBUTE_TYPE_VARCHAR,
    "date": pb.ATTRIBUTE_TYPE_DATE,
    "uuid": pb.ATTRIBUTE_TYPE_UUID,
}


class GridMetadata(GrpcAcls):
    """Stores entries; see `register.port.Metadata`."""

    def __init__(self, channel: grpc.Channel, timeout: float = 30.0) -> None:
        super().__init__("metadata", channel, timeout)
        self._metadata = metadata_pb2_grpc.MetadataServiceStub(channel)

    def ensure_collections(self, collections: Sequence[Collection]) -> None:
        """Create the collections that are missing.

        Raises:
            MdmError: one cannot be made, or exists with other attributes.
        """
        request = pb.CreateCollectionsRequest(collections=[_collection(item) for item in collections])
        with calling(self.place):
            response = self._metadata.CreateCollections(request, timeout=self.timeout)
        for collection, error in zip(collections, outcomes(response.statuses), strict=True):
            # Collections above the site's may belong to another site of the same VO.
            if error is not None and not (isinstance(error, Conflict) and not collection.attributes):
                raise error

    def upsert(self, collection: str, entries: Sequence[Entry]) -> list[MdmError | None]:
        """Insert or update entries."""
        request = pb.UpsertEntriesRequest(collection=collection, entries=[_entry(item) for item in entries])
        with calling(self.place):
            response = self._metadata.UpsertEntries(request, timeout=self.timeout)
        return outcomes(response.statuses)

    def remove(self, collection: str, keys: Sequence[str]) -> None:
        """Remove entries; see `register.port.Metadata`.

        Raises:
            MdmError: one cannot be removed.
        """
        with calling(self.place):
            response = self._metadata.DeleteEntries(pb.DeleteEntriesRequest(collection=collection, keys=keys), timeout=self.timeout)
        refuse_but(outcomes(response.statuses), NotFound)


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
