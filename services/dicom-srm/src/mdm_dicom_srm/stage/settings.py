"""Settings of staging: the table `[spool]` of the configuration."""

from pathlib import Path
from typing import Annotated

from mdm_service.settings import Section
from pydantic import Field, model_validator

Seconds = Annotated[float, Field(gt=0)]


class SpoolSettings(Section):
    """Staged ciphertext on disk, and how it gets there."""

    directory: Path
    quota_bytes: Annotated[int, Field(gt=0)] = 50_000_000_000
    keep_free_bytes: Annotated[int, Field(ge=0)] = 0
    default_pin_seconds: Annotated[int, Field(gt=0)] = 259_200
    max_pin_seconds: Annotated[int, Field(gt=0)] = 1_814_400
    request_seconds: Seconds = 3600
    retention_seconds: Seconds = 3600
    stall_seconds: Seconds = 120
    recheck_seconds: Seconds = 60
    retrievals: Annotated[int, Field(ge=1, le=64)] = 2
    processes: Annotated[int, Field(ge=0, le=256)] = 0
    bytes_in_flight: Annotated[int, Field(gt=0)] = 64 * 1024 * 1024
    files_per_caller: Annotated[int, Field(gt=0)] = 100_000

    @model_validator(mode="after")
    def _consistent(self) -> "SpoolSettings":
        if self.default_pin_seconds > self.max_pin_seconds:
            raise ValueError("default_pin_seconds is above max_pin_seconds")
        return self
