"""From the images of a series to its mask: each is read, reduced and let go; what is uncertain gives no mask."""

from collections.abc import Iterable
from typing import Final

import numpy as np

from mdm_deid.encoding.part10 import open_part10
from mdm_deid.faces.place import member, place_of, rescale_of
from mdm_deid.faces.region import find_face
from mdm_deid.faces.rule import FaceRule
from mdm_deid.faces.volume import MAX_SLICES, Slice, reduced, sample, stack
from mdm_deid.outcome import FaceUnmasked, Malformed
from mdm_deid.pixels.blanking import Unblankable, decoded_frames
from mdm_deid.pixels.image import BODY_PART, IMAGE_TYPE, SERIES, SOP_CLASS, Image, read_image
from mdm_deid.rules.facts import SINGLE_FRAME

_CT: Final = "1.2.840.10008.5.1.4.1.1.2"
# Terms of Body Part Examined (PS3.16 Annex L) of which no part of a head can be seen. Neck, chest and spine are not among them.
_FAR_FROM_HEAD: Final = frozenset(
    {"ABDOMEN", "ABDOMENPELVIS", "ANKLE", "ARM", "BLADDER", "CALF", "COCCYX", "ELBOW", "FEMUR", "FINGER", "FOOT", "FOREARM", "HAND"}
    | {"HIP", "HUMERUS", "KIDNEY", "KNEE", "LEG", "LIVER", "LSPINE", "LOWERLEG", "PANCREAS", "PELVIS", "PROSTATE", "SACRUM", "SIJOINT"}
    | {"SPLEEN", "SSPINE", "THIGH", "TOE", "UTERUS", "WRIST"}
)


def read_slice(part10: bytes | memoryview) -> Slice:
    """Return one image of a series, reduced.

    Raises:
        FaceUnmasked: it is no single CT or MR image, does not say where it lies, or cannot be decoded here.
    """
    try:
        opened = open_part10(part10)
        image = read_image(opened.data, opened.start, opened.encoding)
        _check(image)
        place, scale = place_of(image), rescale_of(image)
        if place is None:
            raise FaceUnmasked("no_position")
        if scale is None:
            raise FaceUnmasked("rescale")
        frame = next(iter(decoded_frames(image, opened)))[0]
    except Malformed:
        raise FaceUnmasked("unreadable") from None
    except Unblankable as error:
        raise FaceUnmasked(error.reason) from None
    values = _values(frame, image) * np.float32(scale[0]) + np.float32(scale[1])
    if not np.isfinite(values).all():
        raise FaceUnmasked("rescale")
    row, column = np.array(place.row), np.array(place.column)
    spacing = (float(np.linalg.norm(column)), float(np.linalg.norm(row)))
    modality = "CT" if image.texts[SOP_CLASS] == _CT else "MR"
    part = image.texts.get(BODY_PART, "").upper().replace(" ", "").replace("_", "")
    return Slice(
        np.array(place.origin),
        row,
        column,
        (image.rows, image.columns),
        reduced(values, spacing),
        modality,
        member(image),
        part in _FAR_FROM_HEAD,
    )


def series_of(part10: bytes | memoryview) -> str:
    """Return the Series Instance UID of a file; "" where it has none, or cannot be read."""
    try:
        opened = open_part10(part10)
        return read_image(opened.data, opened.start, opened.encoding).texts.get(SERIES, "")
    except Malformed:
        return ""


def make_rule(slices: Iterable[Slice]) -> FaceRule:
    """Return the rule for a whole series: the same for the same images, in whatever order they come.

    Raises:
        FaceUnmasked: no mask can be made with certainty.
    """
    kept: list[Slice] = []
    for one in slices:
        if len(kept) == MAX_SLICES:
            raise FaceUnmasked("too_many_slices")
        kept.append(one)
    ordered = stack(kept)
    members = [one.member for one in ordered]
    try:
        return FaceRule.of_series(members, find_face(sample(ordered)).numbers())
    except FaceUnmasked as error:
        if error.detail == "no_head" and all(one.far_from_head for one in ordered):
            return FaceRule.of_series(members, ())
        raise


def _check(image: Image) -> None:
    """Refuse what is no plain image of a stack."""
    if image.texts.get(SOP_CLASS) not in SINGLE_FRAME:
        raise FaceUnmasked("multi_frame" if image.frames != 1 else "sop_class")
    if image.frames != 1:
        raise FaceUnmasked("multi_frame")
    if "LOCALIZER" in image.texts.get(IMAGE_TYPE, "").upper().split("\\"):
        raise FaceUnmasked("localizer")
    if image.photometric != "MONOCHROME2" or image.samples != 1 or image.bits_allocated not in (8, 16):
        raise FaceUnmasked("pixel_layout")


def _values(frame: bytearray, image: Image) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    """Return stored values; bits above those stored are not part of them."""
    stored = np.frombuffer(frame, "<u2" if image.bits_allocated == 16 else "u1").reshape(image.rows, image.columns).astype(np.int32)
    bits = image.bits_stored if 0 < image.bits_stored <= image.bits_allocated else image.bits_allocated
    stored &= (1 << bits) - 1
    if image.representation & 1:
        stored -= (stored >> (bits - 1)) << bits
    return stored.astype(np.float32)
