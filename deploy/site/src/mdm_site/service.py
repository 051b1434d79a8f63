"""The services of a site, in the order they start."""

from dataclasses import dataclass

VO = "biomed"
#: The name that a site has unless it is given another.
SITE = "hospital-a"
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


GRID = (
    Service("catalog", "mdm_catalog"),
    Service("metadata", "mdm_metadata"),
    *(Service(f"keystore-{letter}", "mdm_keystore") for letter in KEYSTORES),
)
DICOM_SRM = Service("dicom-srm", "mdm_dicom_srm")
SERVICES = (*GRID, DICOM_SRM)
BY_NAME = {service.name: service for service in SERVICES}
