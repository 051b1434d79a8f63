"""Certificates, memberships and secrets of a stack, made once and renewed before they expire."""

import json

from mdm_forwarder.orthanc import HTTP_USER
from mdm_site import credential
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
        layout.ban_list.write_text(credential.empty_ban_list(organisation))
    secret(layout.secret("site-secret"), credential.new_site_secret())
    for letter in KEYSTORES:
        secret(layout.secret(f"kek-{letter}"), credential.new_key_encryption_key())
    secret(layout.secret("pacs-password"), credential.new_password())
    account = {"username": HTTP_USER, "password": layout.secret("pacs-password").read_text().strip()}
    secret(layout.secret("pacs-credentials.json"), json.dumps(account).encode() + b"\n")
