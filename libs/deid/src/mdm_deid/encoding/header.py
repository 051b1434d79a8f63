"""The header of a Part 10 file: all of it but its pixel data, and the UIDs that name the instance."""

from dataclasses import dataclass, field
from typing import Final

from mdm_deid.encoding.element import PIXEL_DATA, PIXELS, UNDEFINED, skip
from mdm_deid.encoding.part10 import META_SOP_INSTANCE, Part10, deflate, file_meta, open_part10, uid_text
from mdm_deid.encoding.vr import INVALID_VR, with_known_vrs
from mdm_deid.outcome import Malformed

_PIXEL_GROUP: Final = 0x7FE00000
_SOP_INSTANCE, _STUDY, _SERIES = _UIDS = (0x00080018, 0x0020000D, 0x0020000E)


@dataclass(frozen=True, slots=True)
class Header:
    """A Part 10 file up to its pixel data, where an empty (7FE0,0010) stands for those it had; and its UIDs, "" if absent.

    `whole` is the file that it was cut from.
    """

    part10: bytes = field(repr=False)
    whole: bytes | memoryview = field(repr=False)
    sop_uid: str
    study_uid: str
    series_uid: str

    @property
    def size(self) -> int:
        """The bytes of the whole file."""
        return len(self.whole)


def read_header(part10: bytes | memoryview) -> Header:
    """Return the header of a complete file, in whatever transfer syntax. Pixel data are not copied, but must be complete.

    It ends before an element whose VR does not exist and whose end is not certain, if it names the instance until there.

    Raises:
        Malformed: the file cannot be read with certainty.
    """
    opened = open_part10(part10, any_syntax=True)
    try:
        return with_known_vrs(lambda read: _header(part10, read), opened)
    except Malformed as error:
        if error.reason != INVALID_VR:
            raise
        return _header(part10, opened, cut=True)


def unread_header(part10: bytes, sop_uid: str) -> Header:
    """Return the header of a file whose data set cannot be read: its file meta information, and the UID that its sender gave.

    Raises:
        Malformed: `not_part10`, `truncated`.
    """
    _, start = _required_meta(part10)
    return Header(part10[:start], part10, sop_uid, study_uid="", series_uid="")


def meta_sop_instance(part10: bytes | memoryview) -> str:
    """Return the SOP Instance UID that the file meta information gives, "" if none, without reading the data set.

    Raises:
        Malformed: `not_part10`, `truncated`.
    """
    meta, _ = _required_meta(part10)
    return uid_text(meta.get(META_SOP_INSTANCE, b""))


def _required_meta(part10: bytes | memoryview) -> tuple[dict[int, memoryview], int]:
    found = file_meta(memoryview(part10))
    if found is None:
        raise Malformed("not_part10")
    return found


def _header(whole: bytes | memoryview, opened: Part10, cut: bool = False) -> Header:
    """Return the header of an opened file; with `cut` it may end before an element of a VR that does not exist."""
    data, encoding, pos, limit = opened.data, opened.encoding, opened.start, len(opened.data)
    end, has_pixels, uids = limit, False, dict.fromkeys(_UIDS, "")
    while pos < limit and not has_pixels:
        try:
            head = encoding.header(data, pos, limit)
            after = skip(data, head, limit, encoding)
        except Malformed as error:
            if cut and error.reason == INVALID_VR and uids[_SOP_INSTANCE]:
                end = min(end, pos)
                break
            raise
        tag, _, value, length = head
        if tag >= _PIXEL_GROUP:
            end = min(end, pos)
        if tag in uids and length != UNDEFINED:
            uids[tag] = uid_text(data[value:after])
        has_pixels = tag in PIXELS and length > 0
        pos = after
    content: list[memoryview | bytes] = [data[opened.start : end], encoding.element(PIXEL_DATA, b"OW", b"") if has_pixels else b""]
    return Header(
        part10=b"".join([opened.envelope, *(deflate(content) if opened.deflated else content)]),
        whole=whole,
        sop_uid=uids[_SOP_INSTANCE],
        study_uid=uids[_STUDY],
        series_uid=uids[_SERIES],
    )
