"""All PACS of a site behind the one port, and their adapters as the settings describe them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mdm_deid.encoding.header import Header
from mdm_service.settings import ConfigurationError
from mdm_wire.errors import Unavailable

from mdm_dicom_srm.config import PacsSettings, Way
from mdm_dicom_srm.pacs.alternatives import Fallback
from mdm_dicom_srm.pacs.c_get import CGet
from mdm_dicom_srm.pacs.c_move import CMove, MoveDestination
from mdm_dicom_srm.pacs.dicomweb import DicomWeb, Password, TokenFile
from mdm_dicom_srm.pacs.dimse import AssociationPool, Peer
from mdm_dicom_srm.pacs.http import Credential
from mdm_dicom_srm.pacs.port import NOT_IN_PACS, InstanceLocator, ListedInstance, MissingInstance, Pacs, RetrievedInstance, Scope
from mdm_dicom_srm.pacs.tls import client_context
from mdm_dicom_srm.pacs.wado_rs import WadoRs


class PacsSet:
    """The PACS of a site by name. An instance is asked of the one it is bound to, and of the others where that one lacks it."""

    def __init__(self, members: Mapping[str, Pacs], on_close: Sequence[Callable[[], None]] = ()) -> None:
        self.members = dict(members)
        self._on_close = tuple(on_close)

    def close(self) -> None:
        """End idle associations and connections, so that no PACS has to wait for them when it is stopped."""
        for close in self._on_close:
            close()

    def retrieve(self, instances: Sequence[InstanceLocator]) -> Iterator[RetrievedInstance | MissingInstance]:
        """Yield the instances; see `Pacs.retrieve`. A PACS that is away is a failure of its own instances only.

        Raises:
            Unavailable: the only PACS is away.
        """
        first, *_ = self.members
        left = {locator.sop_uid: locator for locator in instances}
        asked: dict[str, set[str]] = {sop_uid: set() for sop_uid in left}
        reasons: dict[str, str] = {}
        for _ in self.members:
            by_pacs: dict[str, list[InstanceLocator]] = {}
            for sop_uid, locator in left.items():
                bound = locator.pacs if locator.pacs in self.members else first
                name = next(name for name in (bound, *self.members) if name not in asked[sop_uid])
                asked[sop_uid].add(name)
                by_pacs.setdefault(name, []).append(locator)
            for name, locators in by_pacs.items():
                yield from self._ask(name, locators, left, reasons)
        yield from (MissingInstance(sop_uid, reasons.get(sop_uid, "PACS_NOT_DELIVERED")) for sop_uid in left)

    def headers(self, study_uid: str) -> Iterator[tuple[Header, str]]:
        """Yield the headers of a study; see `Pacs.headers`."""
        seen: set[str] = set()
        failure: Unavailable | None = None
        for pacs in self.members.values():
            try:
                for header, name in pacs.headers(study_uid):
                    if not header.sop_uid or header.sop_uid not in seen:
                        seen.add(header.sop_uid)
                        yield header, name
            except Unavailable as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def studies(self, scope: Scope) -> Iterator[str]:
        """Yield the studies of a scope in any PACS; see `Pacs.studies`."""
        failure: Unavailable | None = None
        for pacs in self.members.values():
            try:
                yield from pacs.studies(scope)
            except Unavailable as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def listing(self, study_uid: str) -> Iterator[ListedInstance]:
        """Yield the instances of a study, once for each PACS that has them; see `Pacs.listing`."""
        for pacs in self.members.values():
            yield from pacs.listing(study_uid)

    def ping(self) -> None:
        """Return when every PACS answers; see `Pacs.ping`."""
        for pacs in self.members.values():
            pacs.ping()

    def _ask(
        self, name: str, locators: list[InstanceLocator], left: dict[str, InstanceLocator], reasons: dict[str, str]
    ) -> Iterator[RetrievedInstance]:
        """Yield what a PACS delivers and take it out of `left`; of what it does not, note the reason that says least for sure."""
        missing = {locator.sop_uid: "PACS_NOT_DELIVERED" for locator in locators}
        try:
            for item in self.members[name].retrieve(locators):
                if isinstance(item, MissingInstance):
                    missing[item.sop_uid] = item.reason
                elif missing.pop(item.sop_uid, None) is not None:
                    left.pop(item.sop_uid, None)
                    yield replace(item, pacs=name)
        except Unavailable as error:
            if len(self.members) == 1:
                raise
            missing = {sop_uid: reason if reason == NOT_IN_PACS else error.reason for sop_uid, reason in missing.items()}
        for sop_uid, reason in missing.items():
            # It is gone only when all say so.
            if reasons.get(sop_uid, NOT_IN_PACS) == NOT_IN_PACS:
                reasons[sop_uid] = reason


def open_pacs(tables: Sequence[PacsSettings], destination: MoveDestination) -> PacsSet:
    """Return the PACS that the settings describe, each with its adapters in the order of `retrieve`.

    Raises:
        ConfigurationError: a file of credentials cannot be read.
    """
    members, on_close = {}, []
    for settings in tables:
        pool = open_pool(settings, settings.timeout_seconds)
        adapters = [open_adapter(settings, way, settings.timeout_seconds, destination, pool) for way in settings.retrieve]
        members[settings.name] = Fallback(adapters, retrievals=settings.retrievals, wait_seconds=settings.timeout_seconds)
        on_close += [adapter.close for adapter in adapters]
    return PacsSet(members, on_close)


def open_adapter(
    settings: PacsSettings, way: Way, timeout: float, destination: MoveDestination, pool: AssociationPool | None = None
) -> WadoRs | CMove | CGet:
    """Return one way to a PACS; those by DIMSE share `pool`.

    Raises:
        ConfigurationError: a file of credentials cannot be read.
    """
    if way == "wado-rs":
        return WadoRs(open_dicomweb(settings, timeout), name=settings.name, max_instance_bytes=settings.max_instance_bytes)
    pool = pool or open_pool(settings, timeout)
    return CMove(pool, destination, name=settings.name) if way == "c-move" else CGet(pool, name=settings.name)


def open_dicomweb(settings: PacsSettings, timeout: float) -> DicomWeb:
    """Return the client of a PACS's DICOMweb service.

    Raises:
        ConfigurationError: a file of credentials cannot be read.
    """
    credential: Credential | None = None
    if settings.dicomweb_token_file is not None:
        _read(settings.dicomweb_token_file, "dicomweb_token_file")
        credential = TokenFile(settings.dicomweb_token_file)
    elif settings.dicomweb_user:
        credential = Password(settings.dicomweb_user, _read(settings.dicomweb_password_file, "dicomweb_password_file"))
    tls = client_context(settings.dicomweb_tls) if settings.dicomweb_tls is not None else None
    return DicomWeb(settings.dicomweb_url, credential=credential, tls=tls, timeout=timeout)


def open_pool(settings: PacsSettings, timeout: float) -> AssociationPool:
    """Return the associations with a PACS.

    Raises:
        ConfigurationError: a file of its TLS cannot be used.
    """
    tls = client_context(settings.tls) if settings.tls is not None else None
    peer = Peer(
        settings.host,
        settings.port,
        settings.ae_title,
        settings.calling_ae_title,
        timeout,
        tls,
        settings.max_instance_bytes,
        settings.idle_seconds,
    )
    return AssociationPool(peer)


def _read(path: Path | None, name: str) -> str:
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"pacs.{name}: {error}") from error


class Health:
    """Asks by `ping`, which raises where the PACS does not answer; until the first answer it counts as away."""

    def __init__(self, ping: Callable[[], object]) -> None:
        self._ping = ping
        self.answers = False

    def ask(self) -> None:
        """Ask, remember and pass on what `ping` raises."""
        try:
            self._ping()
        except Exception:
            self.answers = False
            raise
        self.answers = True


def answers(healths: Mapping[str, Health], name: str) -> bool:
    """Return whether the PACS of a name answered; of an unknown name, whether any did."""
    return healths[name].answers if name in healths else any(health.answers for health in healths.values())
