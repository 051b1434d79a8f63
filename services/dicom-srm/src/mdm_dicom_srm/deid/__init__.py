"""De-identification of DICOM instances by PS3.15; pure, usable alone: no network, no files but its own tables."""

from mdm_dicom_srm.deid.deidentifier import Deidentifier
from mdm_dicom_srm.deid.outcome import Malformed, Outcome, Result
from mdm_dicom_srm.deid.patient import Patient, PatientIdRule
from mdm_dicom_srm.deid.profile import Profile, ProfileError
from mdm_dicom_srm.deid.pseudonym import Pseudonymiser

__all__ = ["Deidentifier", "Malformed", "Outcome", "Patient", "PatientIdRule", "Profile", "ProfileError", "Pseudonymiser", "Result"]
