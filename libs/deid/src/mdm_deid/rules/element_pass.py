"""One pass over a data set's bytes: elements that may stay are copied unchanged, others are removed, emptied, replaced or mapped."""

import contextlib
from collections import Counter
from collections.abc import Mapping
from typing import Final

from mdm_deid.encoding.charset import charset
from mdm_deid.encoding.element import (
    IMPLICIT_LE,
    ITEM,
    ITEM_END,
    MAX_DEPTH,
    PIXELS,
    SEQUENCE_END,
    UNDEFINED,
    Encoding,
    Header,
    skip,
    standard_vr,
)
from mdm_deid.outcome import Malformed
from mdm_deid.rules.cleaning import KnownValueSearch, LateElements, Learnt, Make
from mdm_deid.rules.facts import PATIENT_ID, PATIENT_NAME, Facts
from mdm_deid.rules.operation import Kind, Level, Op, Rules
from mdm_deid.rules.payload import Payload, patched
from mdm_deid.rules.private import PrivateAttribute, is_sequence
from mdm_deid.rules.replacement import Replacements
from mdm_deid.rules.value import PLAIN, TEXT_VRS
from mdm_deid.text.cleaner import Cleaner
from mdm_deid.text.term import CODED_ENTRY, Item
from mdm_deid.text.vocabulary import terms

# Values that are read; one that cannot be read is removed.
_READ: Final = (Kind.SHIFT, Kind.NORMALISE, Kind.AGE)
_NAMES_PATIENT: Final = {PATIENT_NAME: b"PN", PATIENT_ID: b"LO"}


# An element that is written whatever the input has, or what makes it when all identifying values are known.
Written = bytes | memoryview | Make
#: Greater than every tag.
NO_TAG: Final = 1 << 32


