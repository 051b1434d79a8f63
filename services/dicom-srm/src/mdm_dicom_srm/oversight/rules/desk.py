"""What the curators' desk does beside decisions: kinds of images, their pictures, text in them, and pixel rules that are drawn."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from mdm_deid.pixels.drawn import MAX_REGIONS, DrawnRule, ImageKind
from mdm_deid.pixels.image import Box
from mdm_deid.rules.rule import InstanceRule
from mdm_wire.errors import FailedPrecondition, Invalid, MdmError, NotFound

from mdm_dicom_srm.oversight.rules import content, kind
from mdm_dicom_srm.oversight.rules.curation import Quarantine, check_note, checked_size, not_waiting
from mdm_dicom_srm.oversight.rules.head import Head
from mdm_dicom_srm.oversight.rules.kind import KindNames
from mdm_dicom_srm.oversight.rules.model import FoundLine, GroupKey, Held, KindGroup, OneImage, SiteRule, Waiting
from mdm_dicom_srm.oversight.rules.picture import Drawn, Instances, Wanted

_log = logging.getLogger(__name__)
_SIDES = (16, 2048)
_USUAL_SIDE = 1024
_MAX_FRAME = 1 << 20
_PREVIEW = "preview"


class Kinds(Protocol):
    """What waits, by kind; `KindStore` has each method's contract."""

    def groups(self, reason: str, after: GroupKey | None, limit: int) -> list[KindGroup]: ...
    def waiting(self, kind: bytes, reason: str, after: UUID | None, limit: int) -> list[Waiting]: ...
    def ever(self, kind: bytes) -> list[UUID]: ...


class PixelRules(Protocol):
    """The rules that curators drew; `PixelRuleStore` has each method's contract."""

    def add(
        self,
        kind_name: bytes,
        kind: ImageKind,
        regions: Sequence[Box],
        reasons: frozenset[str],
        subject: str,
        note: str,
        only: OneImage | None,
    ) -> SiteRule: ...
    def page(self, before: int | None, limit: int) -> list[SiteRule]: ...
    def end(self, number: int, subject: str) -> SiteRule | None: ...


@dataclass(frozen=True, slots=True)
class Records:
    """What the desk reads and keeps."""

    quarantine: Quarantine
    kinds: Kinds
    names: KindNames
    pixel_rules: PixelRules


@dataclass(frozen=True, slots=True)
class Effects:
    """What follows from a new rule: `refresh` has it hold at once, `forget` removes staged copies of images."""

    refresh: Callable[[], object]
    forget: Callable[[Sequence[UUID]], object]


#: Returns the lines of text in a frame of a Part 10 file; raises MdmError.
FindLines = Callable[[bytes, int], Sequence[FoundLine]]


