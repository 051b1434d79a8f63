"""De-identification of DICOM instances by PS3.15; pure, usable alone: no network, no files but its own tables."""

from mdm_deid.deidentifier import Deidentifier
from mdm_deid.outcome import Malformed, Outcome, ProfileError, Result
from mdm_deid.rules.patient import Patient, PatientIdRule
from mdm_deid.rules.profile import Profile
from mdm_deid.rules.pseudonym import Pseudonymiser

__all__ = ["Deidentifier", "Malformed", "Outcome", "Patient", "PatientIdRule", "Profile", "ProfileError", "Pseudonymiser", "Result"]
