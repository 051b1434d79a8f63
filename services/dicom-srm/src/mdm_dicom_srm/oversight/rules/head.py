"""The head that a series shows, drawn for a curator with its face and without."""

from dataclasses import dataclass, field

from mdm_deid.faces.region import FaceRegion, find_face
from mdm_deid.faces.rendering import draw_head
from mdm_deid.faces.volume import sample, stack
from mdm_deid.outcome import FaceUnmasked
from mdm_wire.errors import FailedPrecondition

from mdm_dicom_srm.oversight.rules.face import SeriesReader
from mdm_dicom_srm.pacs.port import InstanceLocator


@dataclass(frozen=True, slots=True)
class Head:
    """A picture as PNG, why the face cannot be masked ("" if it can), and how many images the series has."""

    png: bytes = field(repr=False)
    detail: str
    images: int


def head_of(reader: SeriesReader, locator: InstanceLocator) -> Head:
    """Return the head that the series of an instance shows now, with the mask that would be made of these images.

    Raises:
        Unavailable: the PACS does not deliver the series.
        FailedPrecondition: CANNOT_RENDER, its images are no volume.
    """
    locators = reader.instances(locator.study_uid, locator.series_uid)
    region: FaceRegion | None = None
    detail = ""
    try:
        grid = sample(stack(list(reader.slices(locators))))
    except FaceUnmasked as error:
        raise FailedPrecondition("CANNOT_RENDER", f"The images of the series are no volume: {error.detail}.") from None
    try:
        region = find_face(grid)
    except FaceUnmasked as error:
        detail = error.detail
    try:
        return Head(draw_head(grid, region), detail, len(locators))
    except FaceUnmasked as error:
        raise FailedPrecondition("CANNOT_RENDER", f"The images of the series show no body: {error.detail}.") from None
