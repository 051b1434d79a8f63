"""Several ways to one PACS: the next is tried when one fails."""

from collections.abc import Iterator, Sequence

from mdm_service.errors import ConfigurationError
from mdm_wire.errors import Unavailable

from mdm_dicom_srm.config import PacsSettings
from mdm_dicom_srm.pacs.c_get import CGet
from mdm_dicom_srm.pacs.part10 import Header
from mdm_dicom_srm.pacs.port import InstanceLocator, Pacs, RetrievedInstance
from mdm_dicom_srm.pacs.wado_rs import WadoRs


class Fallback:
    """Asks adapters in order; what one delivered before it failed is not asked for again."""

    def __init__(self, adapters: Sequence[Pacs]) -> None:
        self._adapters = tuple(adapters)

    def retrieve(self, instances: Sequence[InstanceLocator]) -> Iterator[RetrievedInstance]:
        """Yield the instances; see `Pacs.retrieve`."""
        missing = {locator.sop_uid: locator for locator in instances}
        for position, adapter in enumerate(self._adapters):
            try:
                for instance in adapter.retrieve(list(missing.values())):
                    if missing.pop(instance.sop_uid, None) is not None:
                        yield instance
            except Unavailable:
                if position == len(self._adapters) - 1:
                    raise
            else:
                return

    def headers(self, study_uid: str) -> Iterator[Header]:
        """Yield the headers of a study; see `Pacs.headers`."""
        seen: set[str] = set()
        for position, adapter in enumerate(self._adapters):
            try:
                for header in adapter.headers(study_uid):
                    if header.sop_uid not in seen:
                        seen.add(header.sop_uid)
                        yield header
            except Unavailable:
                if position == len(self._adapters) - 1:
                    raise
            else:
                return

    def ping(self) -> None:
        """Return when any adapter reaches the PACS; see `Pacs.ping`."""
        for position, adapter in enumerate(self._adapters):
            try:
                return adapter.ping()
            except Unavailable:
                if position == len(self._adapters) - 1:
                    raise
        return None


def open_pacs(settings: PacsSettings) -> Pacs:
    """Return the PACS that the settings describe, its adapters in the order of `retrieve`.

    Raises:
        ConfigurationError: the password file cannot be read.
    """
    adapters: list[Pacs] = []
    for kind in settings.retrieve:
        if kind == "wado-rs":
            password = _password(settings)
            adapters.append(WadoRs(settings.dicomweb_url, user=settings.dicomweb_user, password=password, timeout=settings.timeout_seconds))
        else:
            adapters.append(
                CGet(
                    settings.host,
                    settings.port,
                    ae_title=settings.ae_title,
                    calling_ae_title=settings.calling_ae_title,
                    timeout=settings.timeout_seconds,
                )
            )
    return adapters[0] if len(adapters) == 1 else Fallback(adapters)


def _password(settings: PacsSettings) -> str:
    if settings.dicomweb_password_file is None:
        return ""
    try:
        return settings.dicomweb_password_file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigurationError(f"pacs.dicomweb_password_file: {error}") from error
