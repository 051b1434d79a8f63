"""The two kinds of PACS, and which one this machine has."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mdm_forwarder.orthanc import HTTP_USER
from mdm_site import pacs
from mdm_site.pacs import Pacs
from mdm_site.site import SiteError

from mdm_local.layout import HOST, PACS, PACS_HTTP

ORTHANC = "orthanc"
ARCHIVE = "pynetdicom"
KINDS = (ORTHANC, ARCHIVE)
#: What a stack without dicom-srm has.
NONE = "none"
AE_TITLES = {ORTHANC: "ORTHANC", ARCHIVE: "MDMPACS"}

LOCAL_AE_TITLE = "MDM-LOCAL"
#: Calling AE titles that the PACS knows besides dicom-srm, all on this machine.
CALLING_AE_TITLES = (LOCAL_AE_TITLE, *pacs.CALLING_AE_TITLES)

# SOP classes, PS3.4 A.4 and C.6.2.3
VERIFICATION = "1.2.840.10008.1.1"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"


@dataclass(frozen=True)
class StackPacs(Pacs):
    """The PACS of a stack. `http` is Orthanc's REST root; empty for another kind."""

    kind: str = NONE
    http: str = ""


def of_kind(kind: str, ports: Mapping[str, int], password_file: Path) -> StackPacs:
    """Return a stack's PACS of a kind; `password_file` is that of Orthanc's account."""
    if kind == NONE:
        return StackPacs("", HOST, 0)
    if kind == ARCHIVE:
        return StackPacs(AE_TITLES[kind], HOST, ports[PACS], kind=kind)
    http = f"http://{HOST}:{ports[PACS_HTTP]}"
    dicomweb = f"{http}/dicom-web" if find_dicomweb_plugin() else ""
    return StackPacs(AE_TITLES[kind], HOST, ports[PACS], dicomweb, HTTP_USER, password_file, kind, http)


def choose(wanted: str) -> str:
    """Return the kind of PACS to use: the wanted one, or for `auto` Orthanc where it is installed.

    Raises:
        SiteError: Orthanc is wanted and not installed.
    """
    if wanted == ARCHIVE:
        return ARCHIVE
    if find_orthanc() is not None:
        return ORTHANC
    if wanted == ORTHANC:
        raise SiteError("Orthanc is not installed: apt-get install orthanc orthanc-dicomweb, or use --pacs pynetdicom")
    return ARCHIVE


def find_orthanc() -> Path | None:
    """Return the Orthanc program, or None."""
    found = shutil.which("Orthanc", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin")
    return Path(found) if found else None


def find_dicomweb_plugin() -> Path | None:
    """Return Orthanc's DICOMweb plugin, or None."""
    places = (Path("/usr/share/orthanc/plugins"), Path("/usr/local/share/orthanc/plugins"), Path("/usr/lib/orthanc"))
    return next((found for place in places for found in sorted(place.glob("*OrthancDicomWeb.so*"))), None)