@dataclass(frozen=True, slots=True)
class DeskService:
    """Answers the desk. `rules` are those of the site's profile."""

    records: Records
    instances: Instances
    rules: Sequence[InstanceRule]
    find_lines: FindLines
    effects: Effects

    def groups(self, reason: str, after: GroupKey | None, size: int) -> list[KindGroup]:
        """Return what waits by kind and reason, in this order; size 0 means the largest page.

        Raises:
            Invalid: the size is out of range.
        """
        return self.records.kinds.groups(reason, after, checked_size(size))

    def waiting(self, kind_name: bytes, reason: str, after: UUID | None, size: int) -> list[Waiting]:
        """Return instances of a kind that wait, for one reason if given, in order of GUID; size 0 means the largest page.

        Raises:
            Invalid: the size is out of range.
        """
        return self.records.kinds.waiting(kind_name, reason, after, checked_size(size))

    def picture(self, guid: UUID, frame: int, side: int, released: bool, regions: Sequence[Box]) -> Drawn:
        """Return a frame of an instance that waits as a picture, as the PACS has it or as it would leave; 0 means what is usual.

        Raises:
            MdmError: see `Instances.draw`; Invalid for a region that is not within the image, NotFound if the instance does not wait.
        """
        if side and not _SIDES[0] <= side <= _SIDES[1]:
            raise Invalid("SIDE_OUT_OF_RANGE", f"A picture's side has {_SIDES[0]} to {_SIDES[1]} pixels.", fields={"side": "out of range"})
        held = self._held(guid)
        drawn: tuple[DrawnRule, ...] = ()
        if regions:
            seen = kind.read(held.header, self.rules)
            boxes = _within(regions, seen.kind)
            drawn = (DrawnRule.of_instance(_PREVIEW, held.locator.sop_uid, boxes, frozenset()),)
        return self.instances.draw(held.locator, Wanted(_frame(frame), side or _USUAL_SIDE, released or bool(regions), drawn))

    def head(self, guid: UUID) -> Head:
        """Draw the head that the series of an instance shows, with its face and without.

        Raises:
            NotFound: the instance does not wait.
            Unavailable, FailedPrecondition: see `Instances.head`.
        """
        return self.instances.head(self._held(guid).locator)

    def text(self, guid: UUID, frame: int) -> list[FoundLine]:
        """Return the lines of text that are found in a frame of an instance that waits, those that its header knows marked.

        Raises:
            MdmError: NotFound if it does not wait; it cannot be looked at, or no detector is installed.
        """
        held = self._held(guid)
        found = self.find_lines(self.instances.retrieve(held.locator), _frame(frame))
        if held.header is None:
            return list(found)
        dataset = content.read(held.header)
        return [line.marked(content.identifies(line.text, dataset)) for line in found]

    def create_rule(self, guid: UUID, regions: Sequence[Box], subject: str, note: str, *, only: bool = False) -> SiteRule:
        """Have regions, drawn on an instance that waits, blanked on every image of its kind that is suspected as it is, or on it `only`.

        Staged copies of images that are known to be of this kind are removed; with `only`, those of this image.

        Raises:
            Invalid: there are none, too many, or one is not within the image; the note is malformed, or identifies.
            NotFound: the instance does not wait.
            FailedPrecondition: nothing is kept of its header, nothing in it makes its pixels suspect, its maker is not known and
                the rule is for its kind, or its pixels cannot be blanked.
            Unavailable: the PACS does not deliver it, or the rule holds but not every staged copy is removed yet: ask again.
        """
        held = self._held(guid)
        check_note(note, held)
        if held.header is None:
            raise FailedPrecondition("HEADER_NOT_KEPT", "Nothing is kept of what it is; retry it first, then look at it.")
        seen = kind.read(held.header, self.rules)
        boxes = _within(regions, seen.kind)
        if not seen.suspicions:
            raise FailedPrecondition(
                "NOTHING_SUSPECTED", "Nothing in the header of this image makes its pixels suspect: no rule is needed."
            )
        if not only and not (seen.kind.manufacturer or seen.kind.model):
            raise FailedPrecondition("MAKER_UNKNOWN", "The header names no maker and no model: blank on this image only.")
        clears = frozenset(reason.lower() for reason in seen.suspicions)
        tried = (
            DrawnRule.of_instance(_PREVIEW, held.locator.sop_uid, boxes, clears)
            if only
            else DrawnRule.of_kind(_PREVIEW, seen.kind, boxes, clears)
        )
        self.instances.check(held.locator, tried)
        name = self.records.names.name(seen.kind)
        one = OneImage(guid, held.locator.sop_uid) if only else None
        rule = self.records.pixel_rules.add(name, seen.kind, boxes, seen.suspicions, subject, note, one)
        _log.info("a pixel rule was drawn", extra={"rule": rule.name, "subject": subject})
        self._follow(rule)
        return rule

    def rules_made(self, before: int | None, size: int) -> list[SiteRule]:
        """Return rules, those that ended included, the newest first; size 0 means the largest page.

        Raises:
            Invalid: the size is out of range.
        """
        return self.records.pixel_rules.page(before, checked_size(size))

    def end_rule(self, number: int, subject: str) -> SiteRule:
        """End a rule; staged copies of images of its kind are removed.

        Raises:
            NotFound: there is none of this number.
            Unavailable: it has ended, but not every staged copy is removed yet: ask again.
        """
        rule = self.records.pixel_rules.end(number, subject)
        if rule is None:
            raise NotFound("RULE_UNKNOWN", "No pixel rule of this name was made at the desk.")
        _log.info("a pixel rule was ended", extra={"rule": rule.name, "subject": subject})
        self._follow(rule)
        return rule

    def _follow(self, rule: SiteRule) -> None:
        self.effects.refresh()
        guids = [rule.only.guid] if rule.only else self.records.kinds.ever(rule.kind_name)
        if guids:
            self.effects.forget(guids)

    def _held(self, guid: UUID) -> Held:
        held = self.records.quarantine.held([guid]).get(guid)
        if held is None:
            raise not_waiting()
        return held


def _frame(number: int) -> int:
    if not 0 <= number <= _MAX_FRAME:
        raise Invalid("FRAME_UNKNOWN", "Frames are counted from 1.", fields={"frame": "out of range"})
    return number or 1


def _within(regions: Sequence[Box], image: ImageKind) -> tuple[Box, ...]:
    """Return regions without repetitions, in order.

    Raises:
        Invalid: REGIONS_MALFORMED, REGION_OUTSIDE.
    """
    if not 1 <= len(regions) <= MAX_REGIONS:
        raise _malformed(f"Draw 1 to {MAX_REGIONS} regions.")
    for box in regions:
        if not (0 <= box.left < box.right and 0 <= box.top < box.bottom):
            raise _malformed("A region has a place and a size in whole pixels: left, top, width, height.")
        if box.right > image.columns or box.bottom > image.rows:
            raise Invalid(
                "REGION_OUTSIDE", f"A region reaches beyond the image of {image.columns} x {image.rows}.", fields={"regions": "outside"}
            )
    return tuple(sorted(set(regions)))


def _malformed(message: str) -> MdmError:
    return Invalid("REGIONS_MALFORMED", message, fields={"regions": "malformed"})
