"""Pixel rules: which regions of which images are blanked, and which reasons for quarantine that clears."""

import hashlib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

from mdm_deid.outcome import ProfileError
from mdm_deid.pixels.image import IMAGE_TYPE, MANUFACTURER, MODEL, Box, Image, ReadImage

SHIPPED: Final = "shipped"
#: Clean Pixel Data Option, and Clean Recognizable Visual Features Option.
CLEAN_PIXELS: Final = "113101"
CLEAN_FACES: Final = "113102"
_SOP_CLASS, _MODALITY = 0x00080016, 0x00080060
_REGIONS: Final = "ultrasound_regions"
_CONDITIONS = ("sop_classes", "modalities", "manufacturers", "models", "image_types", "sizes")
_KEYS = {"name", "source", "clears", "blank", "keep", *_CONDITIONS}


@dataclass(frozen=True)
class PixelRule:
    """A pixel rule applies if all of its conditions hold (unlike a profile's rule, an `InstanceRule`, for which any is enough).

    Of each frame, either the regions `blank` are blanked, or all but the regions `keep`. `clears` are the reasons for quarantine that
    this answers. With `declared`, the regions that the image itself declares (PS3.3 C.8.5.5) are kept, instead of `keep`.
    `codes` say in CID 7050 (PS3.16) what the rule does.
    """

    name: str
    source: str
    clears: frozenset[str]
    sop_classes: frozenset[str] = frozenset()
    modalities: frozenset[str] = frozenset()
    manufacturers: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    image_types: frozenset[str] = frozenset()
    sizes: frozenset[tuple[int, int]] = frozenset()
    blank: tuple[Box, ...] = ()
    keep: tuple[Box, ...] = ()
    declared: bool = False
    codes: frozenset[str] = frozenset({CLEAN_PIXELS})

    def concerns(self, sop_class: str, modality: str) -> bool:
        """Return whether the rule applies to the kind of instance."""
        return (not self.sop_classes or sop_class in self.sop_classes) and (not self.modalities or modality in self.modalities)

    def matches(self, image: Image) -> bool:
        """Return whether the rule applies to the image, if it `concerns` its kind."""
        manufacturer, model = (image.texts.get(tag, "").upper() for tag in (MANUFACTURER, MODEL))
        types = {part.strip() for part in image.texts.get(IMAGE_TYPE, "").upper().split("\\")}
        return (
            (not self.manufacturers or any(name in manufacturer for name in self.manufacturers))
            and (not self.models or any(name in model for name in self.models))
            and (not self.image_types or bool(self.image_types & types))
            and (not self.sizes or (image.columns, image.rows) in self.sizes)
            and (not self.declared or _inside(image))
        )

    def blanked(self, image: Image) -> list[list[tuple[int, int]]]:
        """Return for each row the spans of columns to blank: sorted, apart, within the image."""
        kept = image.regions if self.declared else self.keep
        return [list(_spans(self.blank, kept, y, image.columns)) for y in range(image.rows)]

    def blank_value(self, image: Image) -> int:
        """Return the stored value that blanked pixels of a grey image get."""
        return 0


def _inside(image: Image) -> bool:
    """Return whether the image declares regions that lie inside it and not at its top, where systems write names."""
    return bool(image.regions) and all(
        box.left < box.right <= image.columns and 0 < box.top < box.bottom <= image.rows for box in image.regions
    )


def _spans(blank: tuple[Box, ...], keep: tuple[Box, ...], y: int, columns: int) -> Iterator[tuple[int, int]]:
    if not keep:
        yield from _union(blank, y, columns)
        return
    pos = 0
    for left, right in _union(keep, y, columns):
        if pos < left:
            yield pos, left
        pos = right
    if pos < columns:
        yield pos, columns


def _union(boxes: tuple[Box, ...], y: int, columns: int) -> Iterator[tuple[int, int]]:
    spans = sorted((box.left, min(box.right, columns)) for box in boxes if box.top <= y < box.bottom and box.left < columns)
    begin = end = 0
    for left, right in spans:
        if left > end:
            if begin < end:
                yield begin, end
            begin = left
        end = max(end, right)
    if begin < end:
        yield begin, end


