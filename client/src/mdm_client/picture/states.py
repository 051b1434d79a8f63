"""The presentation states of files' studies, found by the metadata."""

from collections.abc import Sequence
from contextlib import closing

from mdm_wire.errors import Forbidden, MdmError, NotFound, Unavailable

from mdm_client.client import Client
from mdm_client.dicomweb.matching import Condition, Search
from mdm_client.dicomweb.presentation import CLASSES, Presentation
from mdm_client.dicomweb.records import IMAGES, Records
from mdm_client.dicomweb.study import ref_of
from mdm_client.image.fetching import FileRef
from mdm_client.image.reader import ImageReader

_MOST = 100


def presentations(client: Client, reader: ImageReader, refs: Sequence[FileRef]) -> tuple[Presentation, ...]:
    """Return the presentation states that the caller may read, in the studies of files whose names are a site's.

    Without the metadata, pictures are drawn as images say; a state that cannot be had now is an error, for it may hide something.

    Raises:
        MdmError: a state cannot be had.
    """
    # /biomed/SITE/PATIENT/STUDY/SERIES/IMAGE
    studies = tuple(dict.fromkeys(ref.lfn.split("/")[-3] for ref in refs if ref.lfn.count("/") >= 3))[:_MOST]
    if not studies:
        return ()
    search = Search((Condition("StudyInstanceUID", studies), Condition("SOPClassUID", CLASSES)), _MOST)
    with closing(Records(client, timeout=10.0)) as records:
        try:
            found, _ = records.search(IMAGES, search)
        except (Unavailable, Forbidden, NotFound):
            return ()
    states = []
    for _, data in reader.read([ref_of(record) for record in found]):
        if isinstance(data, NotFound):
            continue
        if isinstance(data, MdmError):
            raise data
        states.append(Presentation.read(data))
    return tuple(states)
