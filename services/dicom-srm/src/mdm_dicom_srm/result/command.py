"""The command `mdm-dicom-srm reidentify`: a result translated back for the PACS, by a curator, on the hospital's side."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import psycopg
import pydicom
from cryptography.hazmat.primitives.serialization import Encoding
from mdm_service import database, settings
from mdm_service.identity.caller import Authenticator, Caller
from mdm_service.policy import CURATOR
from mdm_service.server.monitoring import configure_log
from mdm_service.settings import ConfigurationError
from mdm_wire.channel import check_identity
from mdm_wire.errors import FailedPrecondition, Forbidden, Invalid, MdmError
from mdm_wire.tls import TlsFiles
from psycopg_pool import ConnectionPool
from pydicom import Dataset
from pydicom.errors import InvalidDicomError

from mdm_dicom_srm.config import Settings
from mdm_dicom_srm.pacs.port import Located, Pacs, RetrievedInstance
from mdm_dicom_srm.result.rules.reidentification import Originals, referenced, reidentify, uids_of
from mdm_dicom_srm.result.store.original import OriginalStore


@dataclass(frozen=True)
class Parts:
    """What re-identification needs of the others: where images are, the PACS, and the pseudonym of a UID."""

    locators_of: Callable[[Sequence[UUID]], "dict[UUID, Located | None]"]
    pacs: Pacs
    pseudonym: Callable[[str], str]


#: Opens what re-identification needs.
Open = Callable[[Settings, ConnectionPool], Parts]


def run(arguments: Sequence[str], migrations: Sequence[str], open_parts: Open) -> int:
    """Translate one file; return the exit code: 0 done, 2 it failed, 3 the caller is no curator."""
    options = _parser().parse_args(arguments)
    try:
        loaded = settings.load(Settings, "dicom-srm", options.config)
        configure_log("dicom-srm", "ERROR")
        curator = _curator(loaded, options.certificate, options.key)
        if loaded.database is None:
            raise ConfigurationError("database: this service needs a [database] section")
        if options.destination.exists():
            raise Invalid("FILE_EXISTS", f"{options.destination}: exists; it is not replaced")
        result = _read(options.source)
        with psycopg.connect(loaded.database.full_conninfo()) as connection:
            database.check_schema(connection, migrations)
        with database.open_pool(loaded.database) as pool:
            count = _translated(result, open_parts(loaded, pool), OriginalStore(pool), curator.dn)
        _write(result, options.destination)
    except Forbidden as error:
        sys.stderr.write(f"mdm-dicom-srm: {error.message}\n")
        return 3
    except MdmError as error:
        sys.stderr.write(f"mdm-dicom-srm: {error.reason}: {error.message}\n")
        return 2
    except (ConfigurationError, psycopg.Error, OSError) as error:
        sys.stderr.write(f"mdm-dicom-srm: {str(error).splitlines()[0]}\n")
        return 2
    sys.stdout.write(f"{options.destination}: {count} UIDs translated; for the PACS only, it names the patient\n")
    return 0


def _curator(loaded: Settings, certificate: Path, key: Path) -> Caller:
    """Return whose certificate it is.

    Raises:
        Forbidden: not a curator's. MdmError: the certificate is refused, or the key is not its own.
    """
    found = check_identity(TlsFiles(certificate, key, loaded.tls.ca))
    context = {"ssl_tls_version": [b"TLSv1.3"], "x509_pem_cert": [found.public_bytes(Encoding.PEM)]}
    caller = Authenticator.from_settings(loaded).authenticate(context)
    if not caller.has_role(CURATOR):
        raise Forbidden("NOT_A_CURATOR", "Permission denied: only who has the role curator translates results back.")
    return caller


def _read(path: Path) -> Dataset:
    try:
        result = pydicom.dcmread(path)
        result.decode()
    except (InvalidDicomError, ValueError, EOFError, AttributeError) as error:
        raise Invalid("DICOM_MALFORMED", f"{path}: cannot be read as DICOM ({type(error).__name__})") from None
    return result


def _translated(result: Dataset, parts: Parts, store: OriginalStore, curator: str) -> int:
    """Translate a result in place once that is on record; return how many UIDs were replaced."""
    images = store.images_of(str(result.get("StudyInstanceUID", "")))
    located = {guid: found for guid, found in parts.locators_of(images).items() if found is not None}
    by_pseudonym = {parts.pseudonym(found.locator.sop_uid): guid for guid, found in located.items()}
    meant = {by_pseudonym[uid]: located[by_pseudonym[uid]] for uid in referenced(result) if uid in by_pseudonym}
    if not meant:
        message = "The file's study or what it refers to is not in the registry of this site."
        raise FailedPrecondition("UID_UNKNOWN", message)
    # One header of each series has every other UID that its images share, such as the frame of reference.
    samples = {found.locator.series_uid: found.locator for found in meant.values()}
    headers = [
        pydicom.dcmread(io.BytesIO(instance.part10), stop_before_pixels=True)
        for instance in parts.pacs.retrieve(list(samples.values()))
        if isinstance(instance, RetrievedInstance)
    ]
    if len(headers) < len(samples):
        raise FailedPrecondition("NOT_IN_PACS", "The PACS does not have the images that the file refers to.")
    uids = uids_of(headers, parts.pseudonym)
    for found in located.values():
        locator = found.locator
        uids |= {parts.pseudonym(uid): uid for uid in (locator.study_uid, locator.series_uid, locator.sop_uid)}
    name = str(result.SOPInstanceUID)
    count = reidentify(result, Originals(uids, headers[0]))
    store.record(curator, name, sorted(meant))
    return count


def _write(result: Dataset, path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            result.save_as(file, enforce_file_format=True)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink()
        raise


def _parser() -> argparse.ArgumentParser:
    example = "mdm-dicom-srm reidentify --config srm.toml --certificate eve.crt --key eve.key seg.dcm seg-for-pacs.dcm"
    parser = argparse.ArgumentParser(prog="mdm-dicom-srm reidentify", epilog=f"Example: {example}")
    parser.add_argument("--config", type=Path, required=True, help="TOML file; see config.example.toml")
    parser.add_argument("--certificate", type=Path, required=True, help="the curator's certificate")
    parser.add_argument("--key", type=Path, required=True, help="its key")
    parser.add_argument("source", type=Path, metavar="IN", help="a result in DICOM, as mdm get brings it")
    parser.add_argument("destination", type=Path, metavar="OUT", help="the file for the PACS, which does not exist")
    return parser
