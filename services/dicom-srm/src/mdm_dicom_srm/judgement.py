"""The one decision about an instance, made on all of it: registration, staging and `mdm deid` ask the same question."""

import json
from collections.abc import Callable
from dataclasses import astuple, dataclass, field, replace
from typing import Protocol

from mdm_deid import Patient
from mdm_deid.outcome import Outcome, Result
from mdm_wire.errors import Invalid

from mdm_dicom_srm.pacs.part10 import header_of


class Deidentifier(Protocol):
    """Removes what identifies; `deid.verify.CheckedDeidentifier` is one."""

    def deidentify(self, part10: bytes, patient: Patient | None) -> Result:
        """Return the released file or why it is not released; `patient` is of whom its study is, if that is known."""
        ...


#: Makes a de-identifier; sent to worker processes, so a module-level function or a functools.partial of one.
MakeDeidentifier = Callable[[], Deidentifier]


#: Reasons of `decide` that say nothing about the file begin so: another try may end otherwise.
DEFECTS = ("DEFECT_", "OUT_OF_MEMORY")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the whole instance led to; `reason` is a stable code in capitals, empty when released.

    `header` is the released file up to its pixel data, empty unless released. `rules` names the rules that it was made under
    (`deidentification.generation`), `patient` is of whom the study was then; under other rules, or for another patient, it is void.
    """

    outcome: Outcome
    reason: str = ""
    header: bytes = b""
    rules: str = ""
    patient: Patient | None = field(default=None, repr=False)

    def to_bytes(self) -> bytes:
        """Return what `from_bytes` reads."""
        patient = None if self.patient is None else astuple(self.patient)
        return json.dumps([self.outcome, self.reason, self.rules, patient]).encode() + b"\n" + self.header

    @classmethod
    def from_bytes(cls, data: bytes) -> "Judgement":
        """Return the judgement that `to_bytes` wrote."""
        head, _, header = data.partition(b"\n")
        outcome, reason, rules, patient = json.loads(head)
        return cls(Outcome(outcome), reason, header, rules, None if patient is None else Patient(*patient))


def decide(deidentifier: Deidentifier, part10: bytes, patient: Patient | None) -> Result:
    """De-identify a complete Part 10 file as one of `patient`; a defect of the de-identifier fails the file. Never raises."""
    try:
        result = deidentifier.deidentify(part10, patient)
    except MemoryError:
        return Result(Outcome.FAILED, "OUT_OF_MEMORY")
    except Exception as error:
        return Result(Outcome.FAILED, f"DEFECT_{type(error).__name__.upper()}")
    if result.outcome is Outcome.RELEASED and not result.data:
        return Result(Outcome.FAILED, "DEFECT_NO_DATA")
    return replace(result, reason=result.reason.upper())


def judge(deidentifier: Deidentifier, part10: bytes, patient: Patient | None) -> Judgement:
    """Return what becomes of a complete Part 10 file of `patient`'s study, with the header that it leaves with. Never raises."""
    result = decide(deidentifier, part10, patient)
    if result.outcome is not Outcome.RELEASED or result.data is None:
        return Judgement(result.outcome, result.reason)
    try:
        return Judgement(result.outcome, header=header_of(b"".join(result.data)).part10)
    except Invalid as error:
        return Judgement(Outcome.FAILED, error.reason)