class PixelRules:
    """Rules in their order; the first that matches is applied. Without rules, nothing is blanked and no reason for quarantine cleared."""

    def __init__(self, rules: tuple[PixelRule, ...] = ()) -> None:
        self.rules = rules

    @classmethod
    def load(cls, name: str) -> "PixelRules":
        """Return the rules of a file, those that come with the package for `shipped`, or none for an empty name.

        Raises:
            ProfileError: an unknown key, or a value that is not valid; the message names the key.
            OSError: the file cannot be read.
        """
        if not name:
            return cls()
        if name == SHIPPED:
            text = (resources.files("mdm_deid") / "data" / "pixel_rules.toml").read_text(encoding="utf-8")
        else:
            text = Path(name).read_text(encoding="utf-8")
        return cls(_parse(text, name))

    def fingerprint(self) -> str:
        """Return a digest of all rules."""
        content = [
            [sorted(value) if isinstance(value, frozenset) else value for name, value in vars(rule).items() if name != "source"]
            for rule in self.rules
        ]
        return hashlib.sha256(repr(content).encode()).hexdigest()

    def find(self, texts: Mapping[int, str], image: ReadImage) -> PixelRule | None:
        """Return the rule for an instance; `image` is called only if a rule is about its SOP class and modality."""
        if not self.rules:
            return None
        sop_class, modality = (texts.get(tag, "").strip(" \0") for tag in (_SOP_CLASS, _MODALITY))
        candidates = [rule for rule in self.rules if rule.concerns(sop_class, modality)]
        if not candidates:
            return None
        seen = image()
        return next((rule for rule in candidates if rule.matches(seen)), None)


def _parse(text: str, where: str) -> tuple[PixelRule, ...]:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{where}: {error}") from error
    for key in document:
        if key != "rule":
            raise ProfileError(f"{where}: unknown key {key!r}: a pixel rule file may contain only [[rule]] tables")
    entries = document.get("rule", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ProfileError(f"{where}: rule: must be tables, [[rule]]")
    rules = tuple(_rule(entry, f"{where}: rule {number}") for number, entry in enumerate(entries, 1))
    names = [rule.name for rule in rules]
    for name in names:
        if names.count(name) > 1:
            raise ProfileError(f"{where}: two rules have the name {name!r}")
    return rules


def _rule(entry: Mapping[str, Any], where: str) -> PixelRule:
    for key in entry:
        if key not in _KEYS:
            raise ProfileError(f"{where}: unknown key {key!r}: known are {', '.join(sorted(_KEYS))}")
    for key in ("name", "source"):
        if not isinstance(entry.get(key), str) or not entry[key]:
            raise ProfileError(f"{where}: {key}: must be a non-empty string")
    where = f"{where} ({entry['name']})"
    if not ("sop_classes" in entry or "modalities" in entry):
        raise ProfileError(f"{where}: needs sop_classes or modalities")
    if ("blank" in entry) == ("keep" in entry):
        raise ProfileError(f"{where}: needs one of blank and keep")
    declared = entry.get("keep") == _REGIONS
    if not declared and "sizes" not in entry:
        raise ProfileError(f"{where}: needs sizes, as its boxes are in pixels")
    texts = {key: _texts(entry, key, where) for key in ("clears", *_CONDITIONS[:-1])}
    sizes = frozenset((width, height) for width, height in _numbers(entry, "sizes", 2, where))
    return PixelRule(
        name=entry["name"],
        source=entry["source"],
        clears=frozenset(value.lower() for value in texts["clears"]),
        sop_classes=frozenset(texts["sop_classes"]),
        modalities=frozenset(texts["modalities"]),
        manufacturers=texts["manufacturers"],
        models=texts["models"],
        image_types=frozenset(texts["image_types"]),
        sizes=sizes,
        blank=_boxes(entry, "blank", sizes, where),
        keep=() if declared else _boxes(entry, "keep", sizes, where),
        declared=declared,
    )


def _texts(entry: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = entry.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value) or (key in entry and not value):
        raise ProfileError(f"{where}: {key}: must be a list of non-empty strings")
    return tuple(item.strip().upper() for item in value)


def _numbers(entry: Mapping[str, Any], key: str, count: int, where: str) -> list[list[int]]:
    value = entry.get(key, [])
    right = (
        isinstance(value, list) and all(isinstance(row, list) and len(row) == count for row in value) and bool(value or key not in entry)
    )
    if not right or not all(type(number) is int and number >= 0 for row in value for number in row):
        raise ProfileError(f"{where}: {key}: must be a list of lists of {count} non-negative integers")
    return list(value)


def _boxes(entry: Mapping[str, Any], key: str, sizes: frozenset[tuple[int, int]], where: str) -> tuple[Box, ...]:
    """Read boxes given as left, top, width, height."""
    boxes = tuple(Box(left, top, left + width, top + height) for left, top, width, height in _numbers(entry, key, 4, where))
    for box in boxes:
        inside = all(box.right <= columns and box.bottom <= rows for columns, rows in sizes)
        if not (inside and box.left < box.right and box.top < box.bottom):
            raise ProfileError(f"{where}: {key}: a box is empty or reaches beyond one of the sizes")
    return boxes
