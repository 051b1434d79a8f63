"""Revoking certificates of the site's authority."""

from cryptography import x509

from mdm_site.containers import ContainerSite
from mdm_site.error import SiteError


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
