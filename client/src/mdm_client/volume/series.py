"""Which files are a series, and the volume that they form."""

from typing import Protocol
from uuid import UUID

from mdm_wire.errors import Invalid, MdmError, NotFound

from mdm_client.image.fetching import FileRef, Grid
from mdm_client.image.reader import DEFAULT_MEMORY, ImageReader, refs_of
from mdm_client.metadata.client import MetadataClient
from mdm_client.name_syntax import Name, parse_name
from mdm_client.volume.geometry import Slice, Volume, stack
from mdm_client.volume.reading import read_slices

_IMAGES = "images"


class RecordedGrid(Grid, Protocol):
    """What reading a series by its UID needs of a client."""

    @property
    def metadata(self) -> MetadataClient:
        """The metadata of its own site."""

    def metadata_at(self, site: str) -> MetadataClient:
        """The metadata of another site."""


def read_volume(grid: RecordedGrid, series: str, memory: int = DEFAULT_MEMORY) -> Volume:
    """Return the volume of a series, named by its UID in the grid, its directory's LFN, or the GUID of one image.

    Raises:
        NotFound: SERIES_NOT_FOUND. FailedPrecondition: as `stack` and `read_slices`. MdmError: an image cannot be had.
    """
    with ImageReader(grid, memory) as reader:
        refs = _by_name(reader, parse_name(series)) if _is_name(series) else _by_uid(grid, series)
        slices: list[Slice] = []
        for ref, data in reader.read(refs):
            if isinstance(data, MdmError):
                raise data
            try:
                slices += read_slices(data)
            except MdmError as error:
                raise error.at(ref.lfn or str(ref.guid)) from error
    return stack(slices)


def _is_name(text: str) -> bool:
    return not text.replace(".", "").isdecimal()


def _by_name(reader: ImageReader, name: Name) -> list[FileRef]:
    plan = reader.plan([name])
    if plan.failures:
        raise plan.failures[0].error
    if not plan.files:
        raise _nothing(str(name))
    return refs_of(plan)


def _nothing(series: str) -> NotFound:
    return NotFound("SERIES_NOT_FOUND", f"{series[:128]}: no images of it that you may see")


def _by_uid(grid: RecordedGrid, series: str) -> list[FileRef]:
    """Return the images whose records name a series, at the first site that has any."""
    other = [site for site, addresses in grid.config.metadata_sites.items() if set(addresses) != set(grid.config.metadata)]
    failure: MdmError | None = None
    for site in ("", *sorted(other)):
        try:
            found = _recorded(grid.metadata_at(site) if site else grid.metadata, series)
        except MdmError as error:
            failure = failure or error
            continue
        if found:
            return found
    raise failure or _nothing(series)


def _recorded(metadata: MetadataClient, series: str) -> list[FileRef]:
    found: list[FileRef] = []
    for collection in metadata.collections.walk("/"):
        base, _, name = collection.path.rpartition("/")
        if name != _IMAGES or not {"guid", "lfn", "series"} <= {attribute.name for attribute in collection.attributes}:
            continue
        sql = f'SELECT guid, lfn FROM "{collection.path}" WHERE series = :series ORDER BY lfn'  # noqa: S608 - the path is the service's own
        try:
            rows = list(metadata.query(sql, parameters={"series": series}))
        except NotFound:  # a collection that is not for the caller is as if it were not there
            continue
        for guid, lfn in rows:
            if not isinstance(guid, UUID):
                raise Invalid("NO_GUID_COLUMN", f"{collection.path}: its column guid contains something other than GUIDs")
            found.append(FileRef(guid, str(lfn), base.rpartition("/")[2]))
    return found
