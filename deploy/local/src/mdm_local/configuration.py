"""Configuration files of the services and clients of a stack."""

from collections.abc import Callable, Mapping
from pathlib import Path

from mdm_local import credential, toml
from mdm_local.component import AUTHORITY, DICOM_SRM, GRID, KEYSTORES, SCP, SITE, THRESHOLD, VO, Service
from mdm_local.layout import USERS, Layout
from mdm_local.pacs.kind import HTTP_USER, MDM_AE_TITLE, Pacs

HOST = "127.0.0.1"
_NEURO, _STEWARDS, _PHYSICIANS = (f"group:/{VO}/{name}" for name in ("neuro", f"{SITE}/stewards", f"{SITE}/physicians"))
#: What dicom-srm's ACLs start with: researchers of /biomed/neuro read what is de-identified, physicians also who the patients are.
ACL = {
    "study": (
        {"principal": _NEURO, "permissions": "rlxg"},
        {"principal": _STEWARDS, "permissions": "plxg"},
        {"principal": _PHYSICIANS, "permissions": "rlxg"},
    ),
    "directory": (
        {"principal": "authenticated", "permissions": "x"},
        *({"principal": group, "permissions": "lxg"} for group in (_NEURO, _STEWARDS, _PHYSICIANS)),
    ),
    "collection": (
        {"principal": "authenticated", "permissions": "rx"},
        *({"principal": group, "permissions": "lg"} for group in (_NEURO, _PHYSICIANS)),
    ),
    "patients": ({"principal": _PHYSICIANS, "permissions": "rlxg"},),
}


class Configuration:
    """Writes the files of one stack from its layout and ports. `conninfo(name)` gives a database's connection string."""

    def __init__(self, layout: Layout, ports: Mapping[str, int], pacs: Pacs, conninfo: Callable[[str], str]) -> None:
        self._layout, self._ports, self._pacs, self._conninfo = layout, ports, pacs, conninfo
        self._ca = credential.authority(layout)

    def write(self) -> None:
        """Write the configuration of every service and every user."""
        for service in GRID:
            self._write(self._layout.config(service.name), {**self._specific(service), **self._common(service)})
        self._write(self._layout.config(DICOM_SRM.name), {**self._plain_of_dicom_srm(), **self._common(DICOM_SRM), **self._dicom_srm()})
        for user in USERS:
            self._write(self._layout.client(user), self._client(user))

    def _write(self, path: Path, document: Mapping[str, object]) -> None:
        scratch = path.with_suffix(".new")
        scratch.write_text(toml.dumps(document))
        scratch.replace(path)

    def _common(self, service: Service) -> dict[str, object]:
        ca = {"certificate": self._ca.certificate_file, "namespaces": [self._ca.namespace], "crl": self._ca.crl_file}
        return {
            "listen": {"host": HOST, "port": self._ports[service.name]},
            "tls": self._identity(service.certificate),
            "trust": {"ca": [ca], "ban_list": self._layout.ban_list},
            "groups": {"file": self._layout.groups_file},
            "roles": {
                "operator": [self._ca.subject("operator")],
                "service.dicom-srm": [self._ca.subject(DICOM_SRM.certificate)],
                "peer.keystore": [self._ca.subject(f"keystore-{letter}") for letter in KEYSTORES],
            },
            "database": {"conninfo": self._conninfo(service.database), "pool_min": 1, "pool_max": 8},
        }

    def _specific(self, service: Service) -> dict[str, object]:
        """Return the sections that only this service has; at the roots, dicom-srm may create and everyone may pass through."""
        operator, dicom_srm = self._ca.subject("operator"), "dn:" + self._ca.subject(DICOM_SRM.certificate)
        if service.name in ("catalog", "metadata"):
            entries = ({"principal": "authenticated", "permissions": "x"}, {"principal": dicom_srm, "permissions": "wxlg"})
            return {"root": {"owner": operator, "entries": entries}}
        letter = service.name.removeprefix("keystore-")
        return {"keystore": {"name": letter, "index": KEYSTORES.index(letter) + 1, "kek_file": self._layout.secret(f"kek-{letter}")}}

    def _plain_of_dicom_srm(self) -> dict[str, object]:
        return {"site": SITE, "vo": VO, "authority": AUTHORITY, "site_secret_file": self._layout.secret("site-secret")}

    def _dicom_srm(self) -> dict[str, object]:
        pacs: dict[str, object] = {
            "ae_title": self._pacs.ae_title,
            "host": self._pacs.host,
            "port": self._pacs.port,
            "calling_ae_title": MDM_AE_TITLE,
            "retrieve": ["wado-rs", "c-get"] if self._pacs.dicomweb else ["c-get"],
        }
        if self._pacs.dicomweb and self._pacs.password_file:
            pacs["dicomweb_url"] = self._pacs.dicomweb
            pacs["dicomweb_user"] = HTTP_USER
            pacs["dicomweb_password_file"] = self._pacs.password_file
        scp = {
            "host": HOST,
            "port": self._ports[SCP],
            "ae_title": MDM_AE_TITLE,
            "allowed_calling_ae_titles": [self._pacs.ae_title],
        }
        spool = {"directory": self._layout.spool, "quota_bytes": 2_000_000_000}
        deid = {"profile": "research"}  # sex, age and shifted dates stay, so that there is something to query
        return {"pacs": pacs, "scp": scp, "spool": spool, "grid": self._client(DICOM_SRM.certificate), "acl": ACL, "deid": deid}

    def _client(self, name: str) -> dict[str, object]:
        def address(service: str) -> list[str]:
            return [f"{HOST}:{self._ports[service]}"]

        return {
            **self._identity(name),
            "catalog": address("catalog"),
            "metadata": address("metadata"),
            "threshold": THRESHOLD,
            "keystores": [
                {"name": letter, "index": index, "addresses": address(f"keystore-{letter}")} for index, letter in enumerate(KEYSTORES, 1)
            ],
            "srm": {AUTHORITY: address(DICOM_SRM.name)},
        }

    def _identity(self, name: str) -> dict[str, object]:
        return {"certificate": self._layout.pki / f"{name}.crt", "key": self._layout.pki / f"{name}.key", "ca": self._ca.certificate_file}
