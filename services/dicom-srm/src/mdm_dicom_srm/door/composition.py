"""Puts the door together."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mdm_service.identity.caller import Authenticator
from mdm_service.settings import Address, TlsSettings

from mdm_dicom_srm.door.http.address import Door
from mdm_dicom_srm.door.http.authentication import CertificateAuthentication
from mdm_dicom_srm.door.http.listener import Limits, Listener
from mdm_dicom_srm.door.rules.copy import KnownCopies
from mdm_dicom_srm.door.rules.on_demand import OnDemand
from mdm_dicom_srm.door.rules.service import DoorService, SizesOf
from mdm_dicom_srm.stage.composition import Place
from mdm_dicom_srm.stage.rpc.servicer import SrmRules


@dataclass(frozen=True)
class Staging:
    """What the door needs of staging: its use cases, and the sizes of what the spool holds."""

    rules: SrmRules
    sizes: SizesOf


@dataclass(frozen=True)
class Opening:
    """Where the door is, how it is called from outside (empty: as callers say), where other instances' doors are, and its limits."""

    address: Address
    url: str = ""
    instances: Mapping[str, str] = field(default_factory=dict)
    pin_seconds: int = 3600
    limits: Limits = field(default_factory=Limits)


def build_door(
    opening: Opening, tls: TlsSettings, authenticator: Authenticator, staging: Staging, place: Place, copies: KnownCopies
) -> Listener:
    """Return the listener of a site's door; `start` serves.

    Raises:
        ConfigurationError: it cannot be listened on.
    """
    rules = staging.rules
    on_demand = OnDemand(rules.service, place.authority, opening.pin_seconds)
    service = DoorService(rules.service, rules.listing, on_demand, copies, staging.sizes, place.authority)
    door = Door(service, rules.service, rules.control, place.site, place.authority, opening.url.rstrip("/"), dict(opening.instances))
    return Listener(opening.address, tls, CertificateAuthentication(authenticator), door, opening.limits)
