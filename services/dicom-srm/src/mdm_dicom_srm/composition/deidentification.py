"""Settings of de-identification, made into what decides about images."""

import functools
from dataclasses import dataclass
from pathlib import Path

from mdm_deid import PatientIdRule, Profile, ProfileError
from mdm_deid.pixels.rule import PixelRules
from mdm_deid.rules.patient import PatientIdError, rule_of
from mdm_deid.rules.profile import SHIPPED
from mdm_service.settings import ConfigurationError

from mdm_dicom_srm.config import PatientIdSettings, Settings
from mdm_dicom_srm.judgement import MakeDeidentifier, generation, make_deidentifier


@dataclass(frozen=True)
class Deidentification:
    """The rules under which images leave. `generation` is a digest of all of them."""

    profile: Profile
    patient_ids: PatientIdRule
    make: MakeDeidentifier
    generation: str


def load_deidentification(settings: Settings, secret: bytes) -> Deidentification:
    """Return the rules of a site.

    Raises:
        ConfigurationError: a profile, a file of pixel rules or a rule for patient IDs cannot be used.
    """
    profile, patient_ids = _profile(settings.deid.profile), patient_id_rule(settings.patient_id)
    chosen = (profile, secret, _pixel_rules(settings.deid.pixel_rules), settings.deid.self_check, patient_ids)
    return Deidentification(profile, patient_ids, functools.partial(make_deidentifier, *chosen), generation(*chosen))


def patient_id_rule(settings: PatientIdSettings) -> PatientIdRule:
    """Return which differences of Patient IDs do not make another patient.

    Raises:
        ConfigurationError: the settings contradict each other.
    """
    try:
        return rule_of(settings.model_dump(exclude_unset=True))
    except PatientIdError as error:
        raise ConfigurationError(f"patient_id: {error}") from error


def _profile(name: str) -> Profile:
    try:
        return Profile.shipped(name) if name in SHIPPED else Profile.load(Path(name))
    except (ProfileError, OSError) as error:
        raise ConfigurationError(f"deid.profile: {error}") from error


def _pixel_rules(name: str) -> PixelRules:
    try:
        return PixelRules.load(name)
    except (ProfileError, OSError) as error:
        raise ConfigurationError(f"deid.pixel_rules: {error}") from error
