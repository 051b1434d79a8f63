"""One pass over a data set's bytes: what may stay is copied as it is, the rest is removed, emptied, replaced or mapped."""

import contextlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Final

from pydicom._uid_dict import UID_dictionary

from mdm_deid.encoding.charset import Charset, charset
from mdm_deid.encoding.codec import IMPLICIT_LE, ITEM, ITEM_END, MAX_DEPTH, SEQUENCE_END, UNDEFINED, Encoding, Header, skip
from mdm_deid.outcome import Malformed
from mdm_deid.pixels.payload import PIXELS, encapsulated, native
from mdm_deid.rules.date import capped_age, shifted
from mdm_deid.rules.dummy import BINARY_VRS, RESCALE_TERMS
from mdm_deid.rules.facts import CHARACTER_SET, PATIENT_ID, PATIENT_NAME, Facts
from mdm_deid.rules.operation import FORMS, TEXT_VRS, Kind, Level, Op, Rules
from mdm_deid.rules.profile import Profile
from mdm_deid.rules.pseudonym import Pseudonymiser
from mdm_deid.rules.sweep import Sweeper
from mdm_deid.rules.table import standard_vr
from mdm_deid.text.cleaner import Cleaner
from mdm_deid.text.identity import identity
from mdm_deid.text.vocabulary import terms

_STANDARD_UID = re.compile(r"1\.2\.840\.10008(\.\d{1,4}){1,9}")
# Under which nodes the standard has numbers; it may have more of them than this dictionary.
_NODES: Final = frozenset(uid.rpartition(".")[0] for uid in UID_dictionary)
_UID: Final = re.compile(rb"(?:[0-9]+(?:\.[0-9]+)*)?")
_MAX_LEARNT: Final = 1024
_NAMES_PATIENT: Final = {PATIENT_NAME: b"PN", PATIENT_ID: b"LO"}


def is_uid(value: bytes) -> bool:
    """Tell whether a value has UIDs and nothing else; text in the place of a UID is no UID to be retained."""
    return all(_UID.fullmatch(part) for part in value.rstrip(b" \0").split(b"\\"))


def _of_the_standard(uid: str) -> bool:
    return _STANDARD_UID.fullmatch(uid) is not None and uid.rpartition(".")[0] in _NODES


