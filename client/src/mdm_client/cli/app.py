"""The mdm command and its sub-commands."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from mdm_client.cli.context import Session, common_options
from mdm_client.cli.error import INTERRUPTED, TERMINATED, Interrupted, PipeClosed, run
from mdm_client.cli.example import EXAMPLES
from mdm_client.cli.group import ExtendableGroup

_COMPLETE_VARIABLE = "_MDM_COMPLETE"
#: Where each command is, and what the help says of it.
_COMMANDS = {
    "acl": ("mdm_client.cli.catalog.acl:acl", "Show and change who may do what, in catalog, keystores and metadata."),
    "chown": ("mdm_client.cli.catalog.acl:chown", "Give access lists to another owner, in every service."),
    "comment": ("mdm_client.cli.catalog.tree:comment", "Show or set the comment of an entry of the catalog."),
    "decrypt": ("mdm_client.cli.keystore.encryption:decrypt", "Decrypt a file that mdm encrypt made, or a staged one."),
    "du": ("mdm_client.cli.catalog.search:du", "Sum up directories of the catalog."),
    "encrypt": ("mdm_client.cli.keystore.encryption:encrypt", "Encrypt a file of any kind under a key of the keystores."),
    "find": ("mdm_client.cli.catalog.search:find", "Find entries of the catalog by name, kind, size, time."),
    "get": ("mdm_client.cli.dicom_srm.get:get", "Fetch files, decrypted."),
    "key": ("mdm_client.cli.keystore.key:key", "Create, inspect, share, destroy and look after the keys of files."),
    "ln": ("mdm_client.cli.catalog.tree:ln", "Make a symbolic link in the catalog."),
    "ls": ("mdm_client.cli.catalog.listing:list_directory", "List a directory of the catalog, or one file."),
    "meta": ("mdm_client.cli.metadata.collection:meta", "Make, change, fill and copy collections of metadata."),
    "mkdir": ("mdm_client.cli.catalog.tree:mkdir", "Make directories in the catalog."),
    "mv": ("mdm_client.cli.catalog.tree:mv", "Rename files and directories, however large."),
    "query": ("mdm_client.cli.metadata.query:query", "Ask the metadata in SQL (SELECT)."),
    "conflicts": ("mdm_client.cli.dicom_srm.register:conflicts", "List entries of which images state different values (operators only)."),
    "register": ("mdm_client.cli.dicom_srm.register:register", "Make the images of a study visible on the grid (operators only)."),
    "replica": ("mdm_client.cli.catalog.replica:replica", "Show, add, change and remove the catalog's copies of files."),
    "rm": ("mdm_client.cli.catalog.tree:rm", "Remove files, links and directories from the catalog."),
    "rmdir": ("mdm_client.cli.catalog.tree:rmdir", "Remove empty directories from the catalog."),
    "stat": ("mdm_client.cli.catalog.listing:stat", "Show everything the catalog says about files and directories."),
    "whoami": ("mdm_client.cli.catalog.listing:whoami", "Show who you are to the services."),
}


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
            os._exit(code)
        sys.exit(code)

    def make_context(self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any) -> click.Context:
        """Return the context of the command; see click.Command.make_context. Raises as `invoke`: the help is written here."""
        with _unhandled_by_click():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, context: click.Context) -> Any:
        """Run the command that was named.

        Raises:
            Interrupted: Control-C was pressed. PipeClosed: the reader of standard output has disconnected.
        """
        with _unhandled_by_click():
            return super().invoke(context)


@contextmanager
def _unhandled_by_click() -> Iterator[None]:
    """Turn what click would end the process for, with a line or an exit code of its own, into what it does not know."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted from None
    except BrokenPipeError:
        raise PipeClosed from None


@click.group(
    cls=MdmGroup,
    lazy=_COMMANDS,
    epilog=f"\b\nExample:\n  {EXAMPLES['']}",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="mdm-client", prog_name="mdm")
@common_options
@click.pass_context
def main(context: click.Context) -> None:
    """Find, fetch and share medical images on the grid.

    Exit codes: 0 done; 1 some items failed; 2 wrong usage, argument or configuration; 3 not found or not allowed;
    4 a service is away, try again; 5 certificate refused or expired; 130 interrupted; 141 the reader of a pipe has disconnected.
    """
    context.ensure_object(Session)


@main.command()
@click.argument("shell", required=False, type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str | None) -> None:
    """Print the completion script of your SHELL (bash, zsh or fish).

    For bash: eval "$(mdm completion bash)" in ~/.bashrc.
    """
    from click.shell_completion import ShellComplete, get_completion_class

    name = shell or os.path.basename(os.environ.get("SHELL", "bash"))  # noqa: PTH119 - a name, not a file
    found = get_completion_class(name)
    if found is None:
        raise click.UsageError(f"no completion for {name}: name bash, zsh or fish")
    # The base class's source: bash's own runs bash to learn its version.
    click.echo(ShellComplete.source(found(main, {}, "mdm", _COMPLETE_VARIABLE)))
