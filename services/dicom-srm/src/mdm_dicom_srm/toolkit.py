"""Keeps pydicom and pynetdicom from writing what they read: their logs and warnings quote values of patients."""

import logging
import warnings

import pydicom.config
import pynetdicom._config


def silence() -> None:
    """Turn off the toolkits' logs, warnings and value checks, process-wide; what matters is logged here without values."""
    for name in ("pydicom", "pynetdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    pynetdicom._config.LOG_HANDLER_LEVEL = "none"
    pynetdicom._config.LOG_RESPONSE_IDENTIFIERS = False
    pynetdicom._config.LOG_REQUEST_IDENTIFIERS = False
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    warnings.filterwarnings("ignore", module=r"py(net)?dicom\b")
