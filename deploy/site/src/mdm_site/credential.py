"""Certificates and secrets: made once, renewed before they expire."""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from mdm_site.file import write_file
from mdm_site.pki import DevelopmentCa

_RENEW_BEFORE = timedelta(days=7)


def certify(ca: DevelopmentCa, common_name: str, hosts: Sequence[str], within: timedelta = _RENEW_BEFORE) -> bool:
    """Issue a certificate that is missing or expires `within` that time; return whether one was issued."""
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
        write_file(path, content, private=True)


def new_key_encryption_key() -> bytes:
    """Return a line of a keystore's file of keys."""
    return secrets.token_hex(32).encode() + b"\n"


def new_site_secret() -> bytes:
    """Return what pseudonyms are derived from."""
    return secrets.token_bytes(32)


def new_password() -> bytes:
    """Return a password's file."""
    return secrets.token_urlsafe(24).encode() + b"\n"


def empty_ban_list(organisation: str) -> str:
    """Return a list of banned subjects without any, that says how to write one."""
    return f"# One subject a line, such as CN=mallory,O={organisation}; read again when it changes.\n"


def renew_revocations(ca: DevelopmentCa) -> None:
    """Sign the CRL anew before it is stale, with the same revoked certificates."""
    crl = x509.load_pem_x509_crl(ca.crl_file.read_bytes())
    if crl.next_update_utc is None or crl.next_update_utc - datetime.now(UTC) <= _RENEW_BEFORE:
        ca.revoke_serials({entry.serial_number for entry in crl})