class ElementPass:
    """One pass over the elements of a data set, and its state."""

    def __init__(
        self,
        data: memoryview,
        rules: Rules,
        replacements: Replacements,
        facts: Facts,
        payload: Payload,
        cleaner: Cleaner | None = None,
        search: bool = False,
    ) -> None:
        """Prepare a first pass, or with a `cleaner` the second one; `search`: all text is searched for what the first has learnt."""
        self._data = data
        self._rules = rules
        self._replacements = replacements
        self._payload = payload
        self._charset = facts.charset
        self._regions = facts.regions if rules.keeps_overlays else frozenset()
        self._cleaner = cleaner
        self._search = KnownValueSearch(cleaner) if search and cleaner is not None else None
        self._learnt = Learnt()
        self._late = LateElements(self._replacements, cleaner)
        # Whether text that stays is outside ASCII, where a search over bytes is not enough.
        self._foreign = False
        self._bulk: set[int] = set()
        # The item that is walked; at the top level none.
        self._item: Item | None = None
        self.counts: Counter[str] = Counter()

    def _walk(
        self,
        pos: int,
        limit: int,
        level: Level,
        encoding: Encoding,
        depth: int,
        out: list[memoryview | bytes],
        *,
        until: int | None = None,
        stop: int = NO_TAG,
        ours: Mapping[int, Written] | None = None,
        creators: dict[int, str] | None = None,
        delimited: bool = False,
    ) -> int:
        """Process elements until `limit` (or earlier `until`), a tag >= `stop`, or the item delimiter; return where to go on.

        `creators` are the private creators met before; those met here are added.
        """
        data, header, ops = self._data, encoding.header, level.ops[encoding.index]
        # The second pass looks into what stays.
        keep, creators = Kind.KEEP if self._search is None else None, {} if creators is None else creators
        until = limit if until is None else until
        drop_private, removed = not self._rules.private.any, 0
        run = pos  # where the bytes begin that go out as they came
        while pos < until:
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
            # Private, and of a creator of whom nothing is kept; the element that names a creator is read.
            if tag & 0x10000 and length <= limit - value and (drop_private or (tag & 0xF000 and tag >> 8 not in creators)):
                if run < pos:
                    out.append(data[run:pos])
                run = pos = value + length
                removed += 1
                continue
            op = ops.get((tag, vr)) or self._rules.op(level, tag, vr, encoding)
            plain = op.kind is keep and length <= limit - value and not (ours and tag in ours)
            if plain and (op.form is None or op.form(data, value, value + length)):
                pos = value + length
                continue
            if run < pos:
                out.append(data[run:pos])
            if ours and tag in ours:
                end = skip(data, head, limit, encoding, depth)
                if tag in _NAMES_PATIENT:
                    self._learnt.add(_NAMES_PATIENT[tag], self._data[value:end], self._charset)
            else:
                end = self._change(op, head, pos, limit, level, encoding, depth, creators, out)
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
        level: Level,
        encoding: Encoding,
        depth: int,
        creators: dict[int, str],
        out: list[memoryview | bytes],
    ) -> int:
        """Apply `op` to one element and write the result to `out`; return where the next element begins."""
        tag, vr, value, length = head
        if op.kind is Kind.SEQUENCE:
            content, end = self._sequence(head, limit, op.level, encoding, depth)
            self._write_sequence(tag, vr, content, encoding, out)
            return end
        end = skip(self._data, head, limit, encoding, depth)
        if op.kind is Kind.CHARSET:
            self._character_set(head, start, end, encoding, depth, out)
            return end
        if (op.coded or (op.kind is Kind.KEEP and tag in CODED_ENTRY)) and self._keep_code(op, head, start, end, out):
            return end
        if op.identifies and self._cleaner is None:
            self._learn_from(op, head, end, limit, encoding, depth)
        if op.kind is Kind.PRIVATE:
            self._private(head, start, end, limit, encoding, depth, creators, out)
        elif op.kind is Kind.DROP or (op.kind is Kind.OVERLAY and (depth or tag >> 16 not in self._regions)):
            self.counts["removed"] += 1
        elif op.form is not None and not op.text and length != UNDEFINED and not op.form(self._data, value, end):
            if op.fallback is not None:
                return self._change(op.fallback, head, start, limit, level, encoding, depth, creators, out)
            self._remove(head, start, limit, level, encoding, depth, out)
        elif op.kind in (Kind.KEEP, Kind.PIXELS) or (op.kind is Kind.OVERLAY and op.fallback is None):
            self._foreign |= op.text
            self._keep(head, start, end, level, encoding, depth, out)
        else:
            self.counts["cleaned" if op.kind is Kind.OVERLAY else op.kind.value] += 1
            old = b"" if length == UNDEFINED else bytes(self._data[value:end])
            if op.kind in (Kind.CLEAN, Kind.OVERLAY):
                text = op.fallback if op.kind is Kind.OVERLAY and op.fallback else op
                self._late.add_text(text, tag, old, self._charset, encoding, depth, out)
            elif op.kind in _READ and old.strip(b" \0") and not self._value(op, tag, old):
                self._remove(head, start, limit, level, encoding, depth, out)
            else:
                out.append(encoding.element(tag, op.vr, self._value(op, tag, old)))
        return end

    def _value(self, op: Op, tag: int, old: bytes) -> bytes:
        if op.kind is Kind.TERMS:
            left = terms(tag, old)
            return self._search.left_of(tag, op.vr, left, self._charset, needed=True) if self._search is not None else left
        return self._replacements.value(op, tag, old, self._charset)

    def _keep(
        self, head: Header, start: int, end: int, level: Level, encoding: Encoding, depth: int, out: list[memoryview | bytes]
    ) -> None:
        """Keep an element; in the second pass, without identifying values that its text repeats."""
        tag, vr, value, length = head
        if length == UNDEFINED and (tag not in PIXELS or vr == b"UN"):
            raise Malformed("undefined_length")
        if tag in PIXELS and depth == 0:
            for part in patched(self._data, start, end, [patch for patch in self._payload.patches if start <= patch.start < end]):
                self._bulk.add(len(out))
                out.append(part)
            return
        if self._search is not None:
            old = bytes(self._data[value:end])
            new = self._search.left_of(tag, vr, old, self._charset, level.node.types.get(tag, "3").startswith("1"))
            if not new and old:
                self._remove(head, start, end, level, encoding, depth, out)
                return
            if new != old:
                self.counts["cleaned"] += 1
                out.append(encoding.element(tag, vr, new))
                return
        out.append(self._data[start:end])

    def _character_set(self, head: Header, start: int, end: int, encoding: Encoding, depth: int, out: list[memoryview | bytes]) -> None:
        """Read text from here on by this character set, and write it as the standard spells it.

        Without it only ASCII can be read, so it goes where it is the default repertoire or not known.

        Raises:
            Malformed: text stands before it in its item, or it comes twice there.
        """
        tag, vr, value, length = head
        if length == UNDEFINED:
            raise Malformed("undefined_length")
        if self._item is not None:
            self._item.check_nothing_before(tag, start, depth)
        old = bytes(self._data[value:end])
        self._charset = charset(old.decode("latin-1"))
        term = (self._charset.term or "").encode("ascii")
        if not term:
            self.counts["removed"] += 1
        elif vr in (b"CS", b"") and old.rstrip(b" ") == term:
            out.append(self._data[start:end])
        else:
            self.counts["replaced"] += 1
            out.append(encoding.element(tag, b"CS", term))

    def _keep_code(self, op: Op, head: Header, start: int, end: int, out: list[memoryview | bytes]) -> bool:
        """Keep an element of a coded entry of the standard; return whether that was done."""
        tag, vr, search = head[0], head[1], self._search

        def stays(old: bytes) -> bool:
            return op.kind is Kind.KEEP and (search is None or search.left_of(tag, vr, old, self._charset, needed=True) == old)

        written = self._item.code(head, start, end, self._charset, stays) if self._item is not None else None
        if written is None:
            return False
        if isinstance(written, bytes):
            self.counts["cleaned"] += 1
        out.append(written)
        return True

    def _remove(
        self, head: Header, start: int, limit: int, level: Level, encoding: Encoding, depth: int, out: list[memoryview | bytes]
    ) -> None:
        """Remove an element for which there is no action."""
        removal = self._rules.removal(level, head[0], head[1], encoding)
        self._change(removal, head, start, limit, level, encoding, depth, {}, out)

    def _learn_from(self, op: Op, head: Header, end: int, limit: int, encoding: Encoding, depth: int) -> None:
        """Record the value that is about to be removed; of a sequence, all identifying values inside it."""
        tag, vr, value, _ = head
        standard = standard_vr(tag)
        if standard != b"SQ":
            self._learnt.add(b"PN" if b"PN" in (vr, standard) else standard, self._data[value:end], self._charset)
            return
        before = self.counts, self._late.again, self._charset, self._item
        self.counts = Counter()
        with contextlib.suppress(Malformed):
            self._sequence(head, limit, self._rules.unlisted, encoding, depth)
        self.counts, self._late.again, self._charset, self._item = before

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
            outside = self._charset, self._item
            self._item = Item(self._data, value, end if size == UNDEFINED else value + size, inner)
            if size == UNDEFINED:
                pos = self._walk(value, end, level, inner, depth + 1, content, delimited=True)
            elif value + size > end:
                raise Malformed("truncated")
            else:
                pos = value + size
                content.append(self._item_content(head[0], value, pos, level, inner, depth + 1))
            self._charset, self._item = outside
            items.append(inner.item(b"".join(content)))
        return b"".join(items), end

    def _item_content(self, sequence: int, start: int, end: int, level: Level, encoding: Encoding, depth: int) -> bytes:
        """Return the elements of an item of the attribute `sequence`, de-identified."""
        out: list[memoryview | bytes] = []
        self._walk(start, end, level, encoding, depth, out)
        return b"".join(out)

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
        """Keep a private element that a rule or a list of the profile keeps, its creator, and such elements inside private sequences."""
        tag, vr, value, length = head
        group, element = tag >> 16, tag & 0xFFFF
        if 0x10 <= element <= 0xFF and length != UNDEFINED:
            creator = bytes(self._data[value:end]).decode("latin-1").strip(" \0")
            if self._rules.private.keeps_creator(group, creator) and vr in (b"", b"LO", b"UN"):
                creators[group << 8 | element] = creator
                out.append(self._data[start:end])
                return
        creator = creators.get(group << 8 | element >> 8, "") if element >= 0x1000 else ""
        listed = self._rules.private.find(tag, creator) if creator else None
        if creator and is_sequence(listed, self._data, head, end):
            level = self._rules.unlisted if listed and not listed.listed_only else self._rules.only_private
            left = None if self._rules.private.removes(tag, creator) else self._private_items(head, limit, level, encoding, depth)
            if left is not None:
                self._write_sequence(tag, vr, left, encoding, out)
                return
        elif listed is not None and (new := self._private_value(listed, head, end, encoding)) is not None:
            old = self._data[value:end]
            out.append(self._data[start:end] if new == old else encoding.element(tag, vr or listed.vr, new))
            return
        self.counts["removed"] += 1

    def _private_items(self, head: Header, limit: int, level: Level, encoding: Encoding, depth: int) -> bytes | None:
        """Return the kept part of a private sequence; None if it is not a sequence, or nothing is kept."""
        before = self.counts, self._late.again, self._charset, self._item
        self.counts = Counter()
        try:
            content, _ = self._sequence(head, limit, level, encoding, depth)
        except Malformed:
            self.counts, self._late.again, self._charset, self._item = before
            return None
        self.counts = before[0] + self.counts
        inner = IMPLICIT_LE if head[1] == b"UN" else encoding
        return content if level is self._rules.unlisted or content.replace(inner.item(b""), b"") else None

    def _private_value(self, listed: PrivateAttribute, head: Header, end: int, encoding: Encoding) -> bytes | None:
        """Return the kept part of a listed private value; None if nothing is kept."""
        left = listed.left_of(self._data, head, end, encoding)
        if left is None or (self._search is not None and self._search.repeats(listed.vr, left, self._charset)):
            return None
        self._foreign |= listed.vr in TEXT_VRS and not PLAIN(left, 0, len(left))
        return left
