"""Settings of a keystore."""

from pathlib import Path
from typing import Annotated

from mdm_service.settings import Section, ServiceSettings
from mdm_wire import dn
from mdm_wire.errors import MdmError
from pydantic import AfterValidator, Field, model_validator


def _canonical(value: str) -> str:
    try:
        return dn.canonical(value)
    except MdmError as error:
        raise ValueError(error.message) from None


class PeerSection(Section):
    """Another keystore: its share index, its address, the subject of its certificate."""

    index: int = Field(ge=1, le=16)
    address: str = Field(pattern=r"^\S+:\d+$")
    subject: Annotated[str, AfterValidator(_canonical)]


class KeystoreSection(Section):
    """This keystore: its share index, its key-encryption keys, its peers."""

    name: str = Field(min_length=1, max_length=64)
    index: int = Field(ge=1, le=16)
    kek_file: Path
    pending_ttl_seconds: float = Field(default=3600, gt=0)
    purge_interval_seconds: float = Field(default=60, gt=0)
    minimum_threshold: int = Field(default=2, ge=2, le=16)
    witness_interval_seconds: float = Field(default=60, gt=0)
    peers: tuple[PeerSection, ...] = ()

    @model_validator(mode="after")
    def _peers_differ(self) -> "KeystoreSection":
        indexes = [self.index, *(peer.index for peer in self.peers)]
        if len(set(indexes)) != len(indexes) or len({peer.subject for peer in self.peers}) != len(self.peers):
            raise ValueError("peers: indexes and subjects must be unique, and the list must not include this keystore")
        return self


class KeystoreSettings(ServiceSettings):
    """The whole configuration; see config.example.toml."""

    keystore: KeystoreSection
