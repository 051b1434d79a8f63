"""What the metadata keeps of a result."""

from collections.abc import Mapping, Sequence
from os.path import commonpath

from mdm_wire.errors import Invalid

from mdm_dicom_srm.register.rules.port import Attribute

COLLECTION = "results"
_SHOWN_SOURCES = 8
#: Set by who puts a result.
GIVEN = (
    Attribute("kind", "text", 64, description="What it is, such as segmentation", indexed=True),
    Attribute("tool", "text", 256, description="What made it"),
    Attribute("tool_version", "text", 64),
    Attribute("description", "text", 1023),
    Attribute("patient", "text", 64, description="Pseudonym", indexed=True),
    Attribute("study", "text", 64, description="Pseudonymous Study Instance UID", indexed=True),
    Attribute("series", "text", 64, description="Series Instance UID of a result in DICOM", indexed=True),
    Attribute("Modality", "text", 16, indexed=True),
    Attribute("SOPClassUID", "text", 64),
    Attribute("SOPInstanceUID", "text", 64),
    Attribute("SeriesDescription", "text", 256),
)
#: Set by the site.
_OWN = (
    Attribute("guid", "uuid", description="Name of the file in the grid", indexed=True),
    Attribute("lfn", "text", 1023, description="Logical file name as it was put"),
    Attribute("derived_from", "text", 1023, description="GUIDs of what it was made from; of many, the directory that they are in"),
    Attribute("size", "int", unit="By"),
    Attribute("sha256", "text", 64, description="Of the plaintext"),
    Attribute("put_on", "date"),
)
ATTRIBUTES = _OWN + GIVEN
_LENGTHS = {item.name: item.length for item in GIVEN}


def check_attributes(given: Mapping[str, str]) -> None:
    """Check what a user says of a result.

    Raises:
        Invalid: ATTRIBUTE_UNKNOWN, or ATTRIBUTE_TOO_LONG.
    """
    for name, value in given.items():
        if name not in _LENGTHS:
            raise Invalid("ATTRIBUTE_UNKNOWN", f"A result has {', '.join(_LENGTHS)}, not {name[:64]}.", fields={"attributes": "unknown"})
        if len(value) > _LENGTHS[name]:
            raise Invalid("ATTRIBUTE_TOO_LONG", f"{name} has at most {_LENGTHS[name]} characters.", fields={"attributes": "too long"})


def sources_text(guids: Sequence[object], lfns: Sequence[str]) -> str:
    """Return what the metadata says of the files that a result was made from."""
    if len(guids) <= _SHOWN_SOURCES:
        return " ".join(map(str, guids))
    return commonpath([lfn.rpartition("/")[0] or "/" for lfn in lfns])[:1023] if lfns else ""
