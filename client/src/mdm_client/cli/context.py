"""What every command shares: --config, --json, the client."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from mdm_client.client import Client
    from mdm_client.config import ClientConfig

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Session:
    """One run of the command."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.as_json = False
        self._client: Client | None = None

    @property
    def config_path(self) -> Path:
        """The configuration file: --config, else MDM_CONFIG, else the default."""
        from mdm_client.config import DEFAULT_PATH

        return (self.path or Path(os.environ.get("MDM_CONFIG") or DEFAULT_PATH)).expanduser()

    def config(self) -> "ClientConfig":
        """Return the client configuration."""
        # The SDK takes longer to import than `mdm --help` may take.
        from mdm_client.config import ClientConfig

        return ClientConfig.load(self.config_path)

    def client(self, context: click.Context) -> "Client":
        """Return the client, opened at the first call and closed with the command."""
        from mdm_client.client import Client

        if self._client is None:
            self._client = context.with_resource(Client(self.config()))
        return self._client


def _set_config(context: click.Context, _option: click.Parameter, value: Path | None) -> None:
    if value is not None:
        context.ensure_object(Session).path = value


def _set_json(context: click.Context, _option: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Session).as_json = True


def common_options(command: _Command) -> _Command:
    """Give a command --config and --json, which may stand before or after its name."""
    config = click.option(
        "--config",
        metavar="FILE",
        type=click.Path(path_type=Path),
        expose_value=False,
        callback=_set_config,
        help="Client configuration (else MDM_CONFIG, else ~/.config/mdm/client.toml).",
    )
    as_json = click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        callback=_set_json,
        help="Write JSON for programs, errors too (on standard error).",
    )
    return config(as_json(command))


#: Of commands whose output files leave alone what exists.
force_option = click.option("-f", "--force", is_flag=True, help="Replace a file that exists.")


def session(context: click.Context) -> Session:
    """Return the run that `context` belongs to."""
    return context.ensure_object(Session)
