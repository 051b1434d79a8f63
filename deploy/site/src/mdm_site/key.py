"""Key-encryption keys of the keystores."""

import secrets
from pathlib import Path

from mdm_site.containers import ContainerSite
from mdm_site.error import SiteError
from mdm_site.private import write_private


def add_key_encryption_key(site: ContainerSite, keystore: str) -> Path:
    """Put a new key before the old ones, with which the keystore seals from now on; the old ones still open. Return the file.

    Raises:
        SiteError: the site has no such keystore.
    """
    file = site.root / keystore / "kek"
    if not file.is_file():
        raise SiteError(f"{keystore}: no keystore of this site; there are keystore-a, keystore-b and keystore-c")
    write_private(file, secrets.token_hex(32).encode() + b"\n" + file.read_bytes())
    site.hand_over()
    return file
