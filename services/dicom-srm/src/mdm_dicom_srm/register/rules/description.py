"""From a judged header to what the grid keeps of it: the verdict, the anonymous entries, the patient's entry, the LFN."""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from mdm_deid import Outcome

from mdm_dicom_srm.register.rules import attribute
from mdm_dicom_srm.register.rules.header_values import HeaderReader, HeaderValues
from mdm_dicom_srm.register.rules.model import PATIENTS, SERIES, STUDIES, Job, State, Statement, Value
from mdm_dicom_srm.register.rules.names import Names, file_name
from mdm_dicom_srm.register.rules.port import Attribute, Collection, Directory, Entry, File

IMAGES = "images"
_NEEDED = frozenset({"PatientID", "StudyInstanceUID", "SeriesInstanceUID", "InstanceNumber", "TransferSyntaxUID"})
INSTANCES = "NumberOfSeriesRelatedInstances"
_LONG, _SHORT = 1023, 64

_PATIENT_ATTRIBUTES = (
    Attribute("PatientName", "text", 324),
    Attribute("PatientID", "text", _SHORT, indexed=True),
    Attribute("IssuerOfPatientID", "text", _SHORT),
    Attribute("PatientBirthDate", "date"),
)
_PATIENT = Attribute("patient", "text", _SHORT, description="Pseudonym", indexed=True)
_STUDY = Attribute("study", "text", _SHORT, description="Pseudonymous Study Instance UID", indexed=True)
_SERIES = Attribute("series", "text", _SHORT, description="Pseudonymous Series Instance UID", indexed=True)
_DIRECTORY = Attribute("lfn", "text", _LONG, description="Directory")
_FILE = Attribute("lfn", "text", _LONG, description="Logical file name")
_GUID = Attribute("guid", "uuid", description="Name of the file in the grid", indexed=True)
_LINKS = {
    PATIENTS: (_PATIENT,),
    STUDIES: (_PATIENT, _STUDY, _DIRECTORY),
    SERIES: (_PATIENT, _STUDY, _SERIES, _DIRECTORY, Attribute(INSTANCES, "int", description="Instances registered")),
    IMAGES: (_GUID, _PATIENT, _STUDY, _SERIES, _FILE),
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why an instance is not registered."""

    state: State
    reason: str


@dataclass(frozen=True, slots=True)
class Description:
    """What the grid keeps about one image. Of `statements` only the patient's identifies; `patient_key` is the pseudonym."""

    guid: UUID
    acl_id: UUID
    patient_key: str
    image: Entry
    statements: tuple[Statement, ...]
    directories: tuple[Directory, ...]
    file: File


class Describer:
    """Turns an instance's header and its judgement into entries."""

    def __init__(self, names: Names, attributes: Mapping[str, tuple[Attribute, ...]]) -> None:
        self._names = names
        self._attributes = attributes
        levels = {level: {item.name for item in of_level} for level, of_level in attributes.items()}
        self._originals = HeaderReader({item.name for item in _PATIENT_ATTRIBUTES}, given=levels[STUDIES] | levels[SERIES])
        self._anonymous = HeaderReader(_NEEDED.union(*levels.values()))

    def collections(self) -> list[Collection]:
        """Return the site's collections, ancestors first."""
        private, directory, collection, patients = (
            self._names.site_acl(name) for name in ("private", "directory", "collection", "patients")
        )
        above = [Collection(path, (), directory, private) for path in (self._names.vo_root, self._names.root)]
        identifying = Collection(
            self._names.collection(PATIENTS), _LINKS[PATIENTS] + _PATIENT_ATTRIBUTES, patients, patients, sensitive=True
        )
        anonymous = [
            Collection(self._names.collection(name), _LINKS[name] + self._attributes[name], collection, private)
            for name in (STUDIES, SERIES, IMAGES)
        ]
        return [*above, identifying, *anonymous]

    def describe(self, job: Job) -> Description | Verdict:
        """Describe an instance that was judged, or say why it is not registered; never raises for bad input."""
        judgement = job.judgement
        if judgement is not None and judgement.outcome is not Outcome.RELEASED:
            return Verdict(State(judgement.outcome.value), judgement.reason)
        # Without these UIDs it cannot be retrieved.
        if judgement is None or job.header is None or not (job.locator.study_uid and job.locator.series_uid):
            return Verdict(State.QUARANTINED, "NO_STUDY_OR_SERIES_UID")
        return self._description(job, judgement.size or job.size, self._originals.read(job.header), self._anonymous.read(judgement.header))

    def _description(self, job: Job, size: int | None, original: HeaderValues, anonymous: HeaderValues) -> Description | Verdict:
        patient, study, series = (
            attribute.text(anonymous, keyword, _SHORT) for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")
        )
        if not (patient and study and series):
            return Verdict(State.QUARANTINED, "NO_PSEUDONYM")
        acl_id = self._names.study_acl(job.locator.study_uid)
        patient_lfn = f"{self._names.root}/{patient}"
        study_lfn, series_lfn = f"{patient_lfn}/{study}", f"{patient_lfn}/{study}/{series}"
        number = attribute.value(anonymous, Attribute("InstanceNumber", "int"))
        lfn = f"{series_lfn}/{file_name(number if isinstance(number, int) else None, job.guid)}"
        links: dict[str, dict[str, Value]] = {
            STUDIES: {"patient": patient, "study": study, "lfn": study_lfn},
            SERIES: {"patient": patient, "study": study, "series": series, "lfn": series_lfn},
            IMAGES: {"guid": str(job.guid), "patient": patient, "study": study, "series": series, "lfn": lfn},
        }
        image = Entry(str(job.guid), acl_id, {**attribute.values(anonymous, self._attributes[IMAGES]), **links[IMAGES]})
        identifying = {"patient": patient, **attribute.values(original, _PATIENT_ATTRIBUTES)}
        statements = [Statement(PATIENTS, patient, self._names.site_acl("patients"), identifying)]
        for level, key in ((STUDIES, study), (SERIES, series)):
            values = attribute.stated(original, anonymous, self._attributes[level])
            statements.append(Statement(level, key, acl_id, {**values, **links[level]}))
        directory = self._names.site_acl("directory")
        return Description(
            guid=job.guid,
            acl_id=acl_id,
            patient_key=patient,
            image=image,
            statements=tuple(statements),
            directories=(
                Directory(self._names.vo_root, directory),
                Directory(self._names.root, directory),
                Directory(patient_lfn, directory),
                Directory(study_lfn, acl_id),
                Directory(series_lfn),
            ),
            file=File(job.guid, lfn, self._names.surl(job.guid), acl_id, size),
        )
