"""One run of the command: its configuration, its client, and the options that commands share."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
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
        self.delegation: Path | None = None
        self.as_json = False
        self._client: Client | None = None

    @property
    def config_path(self) -> Path:
        """The configuration file: --config, else MDM_CONFIG, else the default."""
        from mdm_client.config import DEFAULT_PATH

        return (self.path or Path(os.environ.get("MDM_CONFIG") or DEFAULT_PATH)).expanduser()

    def config(self) -> "ClientConfig":
        # The SDK takes longer to import than `mdm --help` may take.
        from mdm_client.config import ClientConfig

        return ClientConfig.load(self.config_path)

    def token(self) -> str:
        """Return the token by which this run acts for another user: of --delegation, else of MDM_DELEGATION, else none."""
        file = self.delegation or os.environ.get("MDM_DELEGATION")
        if not file:
            return ""
        from mdm_client.delegation import read_token

        return read_token(Path(file))

    def client(self) -> "Client":
        """Return the client, opened at the first call and closed with the command."""
        from mdm_client.client import Client

        if self._client is None:
            token = self.token()
            self._client = click.get_current_context().with_resource(Client(self.config(), delegation=token))
        return self._client


_pass_session = click.make_pass_decorator(Session, ensure=True)


def _set_config(context: click.Context, _option: click.Parameter, value: Path | None) -> None:
    if value is not None:
        context.ensure_object(Session).path = value


def _set_delegation(context: click.Context, _option: click.Parameter, value: Path | None) -> None:
    if value is not None:
        context.ensure_object(Session).delegation = value


def _set_json(context: click.Context, _option: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Session).as_json = True


def common_options(command: _Command) -> _Command:
    """Give a command --config, --delegation and --json, which may stand before or after its name."""
    config = click.option(
        "--config",
        metavar="FILE",
        type=click.Path(path_type=Path),
        expose_value=False,
        callback=_set_config,
        help="Client configuration (else MDM_CONFIG, else ~/.config/mdm/client.toml).",
    )
    delegation = click.option(
        "--delegation",
        metavar="FILE",
        type=click.Path(path_type=Path),
        expose_value=False,
        callback=_set_delegation,
        help="Act as the user who made this token for you: mdm delegate (else MDM_DELEGATION).",
    )
    as_json = click.option(
        "--json", is_flag=True, expose_value=False, callback=_set_json, help="Write JSON for programs, errors too (on standard error)."
    )
    return config(delegation(as_json(command)))


def session_command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the common options, and its function the session as first argument."""
    return common_options(_pass_session(function))


#: Of commands whose output files leave alone what exists.
force_option = click.option("-f", "--force", is_flag=True, help="Replace a file that exists.")


class RenamedOption(click.Option):
    """An option with `old` spellings, which are accepted, but shown neither in the help nor in messages."""

    def __init__(self, declarations: Sequence[str], *, old: Sequence[str], **named: Any) -> None:
        super().__init__([*declarations, *old], **named)
        self.old = tuple(old)

    @property
    def spellings(self) -> list[str]:
        """The spellings that are shown."""
        return [spelling for spelling in self.opts if spelling not in self.old]

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        with self._shown():
            return super().get_help_record(ctx)

    def get_error_hint(self, ctx: click.Context | None) -> str:
        with self._shown():
            return super().get_error_hint(ctx)

    @contextmanager
    def _shown(self) -> Iterator[None]:
        every, self.opts = self.opts, self.spellings
        try:
            yield
        finally:
            self.opts = every


def parameter_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--param NAME=VALUE`, which gives the command `parameters`."""
    return click.option(
        "--param",
        "parameters",
        cls=RenamedOption,
        old=["-p"],
        multiple=True,
        metavar="NAME=VALUE",
        callback=_parsed_parameters,
        help="The value of :NAME in the SQL, whatever is in it; may be given several times.",
    )(command)


def _parsed_parameters(context: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> Mapping[str, str]:
    del context, option
    found: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name.isidentifier():
            raise click.BadParameter("write NAME=VALUE, and :NAME in the SQL")
        if name in found:
            raise click.BadParameter(f"{name} is given twice")
        found[name] = value
    return found


def keep_freed_memory() -> None:
    """Let the process reuse freed buffers of up to 32 MiB instead of mapping each anew.

    Files arrive in buffers of some hundred kilobytes; to map and zero pages for each takes a quarter of the processor time
    of receiving them. Without glibc, nothing changes.
    """
    import ctypes

    mmap_threshold, trim_threshold = -3, -1  # <malloc.h> of glibc
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, 32 * 1024 * 1024)
        mallopt(trim_threshold, 256 * 1024 * 1024)
