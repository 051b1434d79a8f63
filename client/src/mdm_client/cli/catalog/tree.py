"""Commands that change names: mkdir, rmdir, ln, mv, rm, comment."""

import sys
from collections.abc import Sequence

import click
from mdm_wire.errors import Invalid, MdmError, NotFound

from mdm_client.catalog.model import DIRECTORY, Entry, Search
from mdm_client.cli.catalog.entry import LFN, finish
from mdm_client.cli.context import RenamedOption, Session, session_command
from mdm_client.cli.error import OK, show_client_error
from mdm_client.cli.output import printable, show
from mdm_client.client import Client
from mdm_client.name_syntax import Name, normalise_lfn, parse_name, parse_names
from mdm_client.result.removal import remove_results

_verbose = click.option("-v", "--verbose", is_flag=True, help="Name everything that is done.")


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=LFN)
@click.option("-p", "--parents", is_flag=True, help="Make what is missing above too; a directory that exists is fine.")
@click.option("--acl", "acl_id", type=click.UUID, metavar="ACL_ID", help="Guard it by this access list, which exists (default: inherited).")
@click.option("--default-acl", type=click.UUID, metavar="ACL_ID", help="Guard by this one what is made below (default: as --acl).")
@_verbose
@session_command
def mkdir(run: Session, paths: tuple[str, ...], parents: bool, acl_id: object, default_acl: object, verbose: bool) -> int:
    """Make directories. Each inherits the access list that the directory above has for new entries."""
    lfns = [normalise_lfn(path) for path in paths]
    catalog = run.client().catalog
    errors = catalog.changes.make_directories(lfns, parents, str(acl_id or ""), str(default_acl or ""))
    return finish(run, lfns, errors, "made" if verbose else "")


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=LFN)
@click.option("-p", "--parents", is_flag=True, help="The directories above too: all but /.")
@_verbose
@session_command
def rmdir(run: Session, paths: tuple[str, ...], parents: bool, verbose: bool) -> int:
    """Remove empty directories; one command may name a directory and what is in it."""
    client = run.client()
    lfns = [normalise_lfn(path) for path in paths]
    if parents:
        lfns = list(dict.fromkeys(above for lfn in lfns for above in _with_parents(lfn)))
    names = [Name(lfn=lfn) for lfn in lfns]
    errors: list[MdmError | None] = []
    for name, entry in zip(names, client.catalog.stat(names, follow=False), strict=True):
        wrong = isinstance(entry, Entry) and entry.kind != DIRECTORY
        errors.append(Invalid("NOT_A_DIRECTORY", f"{name}: not a directory; use mdm rm") if wrong else None)
    good = [name for name, error in zip(names, errors, strict=True) if error is None]
    removed = iter(client.catalog.changes.remove(good))
    return finish(run, [str(name) for name in names], [error or next(removed) for error in errors], "removed" if verbose else "")


