"""The values of a header as pydicom reads them; elements that do not differ from one image to the next are read once."""

import io
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pydicom
from mdm_deid.encoding.element import skip
from mdm_deid.encoding.part10 import Part10, open_part10
from mdm_deid.outcome import Malformed
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.filereader import read_dataset

_CHARACTER_SET = 0x00080005
_TRANSFER_SYNTAX = "TransferSyntaxUID"
_REMEMBERED = 4096
_MAX_REMEMBERED_BYTES = 1024
_UNKNOWN = object()
#: What an element's value depends on: transfer syntax, character set, its bytes with tag and length.
_Key = tuple[str, bytes, bytes]


@dataclass(frozen=True, slots=True)
class HeaderValues:
    """Values of the top level by keyword, as pydicom has them, and the keywords of the elements that are not empty."""

    values: Mapping[str, Any]
    given: frozenset[str]


class HeaderReader:
    """Reads the elements with certain keywords. Safe from several threads; remembers some thousand small elements, in memory only."""

    def __init__(self, keywords: Set[str], given: Set[str] = frozenset()) -> None:
        """Read the values of `keywords`, and of these and `given` whether they are empty."""
        self._keywords = _tags(keywords)
        self._given = self._keywords | _tags(given)
        self._wanted = {_CHARACTER_SET, *self._given}
        self._last = max(self._wanted)
        self._remembered: dict[_Key, Any] = {}

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
        values, new = {}, []
        for tag, (element, _) in elements.items():
            if (keyword := self._keywords.get(tag)) is not None:
                key = (opened.transfer_syntax, character_set, element)
                if (value := self._remembered.get(key, _UNKNOWN)) is _UNKNOWN:
                    new.append((keyword, key))
                values[keyword] = value
        if new:
            values |= self._read_new(opened, character_set, new)
        if _TRANSFER_SYNTAX in self._keywords.values() and opened.envelope:
            values[_TRANSFER_SYNTAX] = opened.transfer_syntax
        return HeaderValues(values, frozenset(self._given[tag] for tag, (_, filled) in elements.items() if filled and tag in self._given))

    def _read_new(self, opened: Part10, character_set: bytes, new: Sequence[tuple[str, _Key]]) -> dict[str, Any]:
        """Read elements that are not remembered. pydicom does not see the others: it takes long for each."""
        elements = [element for _, (*_, element) in new]
        content = b"".join(elements if character_set in elements else [character_set, *elements])
        encoding = opened.encoding
        dataset = read_dataset(io.BytesIO(content), not encoding.explicit, encoding.little)
        read = {keyword: _value(dataset, keyword) for keyword, _ in new}
        if len(self._remembered) > _REMEMBERED:
            self._remembered.clear()
        self._remembered.update((key, read[keyword]) for keyword, key in new if len(key[2]) <= _MAX_REMEMBERED_BYTES)
        return read

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
        values = {keyword: _value(dataset, keyword) for keyword in self._given.values() if keyword in dataset}
        if _TRANSFER_SYNTAX in self._keywords.values():
            values[_TRANSFER_SYNTAX] = dataset.file_meta.get(_TRANSFER_SYNTAX)
        return HeaderValues(values, frozenset(keyword for keyword, value in values.items() if value not in (None, "")))


def _tags(keywords: Set[str]) -> dict[int, str]:
    return {int(tag): keyword for keyword in keywords if (tag := tag_for_keyword(keyword)) is not None}


def _value(dataset: Dataset, keyword: str) -> Any:
    """Return a value, None for one that pydicom cannot decode: a header holds whatever a modality wrote."""
    try:
        return dataset.get(keyword)
    except Exception:
        return None
