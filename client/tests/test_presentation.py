"""Presentation states applied to pictures: by themselves, by /rendered of the gateway, by mdm show and mdm thumbnail."""

import io

import httpx
import numpy as np
import pytest
from mdm_client import Client
from mdm_client.dicomweb.presentation import CLASSES, Presentation
from mdm_client.dicomweb.rendering import draw
from mdm_client.view.server import ViewOptions
from mdm_wire.errors import FailedPrecondition
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from client.tests.imaging import imaging_grid, slices, written
from client.tests.test_cli import mdm
from client.tests.test_view import served

SIDE = 64


def item(**values) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def reference(image: Dataset, *frames: int) -> Dataset:
    made = item(ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID)
    if frames:
        made.ReferencedFrameNumber = list(frames)
    return made


def state_of(*images: Dataset, frames: tuple[int, ...] = (), **values) -> Dataset:
    """Return a presentation state of images, with a window that shows all values from -1024 to -960."""
    made = item(PresentationLUTShape="IDENTITY", Modality="PR", InstanceNumber=1, SOPClassUID=CLASSES[0], SOPInstanceUID=generate_uid())
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    references = [reference(image, *frames) for image in images]
    made.ReferencedSeriesSequence = [item(SeriesInstanceUID=images[0].SeriesInstanceUID, ReferencedImageSequence=references)]
    made.SoftcopyVOILUTSequence = [item(WindowCenter=-992, WindowWidth=64)]
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def ramp() -> Dataset:
    """Return an image whose columns have the values -1024, -1023 and so on."""
    [image] = slices(1, SIDE)
    image.PixelData = np.repeat(np.arange(SIDE, dtype="<u2")[None], SIDE, 0).tobytes()
    image.WindowCenter, image.WindowWidth = 5000, 1
    return image


def shown(image: Dataset, state: Dataset, window=None) -> np.ndarray:
    return np.asarray(draw(written(image), 1, window, states=[Presentation(state)]))


def test_the_states_window_takes_the_place_of_the_images_and_a_given_one_of_both():
    image = ramp()
    assert draw(written(image), 1).getextrema() == (0, 0)
    picture = shown(image, state_of(image))
    assert picture[0].tolist() == [int(column / 64 * 255) for column in range(SIDE)]
    assert shown(image, state_of(image, PresentationLUTShape="INVERSE"))[0, 0] == 255
    assert set(shown(image, state_of(image), (-992.5, 1))[0].tolist()) == {0, 255}


def test_a_voi_table_and_a_rescale_of_the_state_are_applied():
    image = ramp()
    table = item()
    table.add_new("LUTDescriptor", "US", [64, 0, 16])
    table.add_new("LUTData", "US", [1024 * number for number in reversed(range(64))])
    voi = item(VOILUTSequence=[table])
    state = state_of(image, SoftcopyVOILUTSequence=[voi], RescaleSlope=1, RescaleIntercept=0, RescaleType="US")
    assert shown(image, state)[0, :3].tolist() == [int(1024 * number / 65535 * 255) for number in (63, 62, 61)]


def test_a_state_of_another_image_or_frame_changes_nothing():
    image, other = slices(2, SIDE)
    for state in (state_of(other), state_of(image, frames=(2,))):
        assert shown(image, state).tolist() == np.asarray(draw(written(image), 1)).tolist()


@pytest.mark.parametrize(
    ("shutter", "open_at", "closed_at"),
    [
        (
            {
                "ShutterShape": "RECTANGULAR",
                "ShutterLeftVerticalEdge": 11,
                "ShutterRightVerticalEdge": 50,
                "ShutterUpperHorizontalEdge": 21,
                "ShutterLowerHorizontalEdge": 40,
            },
            (20, 49),
            (19, 49),
        ),
        ({"ShutterShape": "CIRCULAR", "CenterOfCircularShutter": [33, 33], "RadiusOfCircularShutter": 10}, (32, 42), (32, 44)),
        ({"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": [1, 31, 64, 31, 64, 64, 1, 64]}, (5, 40), (5, 20)),
    ],
)
def test_what_a_shutter_closes_is_not_shown(shutter, open_at, closed_at):
    image = ramp()
    whole, picture = shown(image, state_of(image)), shown(image, state_of(image, **shutter))
    assert picture[open_at] == whole[open_at] > 0
    assert (picture[closed_at], whole[closed_at] > 0) == (0, True)
    white = shown(image, state_of(image, **shutter, ShutterPresentationValue=65535))
    assert white[closed_at] == 255


