"""Certificates and secrets: made once, renewed before they expire."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from mdm_site.pki import DevelopmentCa
from mdm_site.private import write_private

_RENEW_BEFORE = timedelta(days=7)


def certify(ca: DevelopmentCa, common_name: str, hosts: Sequence[str], within: timedelta = _RENEW_BEFORE) -> bool:
    """Issue a certificate that is missing or expires `within` that time; tell whether one was issued."""
    file = ca.directory / f"{common_name}.crt"
    if file.exists() and (ca.directory / f"{common_name}.key").exists():
        expiry = x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc
        if expiry - datetime.now(UTC) > within:
            return False
    ca.issue(ca.subject(common_name), hosts=hosts, name=common_name)
    return True


def secret(path: Path, content: bytes) -> None:
    """Write a secret unless it is there."""
    if not path.exists():
        write_private(path, content)


def renew_revocations(ca: DevelopmentCa) -> None:
    """Sign the CRL anew before it is stale, with the same revoked certificates."""
    crl = x509.load_pem_x509_crl(ca.crl_file.read_bytes())
    if crl.next_update_utc is None or crl.next_update_utc - datetime.now(UTC) <= _RENEW_BEFORE:
        ca.revoke_serials({entry.serial_number for entry in crl})
