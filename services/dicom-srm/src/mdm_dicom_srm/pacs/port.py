"""What the rest of dicom-srm needs of a PACS."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from mdm_deid import Patient

from mdm_dicom_srm.pacs.part10 import Header


@dataclass(frozen=True, slots=True)
class InstanceLocator:
    """Where the PACS keeps an instance: its original UIDs. Identifying, so never logged nor stored unsealed."""

    study_uid: str
    series_uid: str
    sop_uid: str


@dataclass(frozen=True, slots=True)
class Located:
    """What staging has to know of a published instance. `patient` is of whom its study is, None where that was never decided."""

    locator: InstanceLocator
    patient: Patient | None


@dataclass(frozen=True, slots=True)
class RetrievedInstance:
    """A complete DICOM Part 10 file in the transfer syntax in which the PACS holds it."""

    sop_uid: str
    part10: bytes


class Pacs(Protocol):
    """Read access to a PACS. Implementations serve several threads at once."""

    def retrieve(self, instances: Sequence[InstanceLocator]) -> Iterator[RetrievedInstance]:
        """Yield the instances as they arrive, in any order, each once; what the PACS does not have is not yielded.

        Never transcodes.

        Raises:
            Unavailable: the PACS is away, refuses us, or broke off. What was yielded is good.
        """
        ...

    def headers(self, study_uid: str) -> Iterator[Header]:
        """Yield the header of every instance of a study, pixel data left out; nothing when the PACS does not have the study.

        Raises:
            Unavailable: as for `retrieve`.
            Invalid: something that the PACS sent is not DICOM; raised after all that is.
        """
        ...

    def ping(self) -> None:
        """Return when the PACS answers.

        Raises:
            Unavailable: it does not.
        """
        ...
