"""A site: its name, services, groups and users, and the other sites that it knows."""

import re
from dataclasses import dataclass
from pathlib import PurePath

from mdm_wire import dn

VO = "biomed"
#: The name that a site has unless it is given another.
SITE = "hospital-a"
KEYSTORES = ("a", "b", "c")
THRESHOLD = 2
OPERATOR, MONITOR, CURATOR = "operator", "monitor", "curator"
#: The users of a demonstration, and which of them are researchers, stewards and physicians; mallory is in no group.
DEMONSTRATION_USERS = ("alice", "carol", "mallory")
DEMONSTRATION_MEMBERS = (("alice",), ("alice",), ("carol",))
#: Collections of metadata below the site's name. Other sites copy the first, never the second.
IMAGES, PATIENTS = "images", "patients"
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")
_ORGANISATION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9 .-]{0,62}[A-Za-z0-9.])?")


class SiteError(Exception):
    """A command cannot work on this site; the message says in one line what to do."""


@dataclass(frozen=True)
class Service:
    """One of our services: its name in commands and files, and its program.

    `of` names the service whose database and certificate it shares, where it is another instance of that one.
    """

    name: str
    module: str
    of: str = ""

    @property
    def database(self) -> str:
        """Name of its database and of the role that owns it."""
        return "mdm_" + (self.of or self.name).replace("-", "_")


GRID = (
    Service("catalog", "mdm_catalog"),
    Service("metadata", "mdm_metadata"),
    *(Service(f"keystore-{letter}", "mdm_keystore") for letter in KEYSTORES),
)
DICOM_SRM = Service("dicom-srm", "mdm_dicom_srm")
#: In the order of starting.
SERVICES = (*GRID, DICOM_SRM)
BY_NAME = {service.name: service for service in SERVICES}


@dataclass(frozen=True)
class OtherSite:
    """Another site: its organisation (O=), its authority's files, and the addresses of its metadata service."""

    name: str
    organisation: str
    certificate: PurePath
    crl: PurePath
    metadata: tuple[str, ...]
    copies_us: bool = False
    copied_here: bool = False


def check_names(name: str, organisation: str) -> None:
    """Check that a site's name and organisation can be used in paths, files and DNs.

    Raises:
        SiteError: they cannot; the message says what is allowed.
    """
    if not _NAME.fullmatch(name):
        raise SiteError(f"{name}: a site's name may contain only lower-case letters, digits, dots and hyphens")
    if not _ORGANISATION.fullmatch(organisation):
        raise SiteError(f"{organisation}: an organisation may contain only letters, digits, spaces, dots and hyphens, at most 64")


def subject(organisation: str, common_name: str) -> str:
    """Return the canonical DN of a service or user of the site's authority."""
    return dn.canonical(f"/O={organisation}/CN={common_name}")


def collection(site: str, name: str = "") -> str:
    """Return the path of a site's collection of metadata; without a name, of the one above all of them."""
    return f"/{VO}/{site}/{name}".rstrip("/")


def groups(site: str) -> tuple[str, str, str]:
    """Return the groups of researchers, which all sites share, and of the site's stewards and physicians."""
    return f"/{VO}/neuro", f"/{VO}/{site}/stewards", f"/{VO}/{site}/physicians"
