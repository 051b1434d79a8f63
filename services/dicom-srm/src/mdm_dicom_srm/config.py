"""Settings of dicom-srm, validated before anything opens."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from mdm_service.access.settings import AclEntries, AclEntrySettings
from mdm_service.settings import Section, ServiceSettings
from pydantic import Field, StringConstraints

from mdm_dicom_srm.pacs.settings import AeTitle, PacsSettings
from mdm_dicom_srm.stage.settings import SpoolSettings

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")]
Port = Annotated[int, Field(ge=0, le=65535)]


class ScpSettings(Section):
    """The Storage SCP that the PACS auto-forwards to."""

    host: str = "127.0.0.1"
    port: Port = 11113
    ae_title: AeTitle = "MDM"
    allowed_calling_ae_titles: tuple[AeTitle, ...] = Field(min_length=1)


class KeystoreSettings(Section):
    """One keystore server."""

    name: str
    index: Annotated[int, Field(ge=1, le=16)]
    addresses: tuple[str, ...] = Field(min_length=1)


class GridSettings(Section):
    """The grid services, in the format of a client configuration."""

    certificate: Path
    key: Path
    ca: Path
    catalog: tuple[str, ...] = Field(min_length=1)
    metadata: tuple[str, ...] = Field(min_length=1)
    threshold: Annotated[int, Field(ge=2, le=16)] = 2
    keystores: tuple[KeystoreSettings, ...] = Field(min_length=2)
    srm: dict[str, tuple[str, ...]] = Field(default_factory=dict)


class AclSettings(Section):
    """What the ACLs that this site creates start with; later grants are not undone."""

    study: AclEntries = ()
    directory: AclEntries = (AclEntrySettings(principal="authenticated", permissions="x"),)
    collection: AclEntries = (AclEntrySettings(principal="authenticated", permissions="rx"),)
    patients: AclEntries = ()


class RegistrationSettings(Section):
    """Registration workers. A worker killed in the middle is replaced when its lease ends."""

    attributes_file: Path | None = None
    workers: Annotated[int, Field(ge=1, le=64)] = 2
    max_attempts: Annotated[int, Field(ge=1)] = 20
    batch: Annotated[int, Field(ge=1, le=1000)] = 200
    lease_seconds: Annotated[int, Field(ge=3)] = 15


class DeidSettings(Section):
    """De-identification: profile and pixel rules by the name of those that are shipped, or a file; no pixel rules by default."""

    profile: str = "basic"
    pixel_rules: str = ""
    self_check: bool = True


class PatientIdSettings(Section):
    """Which differences of Patient IDs do not make another patient: between instances of one study, and anywhere."""

    ignored_in_study: tuple[Literal["leading-zeros", "blanks", "case", "absent-id", "absent-issuer", "issuer"], ...] = (
        "leading-zeros",
        "blanks",
        "case",
        "absent-id",
        "absent-issuer",
    )
    ignored: tuple[Literal["issuer", "leading-zeros", "blanks", "case"], ...] = ()


class Settings(ServiceSettings):
    """Everything that dicom-srm is configured with."""

    unshared: ClassVar[str] = "storage SCP, spool and staging requests belong to one process"

    site: Name
    vo: Name
    authority: Name
    site_secret_file: Path
    pacs: PacsSettings
    scp: ScpSettings
    spool: SpoolSettings
    grid: GridSettings
    acl: AclSettings = AclSettings()
    registration: RegistrationSettings = RegistrationSettings()
    deid: DeidSettings = DeidSettings()
    patient_id: PatientIdSettings = PatientIdSettings()
