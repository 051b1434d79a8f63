"""What an operator does to a site that is there: revoke a certificate, put a new key-encryption key first, lend a user's identity."""

import os
from pathlib import Path

from cryptography import x509

from mdm_site import configuration, credential, toml
from mdm_site.containers import ContainerSite
from mdm_site.error import SiteError
from mdm_site.file import write_file
from mdm_site.service import DICOM_SRM


def revoke(site: ContainerSite, name: str) -> None:
    """Put the current certificate of a service or user on the CRL, and move it away so that a new one may be issued.

    Raises:
        SiteError: the authority has issued no such certificate.
    """
    ca = site.ca
    certificate = ca.directory / f"{name}.crt"
    if not certificate.is_file():
        raise SiteError(f"{name}: this site's authority has issued no such certificate")
    serial = x509.load_pem_x509_certificate(certificate.read_bytes()).serial_number
    known = {entry.serial_number for entry in x509.load_pem_x509_crl(ca.crl_file.read_bytes())}
    ca.revoke_serials({*known, serial})
    for kind in ("crt", "key"):
        (ca.directory / f"{name}.{kind}").replace(ca.directory / f"{name}-{serial:x}.revoked-{kind}")
    site.publish_revocations()
    site.hand_over()


def add_key_encryption_key(site: ContainerSite, keystore: str) -> Path:
    """Put a new key before the old ones, with which the keystore seals from now on; the old ones still open. Return the file.

    Raises:
        SiteError: the site has no such keystore.
    """
    file = site.root / keystore / "kek"
    if not file.is_file():
        raise SiteError(f"{keystore}: no keystore of this site; there are keystore-a, keystore-b and keystore-c")
    write_file(file, credential.new_key_encryption_key() + file.read_bytes(), private=True)
    site.hand_over()
    return file


def lend(site: ContainerSite, user: str, directory: Path) -> Path:
    """Copy a user's certificate and key, for the account that containers run as, beside a client configuration in which the services
    have the names they have there; return its path. Remove the directory after use.

    Raises:
        SiteError: the site has no such user, or no certificate of it here any more.
    """
    own = site.client(user).parent
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        for name, private in ((f"{user}.crt", False), (f"{user}.key", True), ("ca.crt", False)):
            write_file(directory / name, (own / name).read_bytes(), private=private)
    except OSError as error:
        raise SiteError(f"{own}: {error.strerror}; is {user} a user of the site?") from error
    inside = configuration.of_client(site, DICOM_SRM.name) | site.identity(user)
    (directory / "client.toml").write_text(toml.dumps(inside))
    if os.geteuid() == 0:
        variables = site.environment()
        for path in (directory, *directory.iterdir()):
            os.chown(path, int(variables["MDM_UID"]), int(variables["MDM_GID"]))
    return directory / "client.toml"
