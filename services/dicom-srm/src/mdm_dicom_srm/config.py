"""Settings of dicom-srm, validated before anything opens."""

import os
import re
import socket
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from mdm_service.access.acl import AclEntries, AclEntrySettings
from mdm_service.settings import Section, ServiceSettings
from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")]
# A label of DNS, as it stands in tokens.
InstanceName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0)]
Patterns = tuple[Annotated[str, StringConstraints(min_length=1, max_length=256)], ...]
AeTitle = Annotated[str, StringConstraints(pattern=r"^[\x21-\x5b\x5d-\x7e]([\x20-\x5b\x5d-\x7e]{0,14}[\x21-\x5b\x5d-\x7e])?$")]
PacsName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,30}$")]
Way = Literal["wado-rs", "c-move", "c-get"]
#: The name of the one PACS of a site that gives it none.
ONLY = "pacs"


class ClientTlsSettings(Section):
    """TLS towards a PACS: whom we trust, and our certificate where the PACS demands one."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None
    check_hostname: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> "ClientTlsSettings":
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        return self


class ServerTlsSettings(Section):
    """TLS of the Storage SCP: its certificate, and the authority of the certificates that callers must have."""

    ca: Path
    certificate: Path
    key: Path


def _host_name() -> str:
    """Return the first label of the machine's name, as the name of an instance."""
    label = re.sub("[^a-z0-9-]", "-", socket.gethostname().partition(".")[0].lower()).strip("-")[:63]
    return label.strip("-") or "dicom-srm"


class PacsSettings(Section):
    """A PACS of the hospital and how to retrieve from it."""

    name: PacsName = ONLY
    ae_title: AeTitle
    host: str
    port: Annotated[int, Field(ge=1, le=65535)]
    calling_ae_title: AeTitle = "MDM"
    forwards_as: tuple[AeTitle, ...] = ()
    tls: ClientTlsSettings | None = None
    dicomweb_url: str = ""
    dicomweb_user: str = ""
    dicomweb_password_file: Path | None = None
    dicomweb_token_file: Path | None = None
    dicomweb_tls: ClientTlsSettings | None = None
    retrieve: tuple[Way, ...] = ("wado-rs", "c-get")
    timeout_seconds: Seconds = 60.0
    idle_seconds: Seconds = 10.0
    retrievals: Annotated[int, Field(ge=1, le=64)] = 4
    max_instance_bytes: Annotated[int, Field(ge=1024 * 1024)] = 4 * 1024**3

    @model_validator(mode="after")
    def _consistent(self) -> "PacsSettings":
        if not self.retrieve:
            raise ValueError("retrieve must name at least one of wado-rs, c-move, c-get")
        if "wado-rs" in self.retrieve and not self.dicomweb_url:
            raise ValueError("retrieve names wado-rs, so dicomweb_url is needed")
        if self.dicomweb_token_file is not None and self.dicomweb_user:
            raise ValueError("dicomweb_user and dicomweb_token_file exclude each other")
        if self.dicomweb_tls is not None and not self.dicomweb_url.startswith("https://"):
            raise ValueError("dicomweb_tls needs a dicomweb_url that begins with https://")
        return self


def listed(tables: object) -> object:
    """Return the tables `[[pacs]]`; a single table `[pacs]` is one of them."""
    return (tables,) if isinstance(tables, dict) else tables


def check_names(pacs: tuple[PacsSettings, ...]) -> tuple[PacsSettings, ...]:
    """Return the tables, each with a name and AE titles of its own.

    Raises:
        ValueError: they have not.
    """
    names = [one.name for one in pacs]
    if len(set(names)) < len(names):
        raise ValueError("every [[pacs]] needs a name of its own")
    titles = [title for one in pacs for title in {one.ae_title, *one.forwards_as}]
    if len(set(titles)) < len(titles):
        raise ValueError("an AE title belongs to one [[pacs]]: by it registration knows where an instance comes from")
    return pacs


class ScpSettings(Section):
    """The Storage SCP that the PACS auto-forwards to."""

    host: str = "127.0.0.1"
    port: Port = 11113
    ae_title: AeTitle = "MDM"
    forwarder_status_file: Path | None = None
    allowed_calling_ae_titles: tuple[AeTitle, ...] = Field(min_length=1)
    tls: ServerTlsSettings | None = None


