"""Settings of a keystore."""

from pathlib import Path

from mdm_service.settings import Section, ServiceSettings
from pydantic import Field


class KeystoreSection(Section):
    """Which of the keystores this is, and how it keeps its shares."""

    name: str = Field(min_length=1, max_length=64)
    index: int = Field(ge=1, le=16)
    kek_file: Path
    pending_ttl_seconds: float = Field(default=3600, gt=0)
    purge_interval_seconds: float = Field(default=60, gt=0)


class KeystoreSettings(ServiceSettings):
    """The whole configuration; see config.example.toml."""

    keystore: KeystoreSection
