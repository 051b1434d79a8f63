"""Prometheus metrics of staging."""

from prometheus_client import Counter, Gauge, Histogram

from mdm_dicom_srm.stage.rules.port import Spool

FILES = Counter("mdm_stage_files_total", "Files that left the staging engine, by outcome: STAGED or the SRM state.", ("outcome",))
BYTES = Counter("mdm_stage_bytes_total", "Bytes of ciphertext staged.")
RETRIEVAL_SECONDS = Histogram(
    "mdm_stage_retrieval_seconds",
    "Time of one retrieval from the PACS with de-identification and encryption.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
_SPOOL = Gauge("mdm_spool_bytes", "Bytes of the spool, by kind.", ("kind",))


def watch_spool(spool: Spool) -> None:
    """Report how full `spool` is."""
    _SPOOL.labels("quota").set_function(lambda: spool.usage().quota)
    _SPOOL.labels("stored").set_function(lambda: spool.usage().stored)
    _SPOOL.labels("pinned").set_function(lambda: spool.usage().pinned)
