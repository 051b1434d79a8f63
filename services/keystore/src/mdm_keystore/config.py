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
    """Another keystore: the share it holds, where it listens, whose certificate it has."""

    index: int = Field(ge=1, le=16)
    address: str = Field(pattern=r"^\S+:\d+$")
    subject: Annotated[str, AfterValidator(_canonical)]


class KeystoreSection(Section):
    """Which of the keystores this is, and how it keeps its shares."""

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
            raise ValueError("peers: each keystore has an index and a subject of its own, and this one is not among its peers")
        return self


class KeystoreSettings(ServiceSettings):
    """The whole configuration; see config.example.toml."""

    keystore: KeystoreSection