@click.command()
@click.argument("target", type=LFN)
@click.argument("link", type=LFN)
@click.option(
    "-s", "--symbolic", is_flag=True, expose_value=False, hidden=True, help="Accepted and without effect: every link is symbolic."
)
@session_command
def ln(run: Session, target: str, link: str) -> int:
    """Make LINK a symbolic link that leads to TARGET, an absolute path or one relative to LINK's directory.

    TARGET need not exist. If LINK is a directory, the link is made in it under TARGET's last name.
    """
    catalog = run.client().catalog
    leads = normalise_lfn(target) if target.startswith("/") else target
    lfn = normalise_lfn(link)
    [present] = catalog.stat([Name(lfn=lfn)])
    if isinstance(present, Entry) and present.kind == DIRECTORY:
        lfn = _in_directory(lfn, leads.rstrip("/").rpartition("/")[2])
    return finish(run, [lfn], catalog.changes.make_links([(lfn, leads)]))


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...", type=LFN)
@click.argument("destination", type=LFN)
@click.option("-f", "--force", is_flag=True, help="Replace a file, a link or an empty directory that has the new name; its GUID is gone.")
@click.option("-T", "--no-target-directory", is_flag=True, help="DESTINATION is the new name itself, even if a directory has it.")
@_verbose
@session_command
def mv(run: Session, sources: tuple[str, ...], destination: str, force: bool, no_target_directory: bool, verbose: bool) -> int:
    """Give SOURCE the path DESTINATION, or move every SOURCE into the directory DESTINATION.

    A directory takes everything below along at once. Access lists, GUIDs, keys and metadata stay as they are.
    """
    catalog = run.client().catalog
    names, lfn = parse_names(sources), normalise_lfn(destination)
    [present] = [None] if no_target_directory else catalog.stat([Name(lfn=lfn)])
    into = isinstance(present, Entry) and present.kind == DIRECTORY
    if len(names) > 1 and not into:
        raise click.UsageError(f"{destination}: to move several entries there it must be a directory")
    places = [_in_directory(lfn, _last_name(catalog.stat([name], follow=False)[0], name)) if into else lfn for name in names]
    errors = catalog.changes.rename(list(zip(names, places, strict=True)), replace=force)
    return finish(run, [str(name) for name in names], errors, "moved" if verbose else "")


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...", type=LFN)
@click.option(
    "-R", "--recursive", cls=RenamedOption, old=["-r"], is_flag=True, help="Directories with everything below, each wholly or not at all."
)
@click.option("-f", "--force", is_flag=True, help="What does not exist, or you may not see, is no error.")
@click.option("--name", "pattern", metavar="PATTERN", help="Only files and links below TARGET whose names match, such as '*.dcm'.")
@click.option("-n", "--dry-run", is_flag=True, help="With --name: print what would be removed.")
@click.option("-i", "--interactive", is_flag=True, help="Ask before each; without an answer it stays.")
@_verbose
@session_command
def rm(
    run: Session,
    targets: tuple[str, ...],
    recursive: bool,
    force: bool,
    pattern: str | None,
    dry_run: bool,
    interactive: bool,
    verbose: bool,
) -> int:
    """Remove files, links and, with -r, directories (LFN, GUID or SURL) from the catalog.

    Of results (mdm put) that you own, everything is removed: name, description, key and bytes. Of other files only the name: keys
    (mdm key unregister) and metadata stay, and the PACS keeps its images.
    """
    client = run.client()
    if dry_run and pattern is None:
        raise click.UsageError("--dry-run goes with --name")
    if pattern is not None:
        return _remove_matching(run, client, [normalise_lfn(target) for target in targets], pattern, dry_run, interactive, verbose)
    names = [name for name in parse_names(targets) if not interactive or _agreed(str(name))]
    errors = _remove(client, names, recursive)
    if force:
        errors = [None if isinstance(error, NotFound) else error for error in errors]
    return finish(run, [str(name) for name in names], errors, "removed" if verbose else "")


def _remove(client: Client, names: list[Name], recursive: bool) -> list[MdmError | None]:
    """Remove entries, and of the caller's results among them everything; return each one's error."""
    gone = remove_results(client, names, recursive)
    rest = [name for name in names if name not in gone]
    left = dict(zip(rest, client.catalog.changes.remove(rest, recursive) if rest else [], strict=True))
    return [gone[name] if name in gone else left[name] for name in names]


@click.command()
@click.argument("target", type=LFN)
@click.argument("text", required=False)
@click.option("--clear", is_flag=True, help="Remove the comment.")
@session_command
def comment(run: Session, target: str, text: str | None, clear: bool) -> int:
    """Show the comment of TARGET, or make TEXT its comment (one line, at most 255 bytes)."""
    name = parse_name(target)
    if text is not None and clear:
        raise click.UsageError("give TEXT or --clear, not both")
    catalog = run.client().catalog
    if text is None and not clear:
        [entry] = catalog.stat([name])
        if isinstance(entry, MdmError):
            raise entry
        show(run.as_json, {"item": str(name), "comment": entry.comment}, printable(entry.comment))
        return OK
    return finish(run, [str(name)], catalog.changes.set_attributes([name], comment=text or ""))


def _remove_matching(
    run: Session, client: Client, roots: Sequence[str], pattern: str, dry_run: bool, interactive: bool, verbose: bool
) -> int:
    search = Search(name=pattern, kinds=("file", "symlink"))
    lfns: list[str] = []
    missing: list[MdmError] = []
    for root in roots:
        try:
            lfns += (entry.lfn for entry in client.catalog.find(root, search))
        except MdmError as error:
            missing.append(error)
            show_client_error(error, run.as_json, root)
    if missing:
        raise missing[0]
    if dry_run:
        for lfn in lfns:
            show(run.as_json, {"item": lfn}, printable(lfn))
        return OK
    if interactive:
        lfns = [lfn for lfn in lfns if _agreed(lfn)]
    return finish(run, lfns, client.catalog.changes.remove([Name(lfn=lfn) for lfn in lfns]), "removed" if verbose else "")


def _agreed(item: str) -> bool:
    """Ask whether to remove something; the end of the input means no."""
    click.echo(f"remove {printable(item)}? [y/N] ", nl=False, err=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _with_parents(lfn: str) -> list[str]:
    names = lfn.strip("/").split("/")
    return ["/" + "/".join(names[:length]) for length in range(len(names), 0, -1)]


def _last_name(entry: Entry | MdmError, name: Name) -> str:
    if isinstance(entry, MdmError):
        raise entry.at(str(name))
    return entry.lfn.rpartition("/")[2]


def _in_directory(directory: str, name: str) -> str:
    return normalise_lfn(f"{directory}/{name}")
