"""Upkeep of a site: revoking a certificate, adding a key-encryption key, lending an identity, adding another site."""

import os
import tomllib
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from mdm_site import configuration
from mdm_site.containers import ContainerSite
from mdm_site.file import new_key_encryption_key, to_toml, write_file
from mdm_site.site import DICOM_SRM, SiteError, check_names


def revoke(site: ContainerSite, name: str) -> None:
    """Put the current certificate of a service or user on the CRL, and rename it so that a new one can be issued.

    Raises:
        SiteError: the authority has issued no such certificate.
    """
    ca = site.ca
    certificate = ca.directory / f"{name}.crt"
    if not certificate.is_file():
        raise SiteError(f"{name}: this site's authority has not issued such a certificate")
    serial = x509.load_pem_x509_certificate(certificate.read_bytes()).serial_number
    ca.revoke_serials({*ca.revoked_serials(), serial})
    for kind in ("crt", "key"):
        (ca.directory / f"{name}.{kind}").replace(ca.directory / f"{name}-{serial:x}.revoked-{kind}")
    site.publish_revocations()
    site.hand_over()


def add_key_encryption_key(site: ContainerSite, keystore: str) -> Path:
    """Put a new key before the old ones: the keystore seals with the new one, the old ones still open. Return the file.

    Raises:
        SiteError: the site has no such keystore.
    """
    file = site.root / keystore / "kek"
    if not file.is_file():
        raise SiteError(f"{keystore}: no keystore of this site; there are keystore-a, keystore-b and keystore-c")
    write_file(file, new_key_encryption_key() + file.read_bytes(), private=True)
    site.hand_over()
    return file


def lend(site: ContainerSite, user: str, directory: Path) -> Path:
    """Copy a user's certificate and key to where containers can read them, with a client configuration for use in a container.

    Returns that configuration's path. Remove the directory after use.

    Raises:
        SiteError: the site has no such user, or no longer the user's certificate.
    """
    own = site.client(user).parent
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        for name, private in ((f"{user}.crt", False), (f"{user}.key", True), ("ca.crt", False)):
            write_file(directory / name, (own / name).read_bytes(), private=private)
    except OSError as error:
        raise SiteError(f"{own}: {error.strerror}; is {user} a user of the site?") from error
    inside = configuration.of_client(site, DICOM_SRM.name) | site.identity(user)
    (directory / "client.toml").write_text(to_toml(inside))
    if os.geteuid() == 0:
        variables = site.environment()
        for path in (directory, *directory.iterdir()):
            os.chown(path, int(variables["MDM_UID"]), int(variables["MDM_GID"]))
    return directory / "client.toml"


def add_site(site: ContainerSite, name: str, certificate: Path, crl: Path, metadata: Sequence[str] = (), organisation: str = "") -> str:
    """Store another site's authority and CRL, or newer ones, and write where its metadata is into all users' configurations.

    Returns the section that lets that site in; it has to stand once in the configuration of each service that shall. `organisation`, below
    which its subjects are, is by default that of the authority's own name.

    Raises:
        SiteError: a file or a name cannot be used.
    """
    authority, revocations = _authority(certificate), _revocations(crl)
    if not revocations.is_signature_valid(authority.public_key()):  # type: ignore[arg-type]
        raise SiteError(f"{crl}: not signed by the authority in {certificate}")
    below = organisation or _organisation(authority, certificate)
    check_names(name, below)
    known = tomllib.loads(site.others_file.read_text()) if site.others_file.exists() else {}
    if name == site.name or below in {site.organisation, *(entry["organisation"] for other, entry in known.items() if other != name)}:
        raise SiteError(f"{name}, O={below}: each site needs a name and an organisation of its own (mdm-site init --name --organisation)")
    directory = site.root / "trust" / "sites"
    directory.mkdir(mode=0o755, exist_ok=True)
    write_file(directory / f"{name}.crt", certificate.read_bytes())
    write_file(directory / f"{name}.crl", crl.read_bytes())
    addresses = list(metadata) or known.get(name, {}).get("metadata", [])
    write_file(site.others_file, to_toml({**known, name: {"organisation": below, "metadata": addresses}}).encode())
    site.publish_authorities()
    for user in (site.root / "client").iterdir():
        site.write_client(user.name)
    site.hand_over()
    (other,) = (other for other in site.others() if other.name == name)
    return to_toml({"trust": {"ca": [configuration.authority(below, other.certificate, other.crl)]}})


def _authority(file: Path) -> x509.Certificate:
    try:
        found = x509.load_pem_x509_certificate(file.read_bytes())
        is_authority = found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (OSError, ValueError, x509.ExtensionNotFound) as error:
        raise SiteError(f"{file}: not an authority's certificate in PEM ({error})") from error
    if not is_authority:
        raise SiteError(f"{file}: this certificate is not that of an authority")
    return found


def _revocations(file: Path) -> x509.CertificateRevocationList:
    try:
        return x509.load_pem_x509_crl(file.read_bytes())
    except (OSError, ValueError) as error:
        raise SiteError(f"{file}: not a CRL in PEM ({error})") from error


def _organisation(authority: x509.Certificate, file: Path) -> str:
    found = authority.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    if not found:
        raise SiteError(f"{file}: its name has no organisation; give --organisation")
    return str(found[0].value)
