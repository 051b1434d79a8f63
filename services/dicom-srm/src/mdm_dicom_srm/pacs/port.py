"""What the rest of dicom-srm needs of a PACS."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Protocol

from mdm_deid import Patient
from mdm_deid.encoding.header import Header

from mdm_dicom_srm.shared_memory import Piece


@dataclass(frozen=True, slots=True)
class InstanceLocator:
    """Where an instance is kept: its original UIDs, and the name of the PACS, "" where it is not known. Identifying, so never logged
    nor stored unsealed."""

    study_uid: str
    series_uid: str
    sop_uid: str
    pacs: str = ""


@dataclass(frozen=True, slots=True)
class Located:
    """What staging has to know of a published instance. `patient` is of whom its study is, None where that was never decided.

    `released`: a curator has let it leave in spite of a suspicion about its pixels.
    """

    locator: InstanceLocator
    patient: Patient | None
    released: bool = False


@dataclass(frozen=True, slots=True)
class Scope:
    """Which studies are meant: conditions on different fields all hold, of the values of one any; an empty scope means everything.

    `modalities` are those of a study's series, `since` and `until` include their day. A study without a date is in no range.
    """

    study_uids: tuple[str, ...] = ()
    series_uids: tuple[str, ...] = ()
    patient_ids: tuple[str, ...] = ()
    accession_numbers: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    since: date | None = None
    until: date | None = None


#: Attributes of a listing, by which a change shows without a retrieval; "" where an instance, or the PACS, has no value.
LISTED = (
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "AccessionNumber",
    "StudyDescription",
    "SeriesNumber",
    "Modality",
    "InstanceNumber",
    "Rows",
    "Columns",
    "NumberOfFrames",
)


@dataclass(frozen=True, slots=True)
class ListedInstance:
    """An instance in a listing. `attributes` has a value for each keyword of `LISTED`, written alike by every way to one PACS."""

    locator: InstanceLocator
    sop_class_uid: str
    attributes: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class RetrievedInstance:
    """A complete DICOM Part 10 file in the transfer syntax in which the PACS of the name `pacs` holds it.

    `piece` is where it lies, if that is memory shared with the sealing workers; its last user may release it.
    """

    sop_uid: str
    part10: bytes | memoryview = field(repr=False)
    pacs: str = ""
    piece: Piece | None = field(default=None, repr=False, compare=False)


#: The reason of an instance of which the PACS says that it does not have it.
NOT_IN_PACS = "NOT_IN_PACS"


@dataclass(frozen=True, slots=True)
class MissingInstance:
    """An instance that did not come; `reason` is NOT_IN_PACS, or says why it could not be delivered now."""

    sop_uid: str
    reason: str

    @property
    def gone(self) -> bool:
        """Whether the PACS says that it does not have it, so that asking again is in vain."""
        return self.reason == NOT_IN_PACS


class Pacs(Protocol):
    """Read access to a PACS, or to all of a site. Implementations serve several threads at once."""

    def retrieve(self, instances: Sequence[InstanceLocator]) -> Iterator[RetrievedInstance | MissingInstance]:
        """Yield each instance once as it arrives, in any order, or that it is missing; what failed for one instance is no error.

        Never transcodes.

        Raises:
            Unavailable: the PACS is away, refuses us, or broke off, before every instance was yielded. What was yielded is good.
        """
        ...

    def headers(self, study_uid: str) -> Iterator[tuple[Header, str]]:
        """Yield the header of every instance of a study, pixel data left out, and the name of the PACS that has it.

        Nothing is yielded when the PACS does not have the study; an instance that lies in several is yielded once.

        Raises:
            Unavailable: as for `retrieve`, or an instance could not be delivered; raised after all that could.
            Invalid: something that the PACS sent is not DICOM; raised after all that is.
        """
        ...

    def studies(self, scope: Scope) -> Iterator[str]:
        """Yield the Study Instance UIDs of a scope as they are found, in any order; one that lies in several PACS may come again.

        Raises:
            Unavailable: as for `retrieve`, or the PACS cuts its answers short. What was yielded is good.
        """
        ...

    def listing(self, study_uid: str) -> Iterator[ListedInstance]:
        """Yield the instances of a study; nothing when the PACS does not have it. One that lies in several PACS comes once for each.

        Raises:
            Unavailable: as for `studies`: then it is not known what else the study has.
        """
        ...

    def ping(self) -> None:
        """Return when the PACS answers.

        Raises:
            Unavailable: it does not.
        """
        ...
