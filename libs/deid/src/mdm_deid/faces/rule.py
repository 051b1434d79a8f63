"""The mask of a series as a pixel rule: for the images that it was made from, and no others."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mdm_deid.faces.place import member, place_of, rescale_of
from mdm_deid.faces.region import FaceRegion, spans
from mdm_deid.pixels.drawn import DrawnRule
from mdm_deid.pixels.image import SOP_CLASS, Image
from mdm_deid.pixels.rule import CLEAN_FACES
from mdm_deid.rules.rule import FACE_UNMASKED

#: Changes with every change of what is blanked.
VERSION: Final = 1
MASKED: Final = "face"
NO_HEAD: Final = "no-head"
# Hounsfield units of air.
_AIR: Final = -1000.0
_CT: Final = "1.2.840.10008.5.1.4.1.1.2"


@dataclass(frozen=True)
class FaceRule(DrawnRule):
    """Blanks the face on the images named in `members`; on those of a series without a head nothing.

    `region` are the numbers that describe it, empty without a head; see `FaceRegion`.
    """

    members: frozenset[bytes] = field(default=frozenset(), repr=False)
    region: tuple[float, ...] = ()

    @classmethod
    def of_series(cls, members: Sequence[bytes], region: tuple[float, ...]) -> "FaceRule":
        """Return the rule for a series."""
        name, codes = (MASKED, frozenset({CLEAN_FACES})) if region else (NO_HEAD, frozenset[str]())
        return cls(name, "faces", frozenset({FACE_UNMASKED}), codes=codes, members=frozenset(members), region=region)

    @property
    def needs_suspicion(self) -> bool:
        """Whether the rule is only for what the profile suspects by a rule."""
        return False

    def concerns(self, sop_class: str, modality: str) -> bool:
        """Return whether the rule may apply; `matches` decides."""
        return True

    def matches(self, image: Image) -> bool:
        """Return whether the mask was made from this image, as it is."""
        return member(image) in self.members

    def blanked(self, image: Image) -> list[list[tuple[int, int]]]:
        """Return for each row the spans of columns that show the face."""
        place = place_of(image)
        if not self.region or place is None:
            return [[] for _ in range(image.rows)]
        return spans(FaceRegion.from_numbers(self.region), place, image.rows, image.columns)

    def blank_value(self, image: Image) -> int:
        """Return the stored value of air: in MR the least that there is, without signs 0."""
        if image.texts.get(SOP_CLASS) != _CT:
            return 0
        scale = rescale_of(image)
        bits = image.bits_stored or image.bits_allocated
        low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if image.representation & 1 else (0, (1 << bits) - 1)
        return max(low, min(high, round((_AIR - scale[1]) / scale[0]))) if scale else 0


def to_json(rule: FaceRule) -> dict[str, Any]:
    """Return what `from_json` reads."""
    return {"version": VERSION, "members": sorted(one.hex() for one in rule.members), "region": list(rule.region)}


def from_json(content: dict[str, Any]) -> FaceRule | None:
    """Return the rule that `to_json` wrote; None for one of another version."""
    if content["version"] != VERSION:
        return None
    return FaceRule.of_series([bytes.fromhex(one) for one in content["members"]], tuple(content["region"]))