class Pass:
    """De-identifies one data set; holds what is particular to it."""

    def __init__(
        self,
        data: memoryview,
        rules: Rules,
        pseudonymiser: Pseudonymiser,
        offset_days: int,
        facts: Facts,
        cleaner: Cleaner | None = None,
        sweep: bool = False,
    ) -> None:
        """Prepare a first pass, or with a `cleaner` the second one; `sweep`: all text is searched for what the first has learnt."""
        self._data = data
        self._rules = rules
        self._pseudonymiser = pseudonymiser
        self._offset = timedelta(days=offset_days)
        self._facts = facts
        self._charset = facts.charset
        self._regions = facts.regions if rules.keeps_overlays else frozenset()
        self._cleaner = cleaner
        self._sweeper = Sweeper(cleaner) if sweep and cleaner is not None else None
        self._uids: dict[bytes, bytes] = {}
        self._dates: dict[tuple[bytes, bytes], bytes] = {}
        self._learnt: set[tuple[bytes, bytes, Charset]] = set()
        # Text at the top level that is cleaned once all of the file is known: its place in the output, and the element.
        self._later: list[tuple[int, Op, int, bytes, Encoding]] = []
        self._again = False
        # Whether text that stays is outside ASCII, where a search over bytes is not enough.
        self._foreign = False
        self._bulk: set[int] = set()
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
            if tag in PIXELS:
                self._bulk.add(len(out))
            out.append(element)
        self._walk(pos, limit, self._rules.root, encoding, 0, out, ours=ours)
        return out

    def finish(self, out: list[memoryview | bytes], profile: Profile) -> tuple[Cleaner, bool] | None:
        """Finish the first pass: clean the text of the top level in `out`.

        Returns the last arguments of a second pass if one is needed: where text inside sequences is to be cleaned, or where what
        stays may hold what was taken from elsewhere.
        """
        dates_stay = profile.dates == "keep"
        readings = frozenset((vr, text) for vr, value, charset in self._learnt for text in charset.readings(value))
        known = identity(readings, dates_stay)
        certain = all(value.isascii() or charset.decode(value) is not None for _, value, charset in self._learnt)
        ages_stay = "retain_patient_characteristics" in profile.options
        cleaner = Cleaner(known, dates_stay, ages_stay, certain, profile.words)
        sweep = self._foreign or known.occurs_in(b"".join(part for index, part in enumerate(out) if index not in self._bulk))
        if self._again or sweep:
            return cleaner, sweep
        self._cleaner = cleaner
        for index, op, tag, old, encoding in self._later:
            out[index] = self._cleaned(op, tag, old, encoding)
        return None

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
        # The second pass looks into what stays.
        keep, creators = Kind.KEEP if self._sweeper is None else None, dict[int, str]()
        drop_private, removed = not self._rules.keeps_private, 0
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
            # Private, and of a creator of whom nothing is kept; a creator's own element is looked at.
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
                    self._learn(_NAMES_PATIENT[tag], value, end)
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
        """Write what `op` leaves of one element to `out`; return where the next element begins."""
        tag, vr, value, length = head
        if op.kind is Kind.SEQUENCE:
            content, end = self._sequence(head, limit, op.level, encoding, depth)
            self._write_sequence(tag, vr, content, encoding, out)
            return end
        end = skip(self._data, head, limit, encoding, depth)
        if op.identifies and self._cleaner is None:
            self._learn_from(op, head, end, limit, encoding, depth)
        if op.kind is Kind.PRIVATE:
            self._private(head, start, end, limit, encoding, depth, creators, out)
        elif op.kind is Kind.DROP or (op.kind is Kind.OVERLAY and (depth or tag >> 16 not in self._regions)):
            self.counts["removed"] += 1
        elif op.form is not None and not op.text and length != UNDEFINED and not op.form(self._data, value, end):
            self._remove(head, start, limit, level, encoding, depth, out)
        elif op.kind in (Kind.KEEP, Kind.PIXELS) or (op.kind is Kind.OVERLAY and op.fallback is None):
            self._foreign |= op.text
            self._keep(head, start, end, level, encoding, depth, out)
        else:
            self.counts["cleaned" if op.kind is Kind.OVERLAY else op.kind.value] += 1
            old = b"" if length == UNDEFINED else bytes(self._data[value:end])
            if op.kind in (Kind.CLEAN, Kind.OVERLAY):
                self._clean(op.fallback if op.kind is Kind.OVERLAY and op.fallback else op, tag, old, encoding, depth, out)
            else:
                out.append(encoding.element(tag, op.vr, self._value(op, old)))
        return end

    def _value(self, op: Op, old: bytes) -> bytes:
        if op.kind is Kind.UID:
            return self._uid_values(old, op.known_only)
        if op.kind is Kind.VALID_UID:
            return old if is_uid(old) else self._uid_values(old, known_only=True)
        if op.kind is Kind.REPLACE or (op.kind is Kind.TERM and old.strip(b" \0") not in RESCALE_TERMS):
            return op.value
        if op.kind is Kind.TERM:
            return old
        if op.kind is Kind.TERMS:
            left = terms(old)
            return self._sweeper.left_of(0, op.vr, left, self._charset, needed=True) if self._sweeper is not None else left
        if op.kind is Kind.SHIFT:
            if (old, op.value) not in self._dates:
                self._dates[old, op.value] = shifted(old, self._offset, op.value)
            return self._dates[old, op.value]
        if op.kind is Kind.AGE:
            return capped_age(old)
        return b""

    def _keep(
        self, head: Header, start: int, end: int, level: Level, encoding: Encoding, depth: int, out: list[memoryview | bytes]
    ) -> None:
        """Pass an element through; in the second pass, without what its text repeats."""
        tag, vr, value, length = head
        if length == UNDEFINED and (tag not in PIXELS or vr == b"UN"):
            raise Malformed("undefined_length")
        if tag in PIXELS and depth == 0:
            pixels = self._pixels(head, end, encoding)
            self._bulk.add(len(out))
            out.append(self._data[start:value])
            for part in pixels:
                self._bulk.add(len(out))
                out.append(part)
            return
        if tag == CHARACTER_SET:
            self._charset = charset(bytes(self._data[value:end]).decode("latin-1"))
        elif self._sweeper is not None:
            old = bytes(self._data[value:end])
            new = self._sweeper.left_of(tag, vr, old, self._charset, level.node.types.get(tag, "3").startswith("1"))
            if not new and old:
                self._remove(head, start, end, level, encoding, depth, out)
                return
            if new != old:
                self.counts["cleaned"] += 1
                out.append(encoding.element(tag, vr, new))
                return
        out.append(self._data[start:end])

    def _pixels(self, head: Header, end: int, encoding: Encoding) -> Iterator[memoryview | bytes]:
        """Return what of the pixel data is passed on: all, but for what is no pixel."""
        _, _, value, length = head
        if length == UNDEFINED:
            return encapsulated(self._data, value, end, encoding)
        return native(self._data[value:end], self._facts.geometry, self._facts.frames, self._facts.subsampled)

    def _remove(
        self, head: Header, start: int, limit: int, level: Level, encoding: Encoding, depth: int, out: list[memoryview | bytes]
    ) -> None:
        """Take away an element for which there is no action."""
        removal = self._rules.removal(level, head[0], head[1], encoding)
        self._change(removal, head, start, limit, level, encoding, depth, {}, out)

    def _clean(self, op: Op, tag: int, old: bytes, encoding: Encoding, depth: int, out: list[memoryview | bytes]) -> None:
        """Clean text now if all of the file is known, else later: at the top level in place, deeper by a second pass."""
        if self._cleaner is None and depth == 0:
            self._later.append((len(out), op, tag, old, encoding))
            out.append(b"")
            return
        self._again |= self._cleaner is None
        out.append(self._cleaned(op, tag, old, encoding))

    def _cleaned(self, op: Op, tag: int, old: bytes, encoding: Encoding) -> bytes:
        """Return the element with clean text, or what is left if nothing of it can stay."""
        text = self._charset.decode(old.rstrip(b" \0")) if self._cleaner is not None else None
        clean = self._cleaner.clean(text) if self._cleaner is not None and text else ""
        new = old if clean == text and clean else self._charset.encode(clean) if clean else b""
        if new:
            return encoding.element(tag, op.vr, new)
        fallback = op.fallback
        if fallback is None or fallback.kind is Kind.DROP:
            return b""
        return encoding.element(tag, fallback.vr, fallback.value)

    def _learn_from(self, op: Op, head: Header, end: int, limit: int, encoding: Encoding, depth: int) -> None:
        """Note what is about to be taken away; of a sequence, all that names someone inside it."""
        tag, vr, value, _ = head
        standard = standard_vr(tag)
        if standard != b"SQ":
            self._learn(b"PN" if b"PN" in (vr, standard) else standard, value, end)
            return
        counts, again, self.counts = self.counts, self._again, Counter()
        with contextlib.suppress(Malformed):
            self._sequence(head, limit, self._rules.unlisted, encoding, depth)
        self.counts, self._again = counts, again

    def _learn(self, vr: bytes, value: int, end: int) -> None:
        if value < end <= value + _MAX_LEARNT:
            learnt = bytes(self._data[value:end]).strip(b" \0")
            self._learnt.add((vr, learnt[:10] if vr in (b"DA", b"DT") else learnt, self._charset))

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
            outside = self._charset
            if size == UNDEFINED:
                pos = self._walk(value, end, level, inner, depth + 1, content, delimited=True)
            elif value + size > end:
                raise Malformed("truncated")
            else:
                pos = self._walk(value, value + size, level, inner, depth + 1, content)
            self._charset = outside
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
        """Keep a private element that a rule of the profile or table E.3.10-1 keeps, and the creators of such."""
        tag, vr, value, length = head
        group, element = tag >> 16, tag & 0xFFFF
        if 0x10 <= element <= 0xFF and length != UNDEFINED:
            creator = bytes(self._data[value:end]).decode("latin-1").strip(" \0")
            if self._rules.keeps_creator(group, creator) and vr in (b"", b"LO", b"UN"):
                creators[group << 8 | element] = creator
                out.append(self._data[start:end])
                return
        listed = self._rules.private_vr(tag, creators.get(group << 8 | element >> 8, "")) if element >= 0x1000 else None
        if listed is not None:
            if b"SQ" in (listed, vr) and vr in (b"SQ", b"UN", b"") and listed in (b"SQ", b"UN"):
                content, _ = self._sequence(head, limit, self._rules.unlisted, encoding, depth)
                self._write_sequence(tag, vr, content, encoding, out)
                return
            same_class = listed == b"UN" or {vr, listed} <= TEXT_VRS or {vr, listed} <= BINARY_VRS
            form = FORMS.get(listed)
            plain = length != UNDEFINED and listed != b"SQ" and (vr in (b"", b"UN") or same_class)
            plain = plain and (form is None or form(self._data, value, end) is not None)
            content = bytes(self._data[value:end]) if plain and self._sweeper is not None else b""
            self._foreign |= plain and listed in TEXT_VRS and not bytes(self._data[value:end]).isascii()
            if plain and not (self._sweeper is not None and self._sweeper.repeats(listed, content, self._charset)):
                out.append(self._data[start:end])
                return
        self.counts["removed"] += 1

    def _uid_values(self, old: bytes, known_only: bool) -> bytes:
        return b"\\".join(self._mapped_uid(part.strip(b" \0"), known_only) for part in old.split(b"\\"))

    def _mapped_uid(self, uid: bytes, known_only: bool) -> bytes:
        text = uid.decode("latin-1")
        if not uid or text in UID_dictionary or (not known_only and _of_the_standard(text)):
            return uid
        if uid not in self._uids:
            self._uids[uid] = self._pseudonymiser.uid(text).encode("ascii")
        return self._uids[uid]
