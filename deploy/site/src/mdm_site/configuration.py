"""Configuration files of the services and clients of a site, wherever they run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Protocol

from mdm_service import dn

from mdm_site.service import AUTHORITY, BY_NAME, DICOM_SRM, KEYSTORES, SITE, THRESHOLD, VO, Service

Document = dict[str, object]

MDM_AE_TITLE = "MDM"
OPERATOR, MONITOR = "operator", "monitor"

_NEURO, _STEWARDS, _PHYSICIANS = GROUPS = (f"/{VO}/neuro", f"/{VO}/{SITE}/stewards", f"/{VO}/{SITE}/physicians")
#: What dicom-srm's ACLs start with: researchers of /biomed/neuro read what is de-identified, physicians also who the patients are.
ACL = {
    "study": (
        {"principal": f"group:{_NEURO}", "permissions": "rlxg"},
        {"principal": f"group:{_STEWARDS}", "permissions": "plxg"},
        {"principal": f"group:{_PHYSICIANS}", "permissions": "rlxg"},
    ),
    "directory": (
        {"principal": "authenticated", "permissions": "x"},
        *({"principal": f"group:{group}", "permissions": "lxg"} for group in GROUPS),
    ),
    "collection": (
        {"principal": "authenticated", "permissions": "rx"},
        *({"principal": f"group:{group}", "permissions": "lg"} for group in (_NEURO, _PHYSICIANS)),
    ),
    "patients": ({"principal": f"group:{_PHYSICIANS}", "permissions": "rlxg"},),
}
#: Who is in which group where the users of the demonstration are wanted: mallory is in none.
DEMONSTRATION_GROUPS = {_NEURO: ("alice",), _STEWARDS: ("alice",), _PHYSICIANS: ("carol",)}
DEMONSTRATION_USERS = ("alice", "carol", "mallory")


@dataclass(frozen=True)
class PacsLink:
    """How dicom-srm reaches the PACS; `dicomweb` is empty where there is none."""

    ae_title: str
    host: str
    port: int
    dicomweb: str = ""
    dicomweb_user: str = ""
    dicomweb_password_file: PurePath | None = None


class Topology(Protocol):
    """Where everything is, as the service sees it that reads the configuration."""

    organisation: str

    def listen(self, service: Service) -> Document:
        """Return the section `listen`."""

    def metrics(self, service: Service) -> Document:
        """Return the section `metrics`."""

    def identity(self, name: str) -> Document:
        """Return certificate, key and ca of a service or user."""

    def trust(self, name: str) -> PurePath:
        """Return the path of ca.crt, ca.crl, groups.toml or banned."""

    def secret(self, service: Service, name: str) -> PurePath:
        """Return the path of a service's secret."""

    def database(self, service: Service) -> Document:
        """Return the section `database`."""

    def address(self, service: Service, caller: str) -> str:
        """Return host:port at which `caller`, a service or user, reaches a service."""

    def pacs(self) -> PacsLink:
        """Return the way to the PACS."""

    def scp(self) -> tuple[str, int]:
        """Return where dicom-srm's Storage SCP listens."""

    def spool(self) -> PurePath:
        """Return dicom-srm's spool."""


def subject(organisation: str, common_name: str) -> str:
    """Return the canonical DN of a service or user of the site's authority."""
    return dn.canonical(f"/O={organisation}/CN={common_name}")


def of_service(topology: Topology, service: Service) -> Document:
    """Return the configuration of a service."""
    common = _common(topology, service)
    if service == DICOM_SRM:
        return {**_names(topology), **common, **_dicom_srm(topology)}
    return {**common, **_specific(topology, service)}


def of_client(topology: Topology, name: str) -> Document:
    """Return the client configuration of a user, or of a service that calls others."""

    def address(service: str) -> list[str]:
        return [topology.address(BY_NAME[service], name)]

    return {
        **topology.identity(name),
        "catalog": address("catalog"),
        "metadata": address("metadata"),
        "threshold": THRESHOLD,
        "keystores": [
            {"name": letter, "index": index, "addresses": address(f"keystore-{letter}")} for index, letter in enumerate(KEYSTORES, 1)
        ],
        "srm": {AUTHORITY: address(DICOM_SRM.name)},
    }


def groups(organisation: str, members: Mapping[str, tuple[str, ...]]) -> Document:
    """Return a membership file from groups and the common names of their members."""
    return {"groups": {group: [subject(organisation, name) for name in names] for group, names in members.items()}}


def _common(topology: Topology, service: Service) -> Document:
    ca = {"certificate": topology.trust("ca.crt"), "namespaces": [f"O={topology.organisation}"], "crl": topology.trust("ca.crl")}
    return {
        "listen": topology.listen(service),
        "metrics": topology.metrics(service),
        "tls": topology.identity(service.name),
        "trust": {"ca": [ca], "ban_list": topology.trust("banned")},
        "groups": {"file": topology.trust("groups.toml")},
        "roles": {
            "operator": [subject(topology.organisation, OPERATOR)],
            "monitor": [subject(topology.organisation, MONITOR)],
            "service.dicom-srm": [subject(topology.organisation, DICOM_SRM.name)],
            "peer.keystore": [subject(topology.organisation, f"keystore-{letter}") for letter in KEYSTORES],
        },
        "database": topology.database(service),
    }


def _specific(topology: Topology, service: Service) -> Document:
    """Return the sections that only this service has; at the roots, dicom-srm may create and everyone may pass through."""
    if service.name in ("catalog", "metadata"):
        dicom_srm = "dn:" + subject(topology.organisation, DICOM_SRM.name)
        entries = ({"principal": "authenticated", "permissions": "x"}, {"principal": dicom_srm, "permissions": "wxlg"})
        return {"root": {"owner": subject(topology.organisation, OPERATOR), "entries": entries}}
    letter = service.name.removeprefix("keystore-")
    peers = [
        {
            "index": index,
            "address": topology.address(BY_NAME[f"keystore-{other}"], service.name),
            "subject": subject(topology.organisation, f"keystore-{other}"),
        }
        for index, other in enumerate(KEYSTORES, 1)
        if other != letter
    ]
    section = {"name": letter, "index": KEYSTORES.index(letter) + 1, "kek_file": topology.secret(service, "kek"), "peers": peers}
    return {"keystore": section}


def _names(topology: Topology) -> Document:
    return {"site": SITE, "vo": VO, "authority": AUTHORITY, "site_secret_file": topology.secret(DICOM_SRM, "site-secret")}


def _dicom_srm(topology: Topology) -> Document:
    link = topology.pacs()
    pacs: Document = {
        "ae_title": link.ae_title,
        "host": link.host,
        "port": link.port,
        "calling_ae_title": MDM_AE_TITLE,
        "retrieve": ["wado-rs", "c-get"] if link.dicomweb else ["c-get"],
    }
    if link.dicomweb and link.dicomweb_password_file:
        pacs["dicomweb_url"] = link.dicomweb
        pacs["dicomweb_user"] = link.dicomweb_user
        pacs["dicomweb_password_file"] = link.dicomweb_password_file
    host, port = topology.scp()
    return {
        "pacs": pacs,
        "scp": {"host": host, "port": port, "ae_title": MDM_AE_TITLE, "allowed_calling_ae_titles": [link.ae_title]},
        "spool": {"directory": topology.spool(), "quota_bytes": 2_000_000_000},
        "grid": of_client(topology, DICOM_SRM.name),
        "acl": ACL,
        "deid": {"profile": "research"},  # sex, age and shifted dates stay, so that there is something to query
    }
