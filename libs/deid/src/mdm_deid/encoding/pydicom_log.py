"""Silence for pydicom, whose logs and warnings quote values of patients."""

import logging
import warnings

import pydicom.config


def silence_pydicom() -> None:
    """Turn off pydicom's logs, warnings and value checks, process-wide."""
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    warnings.filterwarnings("ignore", module=r"pydicom\b")
