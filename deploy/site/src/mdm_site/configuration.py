"""Configuration files of the services and clients of a site, wherever they run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Protocol

from mdm_wire import dn

from mdm_site.service import BY_NAME, DICOM_SRM, KEYSTORES, THRESHOLD, VO, Service

Document = dict[str, object]

MDM_AE_TITLE = "MDM"
OPERATOR, MONITOR = "operator", "monitor"

#: Who is a researcher, steward and physician where the users of the demonstration are wanted: mallory is nothing.
DEMONSTRATION_MEMBERS = (("alice",), ("alice",), ("carol",))
NO_MEMBERS: tuple[tuple[str, ...], ...] = ((), (), ())
DEMONSTRATION_USERS = ("alice", "carol", "mallory")
#: Below the name of a site, of its metadata. The first is copied by other sites, the other one never.
IMAGES, PATIENTS = "images", "patients"


@dataclass(frozen=True)
class PacsLink:
    """How dicom-srm reaches the PACS; `dicomweb` is empty where there is none."""

    ae_title: str
    host: str
    port: int
    dicomweb: str = ""
    dicomweb_user: str = ""
    dicomweb_password_file: PurePath | None = None


@dataclass(frozen=True)
class OtherSite:
    """Another site: the files of its authority, the subjects below `organisation`, and where its metadata is."""

    name: str
    organisation: str
    certificate: PurePath
    crl: PurePath
    metadata: tuple[str, ...]
    copies_us: bool = False
    copied_here: bool = False


class Topology(Protocol):
    """Where everything is, as the service sees it that reads the configuration."""

    @property
    def name(self) -> str:
        """The site's name."""

    @property
    def organisation(self) -> str:
        """What the site's authority issues certificates below."""

    def others(self) -> Sequence[OtherSite]:
        """Return the other sites that this one knows."""

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


def collection(site: str, name: str = "") -> str:
    """Return the path of a site's collection of metadata, or of what is above all of them."""
    return f"/{VO}/{site}/{name}".rstrip("/")


def of_service(topology: Topology, service: Service) -> Document:
    """Return the configuration of a service."""
    common = _common(topology, service)
    if service == DICOM_SRM:
        return {**_names(topology), **common, **_dicom_srm(topology)}
    if service.name == "metadata":
        return {**common, **_specific(topology, service), **_copies(topology)}
    return {**common, **_specific(topology, service)}


def of_client(topology: Topology, name: str) -> Document:
    """Return the client configuration of a user."""
    own = topology.address(BY_NAME["metadata"], name)
    return {**_connections(topology, name), **_metadata_sites(topology, [own])}


def _connections(topology: Topology, name: str) -> Document:
    """Return where the site's own services are, for a user or a service that calls others."""

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
        "srm": {topology.name: address(DICOM_SRM.name)},
    }


def groups(topology: Topology, members: Sequence[Sequence[str]]) -> Document:
    """Return a membership file from the common names of the site's researchers, stewards and physicians."""
    named = zip(_groups(topology.name), members, strict=True)
    return {"groups": {group: [subject(topology.organisation, name) for name in names] for group, names in named}}


def _groups(site: str) -> tuple[str, str, str]:
    """Return the groups of researchers, which all sites share, and of the site's stewards and physicians."""
    return f"/{VO}/neuro", f"/{VO}/{site}/stewards", f"/{VO}/{site}/physicians"


def _acl(site: str) -> Document:
    """Return what dicom-srm's ACLs start with: researchers read what is de-identified, physicians also who the patients are."""
    researchers, stewards, physicians = _groups(site)
    return {
        "study": (
            {"principal": f"group:{researchers}", "permissions": "rlxg"},
            {"principal": f"group:{stewards}", "permissions": "plxg"},
            {"principal": f"group:{physicians}", "permissions": "rlxg"},
        ),
        "directory": (
            {"principal": "authenticated", "permissions": "x"},
            *({"principal": f"group:{group}", "permissions": "lxg"} for group in _groups(site)),
        ),
        "collection": (
            {"principal": "authenticated", "permissions": "rx"},
            *({"principal": f"group:{group}", "permissions": "lg"} for group in (researchers, physicians)),
        ),
        "patients": ({"principal": f"group:{physicians}", "permissions": "rlxg"},),
    }


def _metadata_sites(topology: Topology, own: list[str]) -> Document:
    """Return what `mdm query --sites` needs, where other sites' metadata is known."""
    found = {other.name: list(other.metadata) for other in topology.others() if other.metadata}
    return {"metadata_sites": {topology.name: own, **found}} if found else {}


def _copies(topology: Topology) -> Document:
    """Return the sections of the metadata service about other sites: who copies what from here, and what is copied here."""
    subscribers = [
        {"subject": subject(other.organisation, "metadata"), "subtrees": [collection(topology.name)]}
        for other in topology.others()
        if other.copies_us
    ]
    replicas = [
        {"origin": other.name, "addresses": list(other.metadata), "subtrees": [collection(other.name)], "ca": other.certificate}
        for other in topology.others()
        if other.copied_here
    ]
    return {**({"feed": {"subscribers": subscribers}} if subscribers else {}), **({"replicas": replicas} if replicas else {})}


def authority(organisation: str, certificate: PurePath, crl: PurePath) -> Document:
    """Return one of the tables `[[trust.ca]]`."""
    return {"certificate": certificate, "namespaces": [f"O={organisation}"], "crl": crl}


def _common(topology: Topology, service: Service) -> Document:
    authorities = [authority(topology.organisation, topology.trust("ca.crt"), topology.trust("ca.crl"))]
    if service.name == "metadata":  # the only one that other sites' users and services reach
        authorities += [authority(other.organisation, other.certificate, other.crl) for other in topology.others()]
    return {
        "listen": topology.listen(service),
        "metrics": topology.metrics(service),
        "tls": topology.identity(service.name),
        "trust": {"ban_list": topology.trust("banned"), "ca": authorities},
        "groups": {"file": topology.trust("groups.toml")},
        "roles": {
            "operator": [subject(topology.organisation, OPERATOR)],
            "monitor": [subject(topology.organisation, MONITOR)],
            "service.dicom-srm": [subject(topology.organisation, DICOM_SRM.name)],
            "peer.keystore": [subject(topology.organisation, f"keystore-{letter}") for letter in KEYSTORES],
            "peer.metadata": [subject(other.organisation, "metadata") for other in topology.others() if other.copies_us],
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
    return {"site": topology.name, "vo": VO, "authority": topology.name, "site_secret_file": topology.secret(DICOM_SRM, "site-secret")}


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
        "grid": _connections(topology, DICOM_SRM.name),
        "acl": _acl(topology.name),
        "deid": {"profile": "research"},  # sex, age and shifted dates stay, so that there is something to query
    }
