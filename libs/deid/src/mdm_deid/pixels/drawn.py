"""Pixel rules that people drew on images, beside those of a file: for all images of a kind, or for one image."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from mdm_deid.encoding.part10 import Part10
from mdm_deid.pixels.image import MANUFACTURER, MODEL, Box, Image, ReadImage, read_image
from mdm_deid.pixels.rule import PixelRule, PixelRules

_SOP_CLASS, _SOP_INSTANCE, _MODALITY = 0x00080016, 0x00080018, 0x00080060
#: Returns the reasons for which an instance with these header values is suspected to show identity.
Suspicions = Callable[[Mapping[int, str]], frozenset[str]]
#: A rule has at most so many regions.
MAX_REGIONS: Final = 64


@dataclass(frozen=True, slots=True)
class ImageKind:
    """What images of one kind have in common; sizes are 0 and texts empty where the header has none."""

    manufacturer: str = ""
    model: str = ""
    modality: str = ""
    sop_class: str = ""
    columns: int = 0
    rows: int = 0


def kind_of(opened: Part10, texts: Mapping[int, str]) -> ImageKind:
    """Return the kind of an image, whose header values are given as the rules read them.

    Raises:
        Malformed: its data set cannot be walked.
    """
    image = read_image(opened.data, opened.start, opened.encoding)
    manufacturer, model = (image.texts.get(tag, "") for tag in (MANUFACTURER, MODEL))
    sop_class, modality = (texts.get(tag, "").strip(" \0") for tag in (_SOP_CLASS, _MODALITY))
    return ImageKind(manufacturer, model, modality, sop_class or opened.sop_class, image.columns, image.rows)


@dataclass(frozen=True)
class DrawnRule(PixelRule):
    """A pixel rule for what is exactly of one kind, and suspected for one of the reasons that it clears; or for one instance.

    With `instance`, a SOP Instance UID, it is for that one alone, of whatever kind unless the kind is given, too.
    """

    kind: ImageKind = field(default_factory=ImageKind)
    instance: str = ""

    @property
    def _of_any_kind(self) -> bool:
        return bool(self.instance) and self.kind == ImageKind()

    @property
    def needs_suspicion(self) -> bool:
        """Whether the rule is only for what the profile suspects."""
        return True

    @classmethod
    def of_kind(cls, name: str, kind: ImageKind, regions: Sequence[Box], clears: frozenset[str]) -> "DrawnRule":
        """Return a rule for a kind."""
        return cls(name, "drawn", clears, blank=tuple(regions), kind=kind)

    @classmethod
    def of_instance(
        cls, name: str, instance: str, regions: Sequence[Box], clears: frozenset[str], kind: ImageKind | None = None
    ) -> "DrawnRule":
        """Return a rule for one instance; with `kind`, as long as it is of that: its UID may come again with other pixels."""
        return cls(name, "drawn", clears, blank=tuple(regions), kind=kind or ImageKind(), instance=instance)

    def concerns(self, sop_class: str, modality: str) -> bool:
        """Return whether the rule applies to the kind of instance."""
        return self._of_any_kind or (sop_class, modality) == (self.kind.sop_class, self.kind.modality)

    def matches(self, image: Image) -> bool:
        """Return whether the rule applies to the image: its maker, model and size are those that the rule was drawn for."""
        found = (image.texts.get(MANUFACTURER, ""), image.texts.get(MODEL, ""), image.columns, image.rows)
        return self._of_any_kind or found == (self.kind.manufacturer, self.kind.model, self.kind.columns, self.kind.rows)


@dataclass(frozen=True)
class JoinedRule(PixelRule):
    """Several rules at once: what any of them blanks is blanked, and what any of them clears is cleared."""

    parts: tuple[PixelRule, ...] = ()

    @classmethod
    def of(cls, parts: Sequence[PixelRule]) -> "JoinedRule":
        """Return rules as one."""
        clears = frozenset[str]().union(*(part.clears for part in parts))
        codes = frozenset[str]().union(*(part.codes for part in parts))
        return cls("+".join(part.name for part in parts), "joined", clears, codes=codes, parts=tuple(parts))

    def blank_value(self, image: Image) -> int:
        """Return the value of the first rule that has one of its own."""
        return next((value for part in self.parts if (value := part.blank_value(image))), 0)

    def blanked(self, image: Image) -> list[list[tuple[int, int]]]:
        """Return for each row the spans of columns to blank: sorted, apart, within the image."""
        rows = zip(*(part.blanked(image) for part in self.parts), strict=True)
        return [_joined([span for spans in row for span in spans]) for row in rows]


class SiteRules(PixelRules):
    """The rules of a file, of which the first that matches applies, and all drawn ones that match, together."""

    def __init__(self, base: PixelRules, drawn: Sequence[DrawnRule], suspicions: Suspicions) -> None:
        super().__init__(base.rules)
        self._drawn = tuple(drawn)
        self._suspicions = suspicions

    def fingerprint(self) -> str:
        """Return a digest of all rules."""
        return hashlib.sha256(f"{super().fingerprint()}{fingerprint(self._drawn)}".encode()).hexdigest()

    def find(self, texts: Mapping[int, str], image: ReadImage) -> PixelRule | None:
        """Return what applies to an instance as one rule; see `PixelRules.find`."""
        first = super().find(texts, image)
        parts = [*([first] if first else []), *(rule for rule in self._drawn if self._applies(rule, texts, image))]
        return JoinedRule.of(parts) if len(parts) > 1 else next(iter(parts), None)

    def _applies(self, rule: DrawnRule, texts: Mapping[int, str], image: ReadImage) -> bool:
        sop_class, instance, modality = (texts.get(tag, "").strip(" \0") for tag in (_SOP_CLASS, _SOP_INSTANCE, _MODALITY))
        if rule.instance:
            return rule.instance == instance
        if not rule.needs_suspicion:
            return rule.concerns(sop_class, modality) and rule.matches(image())
        return rule.concerns(sop_class, modality) and bool(rule.clears & self._suspicions(texts)) and rule.matches(image())


def fingerprint(rules: Sequence[DrawnRule]) -> str:
    """Return a digest of drawn rules; "" without any."""
    if not rules:
        return ""
    content = [(rule.name, sorted(rule.clears), rule.blank, rule.kind, rule.instance) for rule in rules]
    return hashlib.sha256(repr(content).encode()).hexdigest()


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for left, right in sorted(spans):
        if joined and left <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], right))
        else:
            joined.append((left, right))
    return joined
