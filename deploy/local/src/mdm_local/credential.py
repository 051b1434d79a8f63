"""Certificates, memberships and secrets of a stack, made once and renewed before they expire."""

import json
import secrets

from mdm_forwarder.orthanc import HTTP_USER
from mdm_site.credential import certify, renew_revocations, secret
from mdm_site.pki import DevelopmentCa
from mdm_site.service import KEYSTORES, SERVICES

from mdm_local.layout import USERS, Layout


def prepare(layout: Layout, organisation: str) -> None:
    """Make every credential that is missing and renew what expires within a week; keep the rest."""
    ca = DevelopmentCa(layout.pki, organisation)
    for service in SERVICES:
        certify(ca, service.name, ("localhost", "127.0.0.1"))
    for user in USERS:
        certify(ca, user, ())
    renew_revocations(ca)
    if not layout.ban_list.exists():
        layout.ban_list.write_text(f"# One subject a line, such as CN=mallory,O={organisation}; read again when it changes.\n")
    secret(layout.secret("site-secret"), secrets.token_bytes(32))
    for letter in KEYSTORES:
        secret(layout.secret(f"kek-{letter}"), secrets.token_hex(32).encode() + b"\n")
    secret(layout.secret("pacs-password"), secrets.token_urlsafe(24).encode() + b"\n")
    account = {"username": HTTP_USER, "password": layout.secret("pacs-password").read_text().strip()}
    secret(layout.secret("pacs-credentials.json"), json.dumps(account).encode() + b"\n")
