"""Staging: requests for files, the engine that retrieves, de-identifies and encrypts, and the spool of ciphertext."""

from mdm_dicom_srm.composition import Stage, build_stage
from mdm_dicom_srm.stage.settings import SpoolSettings

__all__ = ["SpoolSettings", "Stage", "build_stage"]