class SpoolSettings(Section):
    """Staged ciphertext on disk, and how it gets there."""

    directory: Path
    quota_bytes: Annotated[int, Field(gt=0)] = 50_000_000_000
    keep_free_bytes: Annotated[int, Field(ge=0)] = 0
    default_pin_seconds: Annotated[int, Field(gt=0)] = 259_200
    max_pin_seconds: Annotated[int, Field(gt=0)] = 1_814_400
    request_seconds: Annotated[int, Field(gt=0)] = 3600
    max_request_seconds: Annotated[int, Field(gt=0)] = 86_400
    retention_seconds: Seconds = 3600
    stall_seconds: Seconds = 120
    recheck_seconds: Seconds = 60
    lost_seconds: Annotated[float, Field(ge=3)] = 10
    retrievals: Annotated[int, Field(ge=1, le=64)] = 2
    processes: Annotated[int, Field(ge=0, le=256)] | None = None  # see `processes_of`
    bytes_in_flight: Annotated[int, Field(gt=0)] = 64 * 1024 * 1024
    files_per_caller: Annotated[int, Field(gt=0)] = 100_000

    def processes_of(self, workers: int) -> int:
        """Return how many sealing processes each of `workers` has: what is set, or together as many as the machine has cores for us."""
        return max(1, len(os.sched_getaffinity(0)) // max(1, workers)) if self.processes is None else self.processes

    @model_validator(mode="after")
    def _consistent(self) -> "SpoolSettings":
        if self.default_pin_seconds > self.max_pin_seconds:
            raise ValueError("default_pin_seconds is above max_pin_seconds")
        if self.request_seconds > self.max_request_seconds:
            raise ValueError("request_seconds is above max_request_seconds")
        return self


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


class AclSettings(Section):
    """What the ACLs that this site creates start with; later grants are not undone."""

    study: AclEntries = ()
    directory: AclEntries = (AclEntrySettings(principal="authenticated", permissions="x"),)
    collection: AclEntries = (AclEntrySettings(principal="authenticated", permissions="rx"),)
    patients: AclEntries = ()
    results: AclEntries = ()


class PolicyRuleSettings(Section):
    """Registers or leaves out what meets every condition that is given; see `PolicyRule`."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    action: Literal["register", "leave-out"]
    modalities: Patterns = ()
    sop_classes: Patterns = ()
    stations: Patterns = ()
    calling_ae_titles: Patterns = ()
    study_descriptions: Patterns = ()
    series_descriptions: Patterns = ()
    since: date | None = None
    until: date | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "PolicyRuleSettings":
        if self.since and self.until and self.since > self.until:
            raise ValueError("since is after until")
        return self


class PolicySettings(Section):
    """What the site registers: the first rule that matches decides, else `register_others`."""

    register_others: bool = True
    rules: tuple[PolicyRuleSettings, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> "PolicySettings":
        names = [rule.name for rule in self.rules]
        if len(set(names)) < len(names) or "default" in names:
            raise ValueError("every rule needs a name of its own, and none is called default")
        return self


class ScanSettings(Section):
    """Scans by schedule; 0 means never."""

    every_minutes: Annotated[float, Field(ge=0)] = 0
    days: Annotated[int, Field(ge=0, le=36_500)] = 7
    all_every_hours: Annotated[float, Field(ge=0)] = 0


class RegistrationSettings(Section):
    """Registration workers. A worker killed in the middle is replaced when its lease ends."""

    attributes_file: Path | None = None
    workers: Annotated[int, Field(ge=1, le=64)] = 2
    max_attempts: Annotated[int, Field(ge=1)] = 20
    batch: Annotated[int, Field(ge=1, le=1000)] = 200
    lease_seconds: Annotated[int, Field(ge=3)] = 15
    arrivals_bytes: Annotated[int, Field(ge=1 << 20)] = 256 << 20
    inspectors: Annotated[int, Field(ge=1, le=64)] = 4
    gone_after_seconds: Annotated[float, Field(ge=0)] = 600
    scan: ScanSettings = ScanSettings()
    policy: PolicySettings = PolicySettings()
    policy_file: Path | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "RegistrationSettings":
        if self.policy_file is not None and self.policy != PolicySettings():
            raise ValueError("policy and policy_file exclude each other")
        return self


class TextSettings(Section):
    """The search for text in pixels: what follows from it, and in which images that no header makes suspect it looks, too."""

    policy: Literal["propose", "blank-and-hold", "blank-and-release"] = "propose"
    modalities: tuple[Annotated[str, StringConstraints(pattern=r"^[A-Z0-9_ ]{1,16}$")], ...] = ()
    processes: Annotated[int, Field(ge=1, le=64)] = 1
    seconds: Annotated[float, Field(gt=0, le=3600)] = 120.0
    memory_bytes: Annotated[int, Field(ge=2 * 1024**3)] = 6 * 1024**3

    @property
    def looks_unasked(self) -> bool:
        """Whether images are looked at without a curator's asking."""
        return self.policy != "propose" or bool(self.modalities)


class FaceSettings(Section):
    """Masks of faces, where the profile asks for them: a series is whole when the PACS has had the same images for `quiet_seconds`."""

    quiet_seconds: Annotated[float, Field(ge=0, le=86_400)] = 30.0


class DeidSettings(Section):
    """De-identification: profile and pixel rules by the name of those that are shipped, or a file; no pixel rules by default."""

    profile: str = "basic"
    pixel_rules: str = ""
    self_check: bool = True
    text: TextSettings = TextSettings()
    faces: FaceSettings = FaceSettings()


class CuratorSettings(Section):
    """The listener for curators: an address of the hospital's side."""

    host: str
    port: Port
    threads: Annotated[int, Field(ge=2, le=64)] = 8


HttpsUrl = Annotated[str, StringConstraints(pattern=r"^https://[A-Za-z0-9.:\[\]-]{1,262}/?$")]


class DoorSettings(Section):
    """The HTTPS door. `url` is where callers reach it; without one, what their header Host says. `instances` are other instances' doors."""

    host: str = "127.0.0.1"
    port: Port
    url: HttpsUrl | Literal[""] = ""
    instances: dict[InstanceName, HttpsUrl] = Field(default_factory=dict)
    pin_seconds: Annotated[int, Field(gt=0)] = 3600
    threads: Annotated[int, Field(ge=2, le=256)] = 16
    requests_per_caller: Annotated[int, Field(ge=1)] = 64


class ReconcileSettings(Section):
    """How often the site is compared with catalog, metadata, keystores and spool, and what may be repaired of what differs."""

    every_hours: Annotated[float, Field(ge=0)] = 24.0
    repair: bool = False
    max_repairs: Annotated[int, Field(ge=1)] = 100
    max_share: Annotated[float, Field(gt=0, le=1)] = 0.05
    min_age_seconds: Annotated[float, Field(ge=0)] = 3600.0


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


class S3Settings(Section):
    """A bucket; without `endpoint`, that of AWS in `region`."""

    bucket: Annotated[str, StringConstraints(min_length=3, max_length=63)]
    prefix: str = ""
    endpoint: str = ""
    region: str = "us-east-1"
    access_key_file: Path
    secret_key_file: Path
    ca: Path | None = None
    part_bytes: Annotated[int, Field(ge=5 * 1024**2, le=1024**3)] = 16 * 1024**2


class QuotaSettings(Section):
    """How much the members of a group may have together."""

    group: Annotated[str, StringConstraints(pattern=r"^/")]
    quota_bytes: Annotated[int, Field(ge=0)]


class ResultsSettings(Section):
    """The space for results: a directory that all instances share, or a bucket; who is in no group of `quotas` has `quota_bytes`."""

    directory: Path | None = None
    s3: S3Settings | None = None
    quota_bytes: Annotated[int, Field(ge=0)] = 10_000_000_000
    quotas: tuple[QuotaSettings, ...] = ()
    keep_free_bytes: Annotated[int, Field(ge=0)] = 1_000_000_000
    max_file_bytes: Annotated[int, Field(gt=0)] = 1024**4
    abandon_seconds: Seconds = 86_400
    sweep_seconds: Seconds = 600
    gone_after_seconds: Annotated[float, Field(ge=0)] = 86_400

    @model_validator(mode="after")
    def _consistent(self) -> "ResultsSettings":
        if (self.directory is None) == (self.s3 is None):
            raise ValueError("either directory or s3 says where results are kept")
        if len({item.group for item in self.quotas}) < len(self.quotas):
            raise ValueError("a group has at most one quota")
        return self


class Settings(ServiceSettings):
    """Everything that dicom-srm is configured with."""

    site: Name
    vo: Name
    authority: Name
    instance: InstanceName = Field(default_factory=_host_name)
    site_secret_file: Path
    pacs: Annotated[tuple[PacsSettings, ...], BeforeValidator(listed), AfterValidator(check_names), Field(min_length=1)]
    scp: ScpSettings
    spool: SpoolSettings
    grid: GridSettings
    acl: AclSettings = AclSettings()
    registration: RegistrationSettings = RegistrationSettings()
    deid: DeidSettings = DeidSettings()
    patient_id: PatientIdSettings = PatientIdSettings()
    curator: CuratorSettings | None = None
    door: DoorSettings | None = None
    results: ResultsSettings | None = None
    reconcile: ReconcileSettings = ReconcileSettings()

    @property
    def retrieves_by_c_move(self) -> bool:
        """Whether a PACS is to send to the Storage SCP what is retrieved."""
        return any("c-move" in pacs.retrieve for pacs in self.pacs)