def test_graphics_and_texts_are_drawn_on_the_images_that_they_name():
    [first, second] = slices(2, SIDE)
    ring = item(GraphicType="CIRCLE", GraphicData=[32.0, 32.0, 32.0, 42.0], GraphicAnnotationUnits="PIXEL", GraphicDimensions=2)
    word = item(UnformattedTextValue="X", BoundingBoxAnnotationUnits="DISPLAY", BoundingBoxTopLeftHandCorner=[0.8, 0.8])
    annotation = item(GraphicLayer="A", GraphicObjectSequence=[ring], TextObjectSequence=[word], ReferencedImageSequence=[reference(first)])
    state = state_of(first, second, GraphicAnnotationSequence=[annotation])
    picture = shown(first, state)
    coloured = np.argwhere(picture[..., 0] != picture[..., 2])
    assert [32, 42] in coloured.tolist() and [32, 32] not in coloured.tolist()
    assert any(row > 50 and column > 50 for row, column in coloured), "the text"
    assert shown(second, state).ndim == 2, "nothing is drawn on the other image"


def test_the_displayed_area_is_cut_out_then_turned_and_flipped():
    image = ramp()
    area = item(DisplayedAreaTopLeftHandCorner=[11, 1], DisplayedAreaBottomRightHandCorner=[20, 5])
    cut = shown(image, state_of(image, DisplayedAreaSelectionSequence=[area]))
    assert cut.shape == (5, 10) and cut[0].tolist() == shown(image, state_of(image))[0, 10:20].tolist()
    turned = shown(image, state_of(image, DisplayedAreaSelectionSequence=[area], ImageRotation=90, ImageHorizontalFlip="N"))
    assert turned.shape == (10, 5) and turned[:, 0].tolist() == cut[0].tolist()
    flipped = shown(image, state_of(image, DisplayedAreaSelectionSequence=[area], ImageHorizontalFlip="Y"))
    assert flipped[0].tolist() == cut[0, ::-1].tolist()


@pytest.mark.parametrize("far", [1e30, float("inf")])
def test_what_lies_far_outside_is_drawn_in_no_time(far):
    image = ramp()
    shape = item(GraphicAnnotationUnits="PIXEL", GraphicType="CIRCLE", GraphicData=[0.0, 0.0, far, 0.0], GraphicFilled="Y")
    state = state_of(image, GraphicAnnotationSequence=[item(GraphicObjectSequence=[shape])])
    assert shown(image, state).shape[:2] == (image.Rows, image.Columns)


def test_a_malformed_state_is_an_error_and_not_a_picture_without_its_shutter():
    image = ramp()
    with pytest.raises(FailedPrecondition, match="cannot be drawn"):
        shown(image, state_of(image, ShutterShape="CIRCULAR"))


def test_rendered_show_and_thumbnail_apply_the_state_of_the_study_thumbnails_of_the_list_do_not(pki, tmp_path):
    image = ramp()
    state = state_of(image)
    with imaging_grid(pki, tmp_path / "grid") as grid:
        study = grid.add_study([image], [state])
        config, lfn = grid.config(), grid.image_of(image.SOPInstanceUID).lfn
        options = ViewOptions(viewer=tmp_path / "no-viewer", searches=tmp_path / "searches.json")
        with Client.load(config) as client, served(client, options) as server:
            address = f"{server.gateway.root}/studies/{study}/series/{image.SeriesInstanceUID}/instances/{image.SOPInstanceUID}"
            with httpx.Client(headers={"Authorization": f"Bearer {server.guard.token}", "Accept": "image/png"}, timeout=30) as http:
                rendered = Image.open(io.BytesIO(http.get(f"{address}/rendered").content))
                assert rendered.getextrema() == (0, 251)
                assert Image.open(io.BytesIO(http.get(f"{address}/thumbnail").content)).getextrema() == (0, 0)
        picture = tmp_path / "picture.png"
        assert mdm(config, "thumbnail", lfn, "-o", str(picture)).exit_code == 0
        assert Image.open(picture).getextrema() == (0, 251)
        drawn = mdm(config, "show", lfn, "--protocol", "plain").stdout.splitlines()[0]
        assert len(set(drawn)) > 5
        [guid] = [found.guid for found in grid.catalog.images.values() if found.lfn.rpartition("/")[0] != lfn.rpartition("/")[0]]
        for keystore in grid.keystores:
            keystore.shares.pop(str(guid))
        assert mdm(config, "thumbnail", lfn, "-f", "-o", str(picture)).exit_code == 0
        assert Image.open(picture).getextrema() == (0, 0), "a state without a key is not for the caller"
