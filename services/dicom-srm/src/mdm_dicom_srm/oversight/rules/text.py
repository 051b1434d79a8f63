"""Text in the pixels: looking for it where the site says so, and what follows from it."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Protocol

from mdm_deid import Patient
from mdm_deid.outcome import Outcome
from mdm_deid.pixels.image import Box
from mdm_deid.pixels.text_line import NotLooked, TextLine
from mdm_deid.rules.rule import InstanceRule
from mdm_wire.errors import FailedPrecondition, Invalid, MdmError, Unavailable

from mdm_dicom_srm.judgement import TEXT_BLANKED, TEXT_FOUND, TEXT_NOT_CHECKED, Judgement
from mdm_dicom_srm.oversight.rules import kind
from mdm_dicom_srm.oversight.rules.model import FoundLine
from mdm_dicom_srm.oversight.rules.site_judge import is_suspect, then
from mdm_dicom_srm.register.rules.port import Judge

_log = logging.getLogger(__name__)
PROPOSE, BLANK_AND_HOLD, BLANK_AND_RELEASE = "propose", "blank-and-hold", "blank-and-release"
NONE, FOUND, NOT_CHECKED = "NONE", "FOUND", "NOT_CHECKED"
_FEWEST_LETTERS = 2
_LATER = ("timeout", "worker_lost")
#: Returns the lines of text in a frame of a Part 10 file, 0 for all of it; raises NotLooked. `TextFinder.find` is one.
Find = Callable[[bytes, int], Sequence[TextLine]]


@dataclass(frozen=True, slots=True)
class TextPolicy:
    """What follows from text, and in images of which modalities it is looked for that no header makes suspect."""

    name: str = PROPOSE
    modalities: frozenset[str] = frozenset()

    @property
    def looks_unasked(self) -> bool:
        """Whether anything is looked at without a curator's asking."""
        return self.name != PROPOSE or bool(self.modalities)

    def concerns(self, judgement: Judgement, modality: str) -> bool:
        """Return whether an image is looked at."""
        if is_suspect(judgement):
            return self.name != PROPOSE
        return judgement.outcome is Outcome.RELEASED and modality in self.modalities


@dataclass(frozen=True, slots=True)
class FoundText:
    """What was found in an image; `blanked` regions are blanked whenever it leaves, which answers the reasons `clears`."""

    outcome: str
    policy: str
    blanked: bool = False
    clears: frozenset[str] = frozenset()
    regions: tuple[Box, ...] = ()


class FoundTexts(Protocol):
    """What was found; `FoundTextStore` has each method's contract."""

    def get(self, part10: bytes) -> FoundText | None: ...
    def keep(self, part10: bytes, found: FoundText) -> None: ...


@dataclass(frozen=True, slots=True)
class TextRecords:
    """What was found, what curators released of a Part 10 file, and the rules of the profile."""

    found: FoundTexts
    released: Callable[[bytes], frozenset[str]]
    rules: Sequence[InstanceRule]


