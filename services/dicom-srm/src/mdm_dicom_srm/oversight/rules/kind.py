"""The kind of an image that waits, and of what its header makes it suspect."""

import hmac
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field

from mdm_deid.deidentifier import PIXEL_SUSPICIONS
from mdm_deid.encoding.part10 import open_part10
from mdm_deid.outcome import Malformed
from mdm_deid.pixels.drawn import ImageKind, kind_of
from mdm_deid.rules.facts import read_facts
from mdm_deid.rules.rule import InstanceRule

from mdm_dicom_srm.site_secret import derive_key

_NAME_BYTES = 8


@dataclass(frozen=True, slots=True)
class Seen:
    """What a header says of an image; `suspicions` are reasons in capitals."""

    kind: ImageKind = field(default_factory=ImageKind)
    suspicions: frozenset[str] = frozenset()


def read(header: bytes | None, rules: Sequence[InstanceRule]) -> Seen:
    """Return the kind of the image and what the rules of the profile suspect; nothing for a header that is not kept, or cannot be read."""
    if header is None:
        return Seen()
    try:
        opened = open_part10(header)
        texts = read_facts(opened.data, opened.start, opened.encoding).texts
        kind = kind_of(opened, texts)
    except (Malformed, ValueError):
        return Seen()
    return Seen(kind, frozenset(rule.reason.upper() for rule in rules if rule.reason in PIXEL_SUSPICIONS and rule.matches(texts)))


class KindNames:
    """Names kinds by a keyed hash of this site."""

    def __init__(self, site_secret: bytes) -> None:
        self._key = derive_key(site_secret, "kind")

    def name(self, kind: ImageKind) -> bytes:
        """Return the name of a kind, 8 bytes."""
        return hmac.digest(self._key, repr(astuple(kind)).encode(), "sha256")[:_NAME_BYTES]
