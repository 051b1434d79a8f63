"""The mdm command and its sub-commands."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import click

from mdm_client.cli.context import common_options
from mdm_client.cli.error import INTERRUPTED, TERMINATED, Interrupted, PipeClosed, run
from mdm_client.cli.group import EXAMPLES, LazyGroup
from mdm_client.cli.start import finish

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_COMPLETE_VARIABLE = "_MDM_COMPLETE"
#: The place of each command, and its line of the help.
_COMMANDS = {
    "acl": ("mdm_client.cli.catalog.acl:acl", "Show and change who may do what, in catalog, keystores and metadata."),
    "chown": ("mdm_client.cli.catalog.acl:chown", "Give access lists to another owner, in every service."),
    "comment": ("mdm_client.cli.catalog.tree:comment", "Show or set the comment of an entry of the catalog."),
    "decrypt": ("mdm_client.cli.keystore.encryption:decrypt", "Decrypt a file that mdm encrypt made, or a staged one."),
    "delegate": ("mdm_client.cli.delegate:delegate", "Let a job read for you, with a certificate of its own and not your key."),
    "desk": ("mdm_client.cli.desk:desk", "Decide about images that wait, in a browser (curators only)."),
    "du": ("mdm_client.cli.catalog.listing:du", "Sum up directories of the catalog."),
    "encrypt": ("mdm_client.cli.keystore.encryption:encrypt", "Encrypt a file of any kind under a key of the keystores."),
    "find": ("mdm_client.cli.catalog.listing:find", "Find entries of the catalog by name, kind, size, time."),
    "get": ("mdm_client.cli.get:get", "Fetch files, decrypted."),
    "key": ("mdm_client.cli.keystore.key:key", "Create, inspect, share, destroy and look after the keys of files."),
    "ln": ("mdm_client.cli.catalog.tree:ln", "Make a symbolic link in the catalog."),
    "ls": ("mdm_client.cli.catalog.listing:list_directory", "List a directory of the catalog, or one file."),
    "meta": ("mdm_client.cli.metadata.collection:meta", "Make, change, fill and copy collections of metadata."),
    "mkdir": ("mdm_client.cli.catalog.tree:mkdir", "Make directories in the catalog."),
    "mount": ("mdm_client.cli.mount:mount", "Mount the catalog as a directory, for any program."),
    "mv": ("mdm_client.cli.catalog.tree:mv", "Rename files and directories, however large."),
    "put": ("mdm_client.cli.put:put", "Give results back: encrypt files here, keep them at a site, name them."),
    "quarantine": ("mdm_client.cli.quarantine:quarantine", "Look at images that wait for a person, and decide (curators only)."),
    "query": ("mdm_client.cli.metadata.query:query", "Ask the metadata in SQL (SELECT)."),
    "conflicts": ("mdm_client.cli.registration:conflicts", "List entries of which images state different values (operators only)."),
    "register": ("mdm_client.cli.registration:register", "Bring the grid to what the PACS has (operators only)."),
    "registrations": ("mdm_client.cli.registration:registrations", "List registrations, their states and why (operators only)."),
    "replica": ("mdm_client.cli.catalog.replica:replica", "Show, add, change and remove the catalog's copies of files."),
    "rm": ("mdm_client.cli.catalog.tree:rm", "Remove files, links and directories from the catalog."),
    "scans": ("mdm_client.cli.registration:scans", "List scans of the PACS, or end one (operators only)."),
    "rmdir": ("mdm_client.cli.catalog.tree:rmdir", "Remove empty directories from the catalog."),
    "show": ("mdm_client.cli.show:show", "Draw images in the terminal."),
    "site": ("mdm_client.cli.site:site", "See how a site is, what waits and what failed (operators only)."),
    "srm": ("mdm_client.cli.srm:srm", "Look after staged files: what is where, requests, pins, spools."),
    "stage": ("mdm_client.cli.srm:stage", "Have files brought online for later."),
    "stat": ("mdm_client.cli.catalog.listing:stat", "Show everything the catalog says about files and directories."),
    "thumbnail": ("mdm_client.cli.show:thumbnail", "Write a small picture of an image, series or study."),
    "unregister": ("mdm_client.cli.registration:unregister", "Remove images from the grid (operators only)."),
    "view": ("mdm_client.cli.view:view", "Find studies in a browser and look at them."),
    "whoami": ("mdm_client.cli.catalog.listing:whoami", "Show who you are to the services."),
}


class MdmGroup(LazyGroup):
    """The group of all commands, those of installed packages too. Errors are one line (or one JSON object) and an exit code."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted({*super().list_commands(context), *_offered()})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Return a command, or None if nobody has it; packages replace none of ours.

        Raises:
            click.ClickException: the package that offers it cannot be imported.
        """
        own = super().get_command(context, name)
        if own is not None or name not in _offered():
            return own
        entry = _offered()[name]
        try:
            command = entry.load()
        except ImportError as error:
            raise click.ClickException(f"{name}: {entry.value} cannot be imported, is its package fully installed? {error}") from error
        return command if isinstance(command, click.Command) else None

    def summary(self, context: click.Context, name: str) -> str:
        """Return the line of the help for a command; a package's command is not imported for it."""
        if name in self.lazy or name in self.commands:
            return super().summary(context, name)
        entry = _offered()[name]
        package = entry.dist.name if entry.dist else "another package"
        return f"Added by {package}: mdm {name} --help."

    def main(self, args: Sequence[str] | None = None, *positional: Any, standalone_mode: bool = True, **named: Any) -> Any:
        arguments = list(sys.argv[1:] if args is None else args)
        named["prog_name"] = "mdm"
        named.setdefault("complete_var", _COMPLETE_VARIABLE)
        if not standalone_mode:
            return super().main(arguments, standalone_mode=False, **named)
        code = run(lambda: click.Group.main(self, arguments, standalone_mode=False, **named), "--json" in arguments)
        if code in (INTERRUPTED, TERMINATED):
            # Do not wait for threads that hang in a call: everything that must be was cleaned up.
            os._exit(code)
        finish()
        sys.exit(code)

    def make_context(self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any) -> click.Context:
        """Return the context of the command; errors as `invoke`, for the help is written here."""
        with _unhandled_by_click():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, context: click.Context) -> Any:
        """Run the command that was named.

        Raises:
            Interrupted: Control-C was pressed. PipeClosed: the reader of standard output has disconnected.
        """
        with _unhandled_by_click():
            return super().invoke(context)


@cache
def _offered() -> "dict[str, EntryPoint]":
    """Return the commands of installed packages by name; to find them takes longer than our own commands may."""
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group="mdm.commands")}


@contextmanager
def _unhandled_by_click() -> Iterator[None]:
    """Turn exceptions for which click would end the process in its own way into others, which it does not know."""
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
def main() -> None:
    """Find, fetch and share medical images on the grid.

    Exit codes: 0 done; 1 some items failed; 2 wrong usage, argument or configuration; 3 not found or not allowed;
    4 a service is away, try again; 5 certificate refused or expired; 130 interrupted; 141 the reader of a pipe has disconnected.
    """


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
