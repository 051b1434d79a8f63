"""The DIMSE messages of a query or retrieval, and what comes of them (PS3.7 section 9.1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from mdm_wire.errors import Unavailable
from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom.dimse_primitives import C_FIND, C_GET, C_MOVE, C_STORE
from pynetdicom.dsutils import create_file_meta, decode, encode_file_meta

SUCCESS, _PENDING = 0x0000, frozenset({0xFF00, 0xFF01})


class BrokenOff(Unavailable):
    """The association ended, or the PACS fell silent, before an operation was over."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response to C-FIND, C-GET or C-MOVE. `pending` ones are followed by others; the counters are those of sub-operations."""

    status: int
    identifier: Dataset | None
    completed: int = 0
    failed: int = 0

    @property
    def pending(self) -> bool:
        """Whether more is to come."""
        return self.status in _PENDING


@dataclass(frozen=True, slots=True)
class Stored:
    """An instance that came by a C-STORE over our own association."""

    sop_class: str
    sop_uid: str
    part10: bytes = field(repr=False)


def stored(association: Any, request: C_STORE) -> Stored:
    """Return what a C-STORE brought as a Part 10 file, its data set as it came.

    Raises:
        BrokenOff: it came in a presentation context that we did not propose.
    """
    context = association._accepted_cx.get(request.context_id)  # type: ignore[attr-defined]
    if context is None or not request.AffectedSOPInstanceUID or not request.AffectedSOPClassUID:
        raise BrokenOff("PACS_BROKE_OFF", "The PACS sent something else than what was asked for.")
    sop_uid = str(request.AffectedSOPInstanceUID)
    meta = create_file_meta(
        sop_class_uid=UID(request.AffectedSOPClassUID), sop_instance_uid=UID(sop_uid), transfer_syntax=context.transfer_syntax[0]
    )
    content = request.DataSet.getvalue() if isinstance(request.DataSet, BytesIO) else b""
    return Stored(str(request.AffectedSOPClassUID), sop_uid, b"".join((bytes(128), b"DICM", encode_file_meta(meta), content)))


def acknowledge(association: Any, request: C_STORE) -> None:
    """Answer a C-STORE with success."""
    response = C_STORE()
    response.MessageID = response.MessageIDBeingRespondedTo = request.MessageID
    response.AffectedSOPInstanceUID, response.AffectedSOPClassUID = request.AffectedSOPInstanceUID, request.AffectedSOPClassUID
    response.Status = SUCCESS
    association.dimse.send_msg(response, request.context_id)  # type: ignore[attr-defined]


def answer_of(association: Any, operation: str, response: Any) -> Answer:
    """Return a response as an `Answer`.

    Raises:
        BrokenOff: it is none.
    """
    if not isinstance(response, (C_FIND, C_GET, C_MOVE)) or response.Status is None:
        raise BrokenOff("PACS_BROKE_OFF", "The PACS sent something else than an answer.")
    syntax = next(c for c in association.accepted_contexts if c.abstract_syntax == operation).transfer_syntax[0]
    identifier = None
    if response.Identifier is not None:
        try:
            identifier = decode(response.Identifier, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
        except Exception:  # pydicom raises of many kinds
            raise BrokenOff("PACS_BROKE_OFF", "The PACS sent an answer that cannot be read.") from None
    done = getattr(response, "NumberOfCompletedSuboperations", None) or 0
    done += getattr(response, "NumberOfWarningSuboperations", None) or 0
    return Answer(int(response.Status), identifier, int(done), int(getattr(response, "NumberOfFailedSuboperations", None) or 0))


def identifier(level: str, keys: Mapping[str, str | Sequence[str]]) -> Dataset:
    """Return an identifier of the Study Root model; an empty value asks for the attribute."""
    dataset = Dataset()
    dataset.QueryRetrieveLevel = level
    if not all(text.isascii() for value in keys.values() for text in ([value] if isinstance(value, str) else value)):
        dataset.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in keys.items():
        setattr(dataset, keyword, value if isinstance(value, str) else list(value))
    return dataset
