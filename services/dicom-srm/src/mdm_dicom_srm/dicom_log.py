"""Keeps pydicom and pynetdicom from writing what they read: their logs and warnings quote values of patients."""

import logging
import warnings

import pynetdicom._config
from mdm_deid.encoding.pydicom_log import silence_pydicom


def silence() -> None:
    """Turn off the toolkits' logs, warnings and value checks, process-wide; what matters is logged here without values."""
    silence_pydicom()
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
    pynetdicom._config.LOG_HANDLER_LEVEL = "none"
    pynetdicom._config.LOG_RESPONSE_IDENTIFIERS = False
    pynetdicom._config.LOG_REQUEST_IDENTIFIERS = False
    warnings.filterwarnings("ignore", module=r"pynetdicom\b")
