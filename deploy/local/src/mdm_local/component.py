"""What a stack consists of: the services, in the order they start."""

from dataclasses import dataclass

ORGANISATION = "MDM Local"
VO = "biomed"
SITE = "hospital-a"
AUTHORITY = SITE
KEYSTORES = ("a", "b", "c")
THRESHOLD = 2


@dataclass(frozen=True)
class Service:
    """One of our services: its name in commands and files, its program, its database and role."""

    name: str
    module: str

    @property
    def database(self) -> str:
        """Name of its database and of the role that owns it."""
        return "mdm_" + self.name.replace("-", "_")

    @property
    def certificate(self) -> str:
        """Common name of its certificate."""
        return self.name


GRID = (
    Service("catalog", "mdm_catalog"),
    Service("metadata", "mdm_metadata"),
    *(Service(f"keystore-{letter}", "mdm_keystore") for letter in KEYSTORES),
)
DICOM_SRM = Service("dicom-srm", "mdm_dicom_srm")
SERVICES = (*GRID, DICOM_SRM)

POSTGRES = "postgres"
PACS = "pacs"
FORWARDER = "pacs-forwarder"
SCP = "dicom-srm-scp"
PACS_HTTP = "pacs-http"

#: Everything that `start`, `stop` and `kill` know, in the order of starting.
COMPONENTS = (POSTGRES, PACS, *(service.name for service in SERVICES), FORWARDER)
#: Everything that listens on a TCP port, and the component that does.
LISTENERS = {**{service.name: service.name for service in SERVICES}, SCP: DICOM_SRM.name, PACS: PACS, PACS_HTTP: PACS}


def service_named(name: str) -> Service | None:
    """Return the service of that name, or None."""
    return next((service for service in SERVICES if service.name == name), None)
