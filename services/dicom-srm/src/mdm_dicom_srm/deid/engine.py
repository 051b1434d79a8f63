"""One pass over a data set's bytes: what may stay is copied as it is, the rest is removed, emptied, replaced or mapped."""

import re
from collections import Counter
from collections.abc import Iterable
from datetime import date, timedelta
from typing import Final

from pydicom._uid_dict import UID_dictionary

from mdm_dicom_srm.deid.codec import (
    IMPLICIT_LE,
    ITEM,
    ITEM_END,
    MAX_DEPTH,
    PIXEL_DATA,
    SEQUENCE_END,
    UNDEFINED,
    Encoding,
    Header,
    skip,
)
from mdm_dicom_srm.deid.outcome import Malformed
from mdm_dicom_srm.deid.pseudonym import Pseudonymiser
from mdm_dicom_srm.deid.rules import BINARY_VRS, TEXT_VRS, Kind, Level, Op, Rules
from mdm_dicom_srm.deid.table import load_safe_private

_STANDARD_UID = re.compile(r"1\.2\.840\.10008(\.\d{1,4}){1,9}")
_AGE = re.compile(rb"\d{3}[DWMY]")
_DATE = re.compile(rb"(\d{4})(\d{2})(\d{2})([\d.]*(?:[+-]\d{4})?)")
_OLDEST_AGE: Final = 89
_SAFE_CREATORS = {(group, creator) for group, _, creator in load_safe_private()}


