"""The values of a header as pydicom reads them; elements that do not differ from one image to the next are read once."""

import io
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import Any

import pydicom
from cachetools import LRUCache
from mdm_deid.encoding.codec import skip
from mdm_deid.encoding.part10 import Part10, open_part10
from mdm_deid.outcome import Malformed
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword

_CHARACTER_SET = 0x00080005
_TRANSFER_SYNTAX = "TransferSyntaxUID"
_REMEMBERED = 4096
_MAX_REMEMBERED_BYTES = 1024
#: What an element's value depends on: transfer syntax, character set, its bytes with tag and length.
_Key = tuple[str, bytes, bytes]


@dataclass(frozen=True, slots=True)
class HeaderValues:
    """Values of the top level by keyword, as pydicom has them, and the keywords of the elements that are not empty."""

    values: Mapping[str, Any]
    given: frozenset[str]


class HeaderReader:
    """Reads the elements with certain keywords. Safe from several threads; remembers some thousand small elements, in memory only."""

    def __init__(self, keywords: frozenset[str]) -> None:
        self._keywords = {int(tag): keyword for keyword in keywords if (tag := tag_for_keyword(keyword)) is not None}
        self._wanted = {_CHARACTER_SET, *self._keywords}
        self._last = max(self._wanted)
        self._remembered: LRUCache[_Key, Any] = LRUCache(_REMEMBERED)
        self._lock = Lock()

    def read(self, part10: bytes) -> HeaderValues:
        """Return the values of a Part 10 file's header. A value that cannot be decoded is missing.

        Raises:
            Exception: whatever pydicom raises for what is not DICOM.
        """
        with suppress(Malformed):
            opened = open_part10(part10, any_syntax=True)
            if not opened.deflated:
                return self._read_elements(opened, dict(self._elements(part10, opened)))
        return self._read_whole(pydicom.dcmread(io.BytesIO(part10), force=True))

    def _read_elements(self, opened: Part10, elements: Mapping[int, tuple[bytes, bool]]) -> HeaderValues:
        character_set = elements.get(_CHARACTER_SET, (b"", False))[0]
        keys = {tag: (opened.transfer_syntax, character_set, element) for tag, (element, _) in elements.items() if tag in self._keywords}
        with self._lock:
            known = {tag: self._remembered[key] for tag, key in keys.items() if key in self._remembered}
        new = {tag: key for tag, key in keys.items() if tag not in known}
        if new:
            # pydicom does not see the other elements: it takes long for each.
            content = b"".join([opened.envelope, *([] if _CHARACTER_SET in new else [character_set]), *(key[2] for key in new.values())])
            dataset = pydicom.dcmread(io.BytesIO(content), force=True)
            read = {tag: _value(dataset, self._keywords[tag]) for tag in new}
            known |= read
            with self._lock:
                self._remembered.update((key, read[tag]) for tag, key in new.items() if len(key[2]) <= _MAX_REMEMBERED_BYTES)
        values = {self._keywords[tag]: value for tag, value in known.items()}
        if _TRANSFER_SYNTAX in self._keywords.values() and opened.envelope:
            values[_TRANSFER_SYNTAX] = opened.transfer_syntax
        return HeaderValues(values, frozenset(self._keywords[tag] for tag in keys if elements[tag][1]))

    def _elements(self, part10: bytes, opened: Part10) -> Iterator[tuple[int, tuple[bytes, bool]]]:
        """Yield wanted elements of the top level: tag, bytes, and whether the value says anything."""
        encoding, pos, limit = opened.encoding, opened.start, len(part10)
        while pos < limit:
            head = encoding.header(part10, pos, limit)
            tag, _, value, length = head
            if tag > self._last:
                return
            end = value + length if length <= limit - value else skip(opened.data, head, limit, encoding)
            if tag in self._wanted:
                yield tag, (part10[pos:end], bool(part10[value:end].strip(b" \0")))
            pos = end

    def _read_whole(self, dataset: Dataset) -> HeaderValues:
        values = {keyword: _value(dataset, keyword) for keyword in self._keywords.values() if keyword in dataset}
        if _TRANSFER_SYNTAX in self._keywords.values():
            values[_TRANSFER_SYNTAX] = dataset.file_meta.get(_TRANSFER_SYNTAX)
        return HeaderValues(values, frozenset(keyword for keyword, value in values.items() if value not in (None, "")))


def _value(dataset: Dataset, keyword: str) -> Any:
    """Return a value, None for one that pydicom cannot decode: a header holds whatever a modality wrote."""
    try:
        return dataset.get(keyword)
    except Exception:
        return None
