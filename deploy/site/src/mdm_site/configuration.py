"""Configuration files of the services and clients of a site, wherever they run."""

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Protocol

from mdm_site import site
from mdm_site.file import to_toml, write_file
from mdm_site.pacs import MDM_AE_TITLE, Pacs
from mdm_site.site import BY_NAME, CURATOR, DICOM_SRM, KEYSTORES, MONITOR, OPERATOR, THRESHOLD, VO, OtherSite, Service, collection, subject

Document = dict[str, object]


class Topology(Protocol):
    """Paths and addresses, as seen by the service that reads the configuration."""

    @property
    def name(self) -> str:
        """The site's name."""

    @property
    def organisation(self) -> str:
        """The organisation (O=) in the DNs that the site's CA issues."""

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

    def instances(self, caller: str) -> list[str]:
        """Return host:port at which `caller` reaches each instance of dicom-srm, the first one's first."""

    def pacs(self) -> Pacs:
        """Return the PACS and its addresses for dicom-srm."""

    def scp(self) -> tuple[str, int]:
        """Return host and port on which dicom-srm's Storage SCP listens."""

    def forwarder_status(self) -> PurePath:
        """Return the file in which the PACS's forwarder reports to dicom-srm."""

    def curators(self) -> tuple[str, int]:
        """Return where dicom-srm's listener for curators listens."""

    def curator_addresses(self) -> list[str]:
        """Return host:port of each at which curators reach one."""

    def door(self) -> tuple[str, int]:
        """Return where dicom-srm's HTTPS door listens."""

    def spool(self) -> PurePath:
        """Return dicom-srm's spool."""

    def results(self) -> PurePath:
        """Return dicom-srm's space for results, which all of its instances share."""


def of_service(topology: Topology, service: Service) -> Document:
    """Return the configuration of a service."""
    common = _common(topology, service)
    if service == DICOM_SRM:
        common["roles"] = {**_roles(topology), "curator": [subject(topology.organisation, CURATOR)]}
        return {**_names(topology), **common, **_dicom_srm(topology)}
    if service.name == "metadata":
        return {**common, **_specific(topology, service), **_copies(topology)}
    return {**common, **_specific(topology, service)}


def of_client(topology: Topology, name: str) -> Document:
    """Return the client configuration of a user."""
    own = topology.address(BY_NAME["metadata"], name)
    srm = {topology.name: topology.instances(name)}
    curator = {"curator": {topology.name: topology.curator_addresses()}} if name == CURATOR else {}
    return {**_connections(topology, name), "srm": srm, **curator, **_metadata_sites(topology, [own])}


def _connections(topology: Topology, name: str) -> Document:
    """Return the addresses of the site's own services, for a user or dicom-srm."""

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
    }


def write_trust(topology: Topology, directory: Path, members: Sequence[Sequence[str]]) -> None:
    """Write `groups.toml` and `banned` into a directory, unless they are there.

    `members` are the common names of the site's researchers, stewards and physicians.
    """
    if not (directory / "groups.toml").exists():
        named = zip(site.groups(topology.name), members, strict=True)
        document = {"groups": {group: [subject(topology.organisation, name) for name in names] for group, names in named}}
        write_file(directory / "groups.toml", to_toml(document).encode())
    if not (directory / "banned").exists():
        text = f"# One subject a line, such as CN=mallory,O={topology.organisation}; read again when it changes.\n"
        write_file(directory / "banned", text.encode())


def _acl(name: str) -> Document:
    """Return the initial ACLs of dicom-srm: researchers read de-identified data, physicians also the patients' identities."""
    researchers, stewards, physicians = site.groups(name)
    return {
        "study": (
            {"principal": f"group:{researchers}", "permissions": "rlxg"},
            {"principal": f"group:{stewards}", "permissions": "plxg"},
            {"principal": f"group:{physicians}", "permissions": "rlxg"},
        ),
        "directory": (
            {"principal": "authenticated", "permissions": "x"},
            *({"principal": f"group:{group}", "permissions": "lxg"} for group in site.groups(name)),
        ),
        "collection": (
            {"principal": "authenticated", "permissions": "rx"},
            *({"principal": f"group:{group}", "permissions": "lg"} for group in (researchers, physicians)),
        ),
        "patients": ({"principal": f"group:{physicians}", "permissions": "rlxg"},),
        "results": (
            {"principal": "authenticated", "permissions": "x"},
            *({"principal": f"group:{group}", "permissions": "wlxg"} for group in (researchers, physicians)),
        ),
    }


def _metadata_sites(topology: Topology, own: list[str]) -> Document:
    """Return the sections for `mdm query --sites`, if other sites' metadata is known."""
    found = {other.name: list(other.metadata) for other in topology.others() if other.metadata}
    return {"metadata_sites": {topology.name: own, **found}} if found else {}


def _copies(topology: Topology) -> Document:
    """Return the metadata service's sections about other sites: which copy metadata from here, and what is copied here."""
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
        "roles": _roles(topology),
        "database": topology.database(service),
    }


def _roles(topology: Topology) -> Document:
    """Return the roles that every service knows."""
    return {
        "operator": [subject(topology.organisation, OPERATOR)],
        "monitor": [subject(topology.organisation, MONITOR)],
        "service.dicom-srm": [subject(topology.organisation, DICOM_SRM.name)],
        "peer.keystore": [subject(topology.organisation, f"keystore-{letter}") for letter in KEYSTORES],
        "peer.metadata": [subject(other.organisation, "metadata") for other in topology.others() if other.copies_us],
    }


def _specific(topology: Topology, service: Service) -> Document:
    """Return the sections that only this service has. At the roots, dicom-srm may create, and everyone may traverse."""
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
    pacs = topology.pacs()
    link: Document = {
        "ae_title": pacs.ae_title,
        "host": pacs.host,
        "port": pacs.port,
        "calling_ae_title": MDM_AE_TITLE,
        "retrieve": ["wado-rs", "c-get"] if pacs.dicomweb else ["c-get"],
    }
    if pacs.dicomweb and pacs.password_file:
        link |= {"dicomweb_url": pacs.dicomweb, "dicomweb_user": pacs.user, "dicomweb_password_file": pacs.password_file}
    host, port = topology.scp()
    curator_host, curator_port = topology.curators()
    door_host, door_port = topology.door()
    return {
        "pacs": link,
        "scp": {
            "host": host,
            "port": port,
            "ae_title": MDM_AE_TITLE,
            "allowed_calling_ae_titles": [pacs.ae_title],
            "forwarder_status_file": topology.forwarder_status(),
        },
        "curator": {"host": curator_host, "port": curator_port},
        "door": {"host": door_host, "port": door_port},
        "spool": {"directory": topology.spool(), "quota_bytes": 2_000_000_000},
        "results": {"directory": topology.results(), "quota_bytes": 2_000_000_000, "keep_free_bytes": 0},
        "grid": _connections(topology, DICOM_SRM.name),
        "acl": _acl(topology.name),
        "deid": {"profile": "research"},  # sex, age and shifted dates stay, so that there is something to query
    }