class Pass:
    """De-identifies one data set; holds what is particular to it."""

    def __init__(self, data: memoryview, rules: Rules, pseudonymiser: Pseudonymiser, offset_days: int) -> None:
        self._data = data
        self._rules = rules
        self._pseudonymiser = pseudonymiser
        self._offset = timedelta(days=offset_days)
        self._uids: dict[bytes, bytes] = {}
        self.counts: Counter[str] = Counter()

    def data_set(self, pos: int, encoding: Encoding, written: Iterable[tuple[int, bytes | memoryview]]) -> list[memoryview | bytes]:
        """Return the data set from `pos` to the end of the buffer, with the elements `written` in their places.

        `written` is in tag order; what the input has under these tags is dropped.

        Raises:
            Malformed: an element cannot be read with certainty.
        """
        out: list[memoryview | bytes] = []
        limit = len(self._data)
        ours = dict(written)
        for tag, element in ours.items():
            pos = self._walk(pos, limit, self._rules.root, encoding, 0, out, stop=tag, ours=ours)
            out.append(element)
        self._walk(pos, limit, self._rules.root, encoding, 0, out, ours=ours)
        return out

    def _walk(
        self,
        pos: int,
        limit: int,
        level: Level,
        encoding: Encoding,
        depth: int,
        out: list[memoryview | bytes],
        *,
        stop: int = 1 << 32,
        ours: dict[int, bytes | memoryview] | None = None,
        delimited: bool = False,
    ) -> int:
        """Process elements until `limit`, a tag >= `stop`, or the item delimiter; return where to go on."""
        data, header, ops = self._data, encoding.header, level.ops[encoding.index]
        keep, creators = Kind.KEEP, dict[int, str]()
        drop_private, removed = 0 if self._rules.keeps_private else 0x10000, 0
        run = pos  # where the bytes begin that go out as they came
        while pos < limit:
            head = header(data, pos, limit)
            tag, vr, value, length = head
            if tag >= stop:
                break
            if tag == ITEM_END and delimited:
                if run < pos:
                    out.append(data[run:pos])
                self.counts["removed"] += removed
                return value
            if tag >= 0xFFFE0000:
                raise Malformed("stray_delimiter")
            if tag & drop_private and length <= limit - value:
                if run < pos:
                    out.append(data[run:pos])
                run = pos = value + length
                removed += 1
                continue
            op = ops.get((tag, vr)) or self._rules.op(level, tag, vr, encoding)
            if op.kind is keep and length <= limit - value and not (ours and tag in ours):
                pos = value + length
                continue
            if run < pos:
                out.append(data[run:pos])
            if ours and tag in ours:
                end = skip(data, head, limit, encoding, depth)
            else:
                end = self._change(op, head, pos, limit, encoding, depth, creators, out)
            run = pos = end
        if delimited:
            raise Malformed("truncated")
        if run < pos:
            out.append(data[run:pos])
        self.counts["removed"] += removed
        return pos

    def _change(
        self,
        op: Op,
        head: Header,
        start: int,
        limit: int,
        encoding: Encoding,
        depth: int,
        creators: dict[int, str],
        out: list[memoryview | bytes],
    ) -> int:
        """Write what `op` leaves of one element to `out`; return where the next element begins."""
        tag, vr, value, length = head
        if op.kind is Kind.SEQUENCE:
            content, end = self._sequence(head, limit, op.level, encoding, depth)
            self._write_sequence(tag, vr, content, encoding, out)
            return end
        end = skip(self._data, head, limit, encoding, depth)
        if op.kind is Kind.PRIVATE:
            self._private(head, start, end, limit, encoding, depth, creators, out)
        elif length == UNDEFINED and op.kind is Kind.KEEP:
            if tag != PIXEL_DATA or vr == b"UN":
                raise Malformed("undefined_length")
            out.append(self._data[start:end])
        elif op.kind is Kind.DROP:
            self.counts["removed"] += 1
        else:
            self.counts[op.kind.value] += 1
            old = b"" if length == UNDEFINED else bytes(self._data[value:end])
            out.append(encoding.element(tag, op.vr, self._value(op, old)))
        return end

    def _value(self, op: Op, old: bytes) -> bytes:
        if op.kind is Kind.UID:
            return self._uid_values(old, op.known_only)
        if op.kind is Kind.REPLACE:
            return op.value
        if op.kind is Kind.SHIFT:
            return self._shifted(old, op.value)
        if op.kind is Kind.AGE:
            return _capped_age(old)
        return b""

    def _sequence(self, head: Header, limit: int, level: Level | None, encoding: Encoding, depth: int) -> tuple[bytes, int]:
        """Return the items of a sequence, de-identified and of defined length, and where the sequence ends."""
        _, vr, pos, length = head
        if depth >= MAX_DEPTH:
            raise Malformed("nesting_too_deep")
        inner = IMPLICIT_LE if vr == b"UN" else encoding
        end = limit if length == UNDEFINED else pos + length
        if end > limit or level is None:
            raise Malformed("truncated")
        items: list[bytes] = []
        while length == UNDEFINED or pos < end:
            tag, _, value, size = inner.item_header(self._data, pos, end)
            if tag == SEQUENCE_END and length == UNDEFINED:
                return b"".join(items), value
            if tag != ITEM:
                raise Malformed("sequence_items")
            content: list[memoryview | bytes] = []
            if size == UNDEFINED:
                pos = self._walk(value, end, level, inner, depth + 1, content, delimited=True)
            elif value + size > end:
                raise Malformed("truncated")
            else:
                pos = self._walk(value, value + size, level, inner, depth + 1, content)
            items.append(inner.item(b"".join(content)))
        return b"".join(items), end

    @staticmethod
    def _write_sequence(tag: int, vr: bytes, content: bytes, encoding: Encoding, out: list[memoryview | bytes]) -> None:
        out.append(encoding.prefix(tag, vr or b"SQ", len(content)))
        out.append(content)

    def _private(
        self,
        head: Header,
        start: int,
        end: int,
        limit: int,
        encoding: Encoding,
        depth: int,
        creators: dict[int, str],
        out: list[memoryview | bytes],
    ) -> None:
        """Keep a private element that table E.3.10-1 lists for its creator, and the creators it knows."""
        tag, vr, value, length = head
        group, element = tag >> 16, tag & 0xFFFF
        if 0x10 <= element <= 0xFF and length != UNDEFINED:
            creator = bytes(self._data[value:end]).decode("latin-1").strip(" \0")
            creators[group << 8 | element] = creator
            if (group, creator) in _SAFE_CREATORS and vr in (b"", b"LO", b"UN"):
                out.append(self._data[start:end])
                return
        safe = load_safe_private().get((group, element & 0xFF, creators.get(group << 8 | element >> 8, "")))
        if safe is not None and element >= 0x1000:
            listed = safe.encode("ascii")
            if listed == b"SQ" and vr in (b"SQ", b"UN", b""):
                content, _ = self._sequence(head, limit, self._rules.unlisted, encoding, depth)
                self._write_sequence(tag, vr, content, encoding, out)
                return
            same_class = {vr, listed} <= TEXT_VRS or {vr, listed} <= BINARY_VRS
            if length != UNDEFINED and listed != b"SQ" and (vr in (b"", b"UN") or same_class):
                out.append(self._data[start:end])
                return
        self.counts["removed"] += 1

    def _uid_values(self, old: bytes, known_only: bool) -> bytes:
        return b"\\".join(self._mapped_uid(part.strip(b" \0"), known_only) for part in old.split(b"\\"))

    def _mapped_uid(self, uid: bytes, known_only: bool) -> bytes:
        text = uid.decode("latin-1")
        if not uid or text in UID_dictionary or (not known_only and _STANDARD_UID.fullmatch(text)):
            return uid
        if uid not in self._uids:
            self._uids[uid] = self._pseudonymiser.uid(text).encode("ascii")
        return self._uids[uid]

    def _shifted(self, old: bytes, fallback: bytes) -> bytes:
        """Return each date or date-time moved by the patient's offset; one that is no date becomes the dummy."""
        return b"\\".join(self._shift(part.strip(b" \0"), fallback) for part in old.split(b"\\"))

    def _shift(self, old: bytes, fallback: bytes) -> bytes:
        if not old:
            return old
        match = _DATE.fullmatch(old)
        if match is None:
            return fallback
        try:
            moved = date(int(match[1]), int(match[2]), int(match[3])) + self._offset
        except (ValueError, OverflowError):
            return fallback
        return moved.strftime("%Y%m%d").zfill(8).encode("ascii") + match[4]


def _capped_age(old: bytes) -> bytes:
    """Return an age with everything above 89 years as 090Y; nothing if it is no age."""
    age = old.strip(b" \0")
    if not _AGE.fullmatch(age):
        return b""
    return b"090Y" if age.endswith(b"Y") and int(age[:3]) > _OLDEST_AGE else age
