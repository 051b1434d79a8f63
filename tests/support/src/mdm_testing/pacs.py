"""Storing files in any PACS."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pydicom
from pynetdicom import AE

from mdm_testing.process import find_program


def store(host: str, port: int, ae_title: str, paths: Sequence[Path]) -> None:
    """Store files in a PACS: by dcmtk's storescu, or dcmsend where a file is compressed; by pynetdicom where there is no dcmtk.

    Raises:
        subprocess.SubprocessError, OSError, AssertionError: the PACS did not take all of them.
    """
    storescu, dcmsend = find_program("storescu"), find_program("dcmsend")
    if storescu and dcmsend:
        compressed = any(pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID.is_compressed for path in paths)
        command = [dcmsend, "--decompress-never"] if compressed else [storescu, "-R"]
        subprocess.run([*command, "-aec", ae_title, host, str(port), *map(str, paths)], check=True, capture_output=True, timeout=60)
        return
    entity = AE()
    datasets = [pydicom.dcmread(path) for path in paths]
    for dataset in datasets:
        entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    association = entity.associate(host, port, ae_title=ae_title)
    assert association.is_established
    assert all(association.send_c_store(dataset).Status == 0 for dataset in datasets)
    association.release()
