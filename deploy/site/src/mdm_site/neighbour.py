"""Making another site known to this one: its authority, and where its metadata is."""

import tomllib
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from mdm_site import configuration, toml
from mdm_site.containers import ContainerSite, check_names
from mdm_site.error import SiteError
from mdm_site.file import write_file


def add_site(site: ContainerSite, name: str, certificate: Path, crl: Path, metadata: Sequence[str] = (), organisation: str = "") -> str:
    """Keep another site's authority and CRL, or newer ones, and tell all users where its metadata is.

    Returns what has to stand once in the configuration of each service that is to let that site in; nothing lets it in before.
    Without `organisation`, below which its subjects are, it is that of the authority's own name.

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
    write_file(site.others_file, toml.dumps({**known, name: {"organisation": below, "metadata": addresses}}).encode())
    site.publish_authorities()
    for user in (site.root / "client").iterdir():
        site.write_client(user.name)
    site.hand_over()
    (other,) = (other for other in site.others() if other.name == name)
    return toml.dumps({"trust": {"ca": [configuration.authority(below, other.certificate, other.crl)]}})


def _authority(file: Path) -> x509.Certificate:
    try:
        found = x509.load_pem_x509_certificate(file.read_bytes())
        is_authority = found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (OSError, ValueError, x509.ExtensionNotFound) as error:
        raise SiteError(f"{file}: not an authority's certificate in PEM ({error})") from error
    if not is_authority:
        raise SiteError(f"{file}: a certificate, but not of an authority")
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
