"""The site's de-identifier, as staging's worker processes make it."""

import hashlib

from mdm_dicom_srm import toolkit
from mdm_dicom_srm.deid import Deidentifier, Profile, Pseudonymiser
from mdm_dicom_srm.sealing import derive_key


def make_deidentifier(profile: Profile, secret: bytes) -> Deidentifier:
    """Return the site's de-identifier in a worker process of staging."""
    toolkit.silence()
    return Deidentifier(profile, Pseudonymiser(secret))


def generation(profile: Profile, secret: bytes) -> str:
    """Return a digest that changes with the rules of de-identification."""
    return hashlib.sha256(profile.fingerprint().encode() + derive_key(secret, "spool")).hexdigest()