class TextJudge:
    """A judge that has images looked at; `inner` judges by what is in headers, and follows what is kept of the text found."""

    def __init__(self, inner: Judge, policy: TextPolicy, find: Find, records: TextRecords) -> None:
        self._inner = inner
        self._policy = policy
        self._find = find
        self._records = records

    @property
    def rules(self) -> str:
        """The digest of all rules that hold now, the policy included."""
        if not self._policy.looks_unasked:
            return self._inner.rules
        policy = f"{self._policy.name} {sorted(self._policy.modalities)}"
        return hashlib.sha256(f"{self._inner.rules}{policy}".encode()).hexdigest()

    def begin(self, part10: bytes | memoryview, patient: Patient | None) -> "Future[Judgement]":
        """Begin to judge by the header; what is to be looked at gets no rules, so that it is judged again, by `judge`."""
        if not self._policy.looks_unasked:
            return self._inner.begin(part10, patient)
        rules, modality = self.rules, kind.read(bytes(part10), self._records.rules).kind.modality
        return then(
            self._inner.begin(part10, patient),
            lambda judgement: replace(judgement, rules="" if self._policy.concerns(judgement, modality) else rules),
        )

    def is_settled(self, judgement: Judgement, part10: bytes | memoryview) -> bool:
        """Return whether it is to be judged by `judge`: it is to be looked at, or a curator has settled why it is held back."""
        if self._policy.looks_unasked and not judgement.rules:
            return True
        return self._inner.is_settled(judgement, part10)

    def judge(self, part10: bytes | memoryview, patient: Patient | None) -> Judgement:
        """Return what becomes of a complete Part 10 file; see `port.Judge`."""
        rules = self.rules
        judgement = self._inner.judge(part10, patient)
        if not self._policy.looks_unasked:
            return judgement
        part10 = bytes(part10)
        seen = kind.read(part10, self._records.rules)
        if self._policy.concerns(judgement, seen.kind.modality):
            suspect = is_suspect(judgement)
            found, new = self._found(part10, seen.suspicions)
            if new and found.blanked:
                judgement = self._inner.judge(part10, patient)
            if not suspect and judgement.outcome is Outcome.RELEASED:
                judgement = self._held(part10, found, judgement)
        return replace(judgement, rules=rules)

    def _found(self, part10: bytes, suspicions: frozenset[str]) -> tuple[FoundText, bool]:
        """Return what is in an image, and whether that was not known before."""
        blanks = self._policy.name != PROPOSE
        known = self._records.found.get(part10)
        if known is not None and known.outcome != NOT_CHECKED and (known.blanked or not blanks or known.outcome == NONE):
            return known, False
        try:
            lines = [line for line in self._find(part10, 0) if tells(line)]
        except NotLooked as error:
            _log.warning("an image was not looked at for text", extra={"reason": error.reason})
            found = FoundText(NOT_CHECKED, self._policy.name)
        else:
            clears = suspicions if self._policy.name == BLANK_AND_RELEASE else frozenset[str]()
            regions = tuple(sorted({line.box for line in lines}))
            found = FoundText(FOUND, self._policy.name, blanks, clears if blanks else frozenset(), regions) if lines else self._none()
        self._records.found.keep(part10, found)
        return found, True

    def _none(self) -> FoundText:
        return FoundText(NONE, self._policy.name)

    def _held(self, part10: bytes, found: FoundText, judgement: Judgement) -> Judgement:
        """Return the judgement of an image that its header does not make suspect, after it was looked at."""
        if found.outcome == NONE or (found.outcome == FOUND and found.blanked and self._policy.name == BLANK_AND_RELEASE):
            return judgement
        reason = TEXT_NOT_CHECKED if found.outcome == NOT_CHECKED else TEXT_BLANKED if found.blanked else TEXT_FOUND
        if reason in self._records.released(part10):
            return judgement
        return Judgement(Outcome.QUARANTINED, reason, patient=judgement.patient)


def tells(line: TextLine) -> bool:
    """Return whether a line is more than a single character, as edges of anatomy are often read."""
    return sum(character.isalnum() for character in line.text) >= _FEWEST_LETTERS


def find_lines(find: Find, part10: bytes, frame: int) -> list[FoundLine]:
    """Return the lines of text in a frame of a Part 10 file.

    Raises:
        MdmError: why it could not be looked at.
    """
    try:
        return [FoundLine(line.box, line.text, line.score) for line in find(part10, frame)]
    except NotLooked as error:
        raise _refusal(error.reason) from None


def _refusal(reason: str) -> MdmError:
    if reason == "not_installed":
        return FailedPrecondition("NO_TEXT_DETECTOR", "No text detector is installed at this site: pip install 'mdm-deid[text]'.")
    if reason == "frame_unknown":
        return Invalid("FRAME_UNKNOWN", "The image has no such frame.", fields={"frame": "out of range"})
    if reason in _LATER:
        return Unavailable("TEXT_NOT_CHECKED", f"The image could not be looked at in time: {reason.upper()}.")
    return FailedPrecondition("TEXT_NOT_CHECKED", f"The image cannot be looked at: {reason.upper()}.")
