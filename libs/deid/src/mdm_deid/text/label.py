"""Labels: what persons call structures, segments, beams and plans; each stays whole or goes whole, so that it never becomes another's."""

import csv
import re
from functools import cache
from importlib import resources
from typing import Final

from mdm_deid.encoding.codec import tag_of
from mdm_deid.text.vocabulary import structures

# TG-263: a structure that is for optimisation only has `z` or `_` before its name; planning systems write `x` as well.
_HELPER: Final = re.compile(r"(?<![^\W_])[zx](?=[A-Z])")


@cache
def label_tags() -> frozenset[int]:
    """Return the attributes whose value is a label."""
    text = (resources.files("mdm_deid") / "data" / "labels.csv").read_text(encoding="utf-8")
    return frozenset(tag_of(line["tag"]) for line in csv.DictReader(text.splitlines()))


@cache
def _structure() -> re.Pattern[str]:
    names = "|".join(map(re.escape, sorted(structures(), key=len, reverse=True)))
    return re.compile(rf"(?<![^\W\d_])(?:{names})(?![^\W\d_])", re.IGNORECASE)


def beside_structures(label: str) -> str:
    """Return what stands in a label beside names of structures (AAPM TG-263), some of which are also persons' (`Carina`)."""
    return _structure().sub(" ", _HELPER.sub("", label))
