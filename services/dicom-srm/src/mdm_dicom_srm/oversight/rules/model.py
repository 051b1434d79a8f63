"""What curators see: groups of instances that wait, and what one of them is in the PACS."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from mdm_deid.pixels.drawn import ImageKind
from mdm_deid.pixels.image import Box

from mdm_dicom_srm.judgement import Judgement
from mdm_dicom_srm.pacs.port import InstanceLocator

#: What a group is found after: token of its series, and reason.
GroupKey = tuple[bytes, str]


@dataclass(frozen=True, slots=True)
class Group:
    """Instances of one series that wait for one reason; nothing identifying."""

    series_token: bytes
    reason: str
    count: int
    oldest: datetime
    newest: datetime
    example: UUID


@dataclass(frozen=True, slots=True)
class KindGroup:
    """Instances of one kind that wait for one reason; nothing of a patient."""

    name: bytes
    kind: ImageKind
    reason: str
    count: int
    oldest: datetime
    newest: datetime
    example: UUID


@dataclass(frozen=True, slots=True)
class Waiting:
    """An instance that waits; nothing identifying."""

    guid: UUID
    reason: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Held:
    """An instance that waits, with what is kept of it. Header, judgement and digest are None where staging held it back."""

    waiting: Waiting
    series_token: bytes
    locator: InstanceLocator
    header: bytes | None
    judgement: Judgement | None
    digest: bytes | None


@dataclass(frozen=True, slots=True)
class Element:
    """A data element of an original header, its value as text. Identifying."""

    tag: int
    keyword: str
    value: str


@dataclass(frozen=True, slots=True)
class Shown:
    """What a curator is shown of an instance that waits. Identifying."""

    held: Held
    elements: Sequence[Element]
    suspicious: Sequence[Element]
    kind_name: bytes
    kind: ImageKind
    suspicions: frozenset[str]


@dataclass(frozen=True, slots=True)
class OneImage:
    """An image by its GUID, and by the SOP Instance UID that it has in the PACS, which identifies."""

    guid: UUID
    instance: str


@dataclass(frozen=True, slots=True)
class SiteRule:
    """A pixel rule that a curator drew: what it blanks on images of a kind, and which reasons, in capitals, that answers.

    With `only`, it is for that one image.
    """

    number: int
    kind_name: bytes
    kind: ImageKind
    regions: tuple[Box, ...]
    reasons: frozenset[str]
    subject: str
    at: datetime
    note: str
    ended_by: str = ""
    ended_at: datetime | None = None
    only: OneImage | None = None

    @property
    def name(self) -> str:
        """Its name in reports and for curators."""
        return f"desk-{self.number}"


@dataclass(frozen=True, slots=True)
class FoundLine:
    """A line of text in an image: where it is, with a margin, how it reads, how sure that is. Its text may identify."""

    box: Box
    text: str
    score: float
    in_header: bool = False

    def marked(self, in_header: bool) -> "FoundLine":
        """Return the line with whether the header knows one of its words."""
        return replace(self, in_header=in_header)
