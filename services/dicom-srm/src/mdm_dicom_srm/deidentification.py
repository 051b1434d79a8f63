"""The site's de-identifier, as staging's worker processes make it."""

import hashlib

from mdm_deid import Deidentifier, PatientIdRule, Profile, Pseudonymiser
from mdm_deid.check.self_check import CheckedDeidentifier
from mdm_deid.pixels.rule import PixelRules
from mdm_deid.rules.revision import revision

from mdm_dicom_srm import dicom_log
from mdm_dicom_srm.record_seal import derive_key


def make_deidentifier(
    profile: Profile, secret: bytes, pixels: PixelRules, check: bool, patient_ids: PatientIdRule | None = None
) -> Deidentifier | CheckedDeidentifier:
    """Return the site's de-identifier in a worker process of staging; with `check` it searches every file it releases."""
    dicom_log.silence()
    deidentifier = Deidentifier(profile, Pseudonymiser(secret), pixels, patient_ids)
    return CheckedDeidentifier(deidentifier, profile) if check else deidentifier


def generation(profile: Profile, secret: bytes, pixels: PixelRules, check: bool, patient_ids: PatientIdRule | None = None) -> str:
    """Return a digest that changes with the rules of de-identification, those of a new version of this package included."""
    compared = patient_ids or PatientIdRule()
    identities = ",".join(sorted(compared.ignored)) + ";" + ",".join(sorted(compared.in_study))
    rules = (revision() + profile.fingerprint() + pixels.fingerprint() + str(check) + identities).encode()
    return hashlib.sha256(rules + derive_key(secret, "spool")).hexdigest()
