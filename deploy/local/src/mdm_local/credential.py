"""Certificates, memberships and secrets of a stack, made once and renewed before they expire."""

import json
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from mdm_local import toml
from mdm_local.component import KEYSTORES, ORGANISATION, SERVICES
from mdm_local.layout import USERS, Layout
from mdm_local.pacs.kind import HTTP_USER
from mdm_local.pki import DevelopmentCa, write_private

GROUPS = {
    "/biomed/neuro": ("alice",),
    "/biomed/hospital-a/stewards": ("alice",),
    "/biomed/hospital-a/physicians": ("carol",),
}
_RENEW_BEFORE = timedelta(days=7)


def authority(layout: Layout) -> DevelopmentCa:
    """Return the stack's development authority."""
    return DevelopmentCa(layout.pki, ORGANISATION)


def prepare(layout: Layout) -> None:
    """Make every credential that is missing and renew what expires within a week; keep the rest."""
    ca = authority(layout)
    for service in SERVICES:
        _certify(ca, service.certificate, ("localhost", "127.0.0.1"))
    for user in USERS:
        _certify(ca, user, ())
    _renew_revocations(ca)
    if not layout.groups_file.exists():
        members = {group: [ca.subject(user) for user in users] for group, users in GROUPS.items()}
        layout.groups_file.write_text(toml.dumps({"groups": members}))
    if not layout.ban_list.exists():
        layout.ban_list.write_text("# One subject a line, such as CN=mallory,O=MDM Local; read again when it changes.\n")
    _secret(layout.secret("site-secret"), secrets.token_bytes(32))
    for letter in KEYSTORES:
        _secret(layout.secret(f"kek-{letter}"), secrets.token_hex(32).encode() + b"\n")
    _secret(layout.secret("pacs-password"), secrets.token_urlsafe(24).encode() + b"\n")
    account = {"username": HTTP_USER, "password": layout.secret("pacs-password").read_text().strip()}
    _secret(layout.secret("pacs-credentials.json"), json.dumps(account).encode() + b"\n")


def _certify(ca: DevelopmentCa, common_name: str, hosts: tuple[str, ...]) -> None:
    file = ca.directory / f"{common_name}.crt"
    if file.exists() and (ca.directory / f"{common_name}.key").exists():
        expiry = x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc
        if expiry - datetime.now(UTC) > _RENEW_BEFORE:
            return
    ca.issue(ca.subject(common_name), hosts=hosts, name=common_name)


def _renew_revocations(ca: DevelopmentCa) -> None:
    """Sign the CRL anew before it is stale, with the same revoked certificates."""
    crl = x509.load_pem_x509_crl(ca.crl_file.read_bytes())
    if crl.next_update_utc is not None and crl.next_update_utc - datetime.now(UTC) > _RENEW_BEFORE:
        return
    revoked = {entry.serial_number for entry in crl}
    certificates = [path for path in ca.directory.glob("*.crt") if _serial(path) in revoked]
    ca.revoke(certificates)


def _serial(path: Path) -> int:
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number


def _secret(path: Path, content: bytes) -> None:
    if not path.exists():
        write_private(path, content)
