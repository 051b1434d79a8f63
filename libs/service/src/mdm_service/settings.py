"""Frozen settings of a service, from a TOML file and the environment, checked before anything opens."""

import tomllib
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import psycopg
from mdm_wire.delegation import ANY_AUDIENCE
from psycopg import conninfo
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from mdm_service.policy import ROLES

MAX_WORKERS = 256


class ConfigurationError(Exception):
    """The configuration cannot be used; the message names file, key and remedy."""


class Section(BaseModel):
    """A table of the configuration file: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Address(Section):
    """Where a listener listens."""

    host: str = "127.0.0.1"
    port: int = Field(ge=0, le=65535)


class TlsSettings(Section):
    """The service's own certificate, also its identity towards other services, and the trusted roots."""

    certificate: Path
    key: Path
    ca: Path


class AuthoritySettings(Section):
    """A trusted authority: its certificate, the namespaces (DN prefixes) it may sign, its CRL."""

    certificate: Path
    namespaces: tuple[str, ...] = Field(min_length=1)
    crl: Path | None = None


class TrustSettings(Section):
    """Which certificates are accepted."""

    ca: tuple[AuthoritySettings, ...] = Field(min_length=1)
    ban_list: Path | None = None


class GroupSettings(Section):
    """The VO's membership file."""

    file: Path


class DatabaseSettings(Section):
    """Where the database is. The password is in a file of its own, never in the configuration."""

    conninfo: str
    password_file: Path | None = None
    pool_min: int = Field(default=2, ge=0)
    pool_max: int = Field(default=16, ge=1)

    def full_conninfo(self) -> str:
        """Return the libpq connection string with the password.

        Raises:
            ConfigurationError: it or the password file cannot be read.
        """
        try:
            parameters = conninfo.conninfo_to_dict(self.conninfo)
            if self.password_file is not None:
                parameters["password"] = self.password_file.read_text().strip()
        except (psycopg.ProgrammingError, OSError) as error:
            raise ConfigurationError(f"database: {error}") from error
        return conninfo.make_conninfo("", **parameters)


class DelegationSettings(Section):
    """Whose tokens jobs may show: those for one of `audiences`, of users of this service, living at most `max_hours`."""

    audiences: tuple[str, ...] = (ANY_AUDIENCE,)
    max_hours: int = Field(default=24, ge=1, le=168)

    @property
    def max_seconds(self) -> int:
        """How long a token may live."""
        return self.max_hours * 3600


class LogSettings(Section):
    """How much is logged."""

    level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")


class ServiceSettings(BaseSettings):
    """The settings that all services have; each service adds its own sections.

    Environment variables `MDM_<SERVICE>__SECTION__KEY` override the file.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    listen: Address
    metrics: Address = Address(port=0)
    tls: TlsSettings
    trust: TrustSettings
    groups: GroupSettings | None = None
    roles: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    database: DatabaseSettings | None = None
    log: LogSettings = LogSettings()
    delegation: DelegationSettings = DelegationSettings()
    reflection: bool = False
    threads: int = Field(default=32, ge=1, le=1024)
    workers: int = Field(default=1, ge=1, le=MAX_WORKERS)

    #: How many pools of database connections a process has.
    pools: ClassVar[int] = 1
    _environment_prefix: ClassVar[str] = ""

    @property
    def connections(self) -> int:
        """The largest number of database connections of all the service's processes."""
        return 0 if self.database is None else self.workers * self.pools * self.database.pool_max

    @field_validator("roles")
    @classmethod
    def _known_roles(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        unknown = value.keys() - ROLES
        if unknown:
            raise ValueError(f"unknown role {min(unknown)}: the roles are {', '.join(sorted(ROLES))}")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources, the first wins: environment variables with the service's prefix, then the file."""
        del env_settings, dotenv_settings, file_secret_settings
        environment = EnvSettingsSource(settings_cls, env_prefix=cls._environment_prefix, env_nested_delimiter="__")
        return (environment, init_settings)


S = TypeVar("S", bound=ServiceSettings)


def load(settings_class: type[S], service: str, path: Path) -> S:
    """Read the settings of `service` from a TOML file and the environment; relative paths are relative to the file.

    Raises:
        ConfigurationError: the file cannot be read, or keys are unknown, missing or wrong; one line per key.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    prefix = f"MDM_{service.upper().replace('-', '_')}__"
    bound = type(
        settings_class.__name__,
        (settings_class,),
        {"_environment_prefix": prefix, "__module__": settings_class.__module__},
    )
    try:
        loaded = bound(**document)
    except ValidationError as error:
        lines = [f"{'.'.join(str(part) for part in item['loc']) or 'file'}: {item['msg']}" for item in error.errors(include_input=False)]
        raise ConfigurationError(f"{path}: " + "; ".join(lines)) from None
    resolved: S = _resolved(loaded, path.resolve().parent)
    return resolved


def _resolved(value: Any, base: Path) -> Any:
    """Return a copy of a settings tree whose relative paths start at `base`."""
    if isinstance(value, Path):
        return value if value.is_absolute() else base / value
    if isinstance(value, tuple):
        return tuple(_resolved(item, base) for item in value)
    if isinstance(value, list):
        return [_resolved(item, base) for item in value]
    if isinstance(value, dict):
        return {key: _resolved(item, base) for key, item in value.items()}
    if isinstance(value, BaseModel):
        changes = {name: _resolved(getattr(value, name), base) for name in type(value).model_fields}
        return value.model_copy(update=changes)
    return value
