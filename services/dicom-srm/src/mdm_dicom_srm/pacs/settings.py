"""Settings of the PACS: the table `[pacs]` of the configuration."""

from pathlib import Path
from typing import Annotated, Literal

from mdm_service.settings import Section
from pydantic import Field, StringConstraints, model_validator

AeTitle = Annotated[str, StringConstraints(pattern=r"^[\x21-\x5b\x5d-\x7e]([\x20-\x5b\x5d-\x7e]{0,14}[\x21-\x5b\x5d-\x7e])?$")]


class PacsSettings(Section):
    """The hospital's PACS and how to retrieve from it."""

    ae_title: AeTitle
    host: str
    port: Annotated[int, Field(ge=1, le=65535)]
    calling_ae_title: AeTitle = "MDM"
    dicomweb_url: str = ""
    dicomweb_user: str = ""
    dicomweb_password_file: Path | None = None
    retrieve: tuple[Literal["wado-rs", "c-get"], ...] = ("wado-rs", "c-get")
    timeout_seconds: Annotated[float, Field(gt=0)] = 60.0

    @model_validator(mode="after")
    def _consistent(self) -> "PacsSettings":
        if not self.retrieve:
            raise ValueError("retrieve must name at least one of wado-rs, c-get")
        if "wado-rs" in self.retrieve and not self.dicomweb_url:
            raise ValueError("retrieve names wado-rs, so dicomweb_url is needed")
        return self
