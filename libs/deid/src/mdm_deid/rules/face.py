"""Which instances may show a face: tomographic images of any part of the body, as headers are often wrong about the part."""

from typing import Final

from mdm_deid.encoding.codec import PIXELS
from mdm_deid.rules.facts import SOP_CLASS, Facts

_MODALITY: Final = 0x00080060
#: CT Image Storage and MR Image Storage.
SINGLE_FRAME: Final = frozenset({"1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"})
# Enhanced CT, Legacy Converted Enhanced CT; Enhanced MR, Enhanced MR Color, Legacy Converted Enhanced MR.
_MULTI_FRAME: Final = frozenset(f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2.1", "2.2", "4.1", "4.3", "4.4"))
_MODALITIES: Final = frozenset({"CT", "MR"})


def may_show_face(facts: Facts) -> bool:
    """Return whether an instance is a CT or MR image, by its SOP class or by its modality, such as a rendering saved as a capture."""
    if not PIXELS & facts.bulk.keys():
        return False
    modality = facts.texts.get(_MODALITY, "").strip(" \0").upper()
    return facts.uid(SOP_CLASS) in SINGLE_FRAME | _MULTI_FRAME or modality in _MODALITIES
