"""The mdm command and its sub-commands."""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import click
from click.shell_completion import ShellComplete, get_completion_class

from mdm_client.cli.access import acl
from mdm_client.cli.browse import list_directory, query, stat, whoami
from mdm_client.cli.context import Session, common_options
from mdm_client.cli.crypt import decrypt, encrypt
from mdm_client.cli.extension import ExtendableGroup
from mdm_client.cli.fetch import get
from mdm_client.cli.key import key
from mdm_client.cli.key_acl import key_acl
from mdm_client.cli.outcome import INTERRUPTED, TERMINATED, run
from mdm_client.cli.site import register

_COMPLETE_VARIABLE = "_MDM_COMPLETE"


class MdmGroup(ExtendableGroup):
    """A group whose errors are one line (or one JSON object) and an exit code."""

    def main(self, args: Sequence[str] | None = None, *positional: Any, standalone_mode: bool = True, **named: Any) -> Any:
        """Run the command; see click.Command.main."""
        arguments = list(sys.argv[1:] if args is None else args)
        named["prog_name"] = "mdm"
        named.setdefault("complete_var", _COMPLETE_VARIABLE)
        if not standalone_mode:
            return super().main(arguments, standalone_mode=False, **named)
        code = run(lambda: click.Group.main(self, arguments, standalone_mode=False, **named), "--json" in arguments)
        if code in (INTERRUPTED, TERMINATED):
            # Without waiting for threads that hang in a call: what matters was cleaned up.
            sys.stdout.flush()
            os._exit(code)
        sys.exit(code)


@click.group(cls=MdmGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("mdm-client"), prog_name="mdm")
@common_options
@click.pass_context
def main(context: click.Context) -> None:
    """Find, fetch and share medical images on the grid.

    Exit codes: 0 done; 1 some items failed; 2 wrong usage, argument or configuration; 3 not found or not allowed;
    4 a service is away, try again; 5 certificate refused or expired; 130 interrupted.
    """
    context.ensure_object(Session)


@main.command()
@click.argument("shell", required=False, type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str | None) -> None:
    """Print the completion script of your SHELL (bash, zsh or fish).

    For bash: eval "$(mdm completion bash)" in ~/.bashrc.
    """
    name = shell or os.path.basename(os.environ.get("SHELL", "bash"))  # noqa: PTH119 - a name, not a file
    found = get_completion_class(name)
    if found is None:
        raise click.UsageError(f"no completion for {name}: name bash, zsh or fish")
    # The base class's source: bash's own runs bash to learn its version.
    click.echo(ShellComplete.source(found(main, {}, "mdm", _COMPLETE_VARIABLE)))


for _command in (whoami, list_directory, stat, query, get, encrypt, decrypt, key, acl, register):
    main.add_command(_command)
key.add_command(key_acl)
