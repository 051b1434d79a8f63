"""The command that gives results back to a site: put."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import click
from mdm_wire.errors import Invalid, MdmError

from mdm_client.cli.catalog.entry import LFN
from mdm_client.cli.context import Session, keep_freed_memory, session_command
from mdm_client.cli.error import Failures, exit_code_of_items
from mdm_client.cli.output import counted_bytes, printable, readable_size, show
from mdm_client.fetch.plan import make_plan
from mdm_client.name_syntax import normalise_lfn, parse_names

if TYPE_CHECKING:
    from mdm_client.client import Client
    from mdm_client.result.dicom import Described
    from mdm_client.result.put import LocalResult


def _attributes(_context: click.Context, _option: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise click.BadParameter("write NAME=VALUE")
        if name in found:
            raise click.BadParameter(f"{name} is given twice")
        found[name] = value
    return found


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.argument("directory", metavar="DIR", type=LFN)
@click.option(
    "--derived-from", "sources", multiple=True, metavar="TARGET", type=LFN, help="What they were made from: LFN, directory or GUID."
)
@click.option("--meta", "attributes", multiple=True, metavar="NAME=VALUE", callback=_attributes, help="What the metadata says of them.")
@click.option("--private", is_flag=True, help="For you alone, whoever may read what they were made from.")
@click.option("--group", default="", metavar="GROUP", help="Whose quota counts, if you are in several groups.")
@click.option("--site", default="", metavar="NAME", help="Which site takes them (else the one of DIR).")
@session_command
def put(
    run: Session,
    files: tuple[Path, ...],
    directory: str,
    sources: tuple[str, ...],
    attributes: dict[str, str],
    private: bool,
    group: str,
    site: str,
) -> int:
    """Encrypt FILEs here, give them to a site and name them in DIR, a directory of its catalog.

    Who may read everything that they were made from may read them; without --derived-from only you may. DICOM segmentations, structure
    sets and reports of the grid's own images are derived from the images that they refer to, by themselves.

    Nothing is overwritten. A file is there when it is whole, and what is broken off is withdrawn. --meta knows kind, tool, tool_version,
    description, patient, study and series.
    """
    from mdm_client.result.put import put as put_results

    keep_freed_memory()
    client = run.client()
    lfn = normalise_lfn(directory)
    failures = Failures()
    derived = _sources(client, sources)
    chosen = _local_files(client, files, lfn, derived, attributes, failures)
    began, count, size = time.monotonic(), 0, 0
    with counted_bytes(sum(file.path.stat().st_size for file in chosen if file.path.is_file())) as sent:
        results = put_results(client, site or _site(client, lfn), chosen, group=group, private=private, sent=sent)
        for result in results if chosen else ():
            if result.error is not None:
                failures.add(str(result.path), _about(result.error, str(result.path)))
                continue
            count, size = count + 1, size + result.size
            facts = {"lfn": result.lfn, "guid": str(result.guid), "path": str(result.path), "size": result.size}
            waits = "" if result.published else "  (stored; will be named when catalog and metadata answer)"
            line = f"{result.guid}  {printable(result.lfn)}{waits}"
            show(run.as_json, {**facts, "published": result.published}, line)
    failures.show(run.as_json)
    if count and not run.as_json:
        click.echo(f"put {count} files ({readable_size(size)}) in {time.monotonic() - began:.1f} s", err=True)
    return exit_code_of_items(len(files), failures.errors)


def _about(error: MdmError, name: str) -> MdmError:
    return error if name in error.message else error.at(name)


def _sources(client: "Client", targets: tuple[str, ...]) -> tuple[UUID, ...]:
    """Return the files that targets name.

    Raises:
        MdmError: one names nothing that the caller may see.
    """
    if not targets:
        return ()
    plan = make_plan(client.catalog, parse_names(targets))
    if plan.failures:
        raise plan.failures[0].error
    found = tuple(dict.fromkeys(file.guid for file in plan.files))
    if not found:
        raise Invalid("NO_SOURCES", "--derived-from names no files")
    return found


def _site(client: "Client", lfn: str) -> str:
    second = lfn.split("/")[2:3]
    return second[0] if second and second[0] in client.config.srm else client.srm().site


def _local_files(
    client: "Client", files: tuple[Path, ...], lfn: str, derived: tuple[UUID, ...], attributes: dict[str, str], failures: Failures
) -> "list[LocalResult]":
    """Return the files under their names; those in DICOM are described by what their headers say, unless they are said to be otherwise."""
    from mdm_client.result.put import LocalResult

    names: set[str] = set()
    found = []
    described = _described(client, [path for path in files if _is_dicom(path)])
    for path in files:
        name = os.fsdecode(path.name)
        if name in names:
            failures.add(str(path), Invalid("NAME_REPEATED", f"{path}: two files of this name"))
            continue
        names.add(name)
        if isinstance(about := described.get(path), MdmError):
            failures.add(str(path), about)
            continue
        own, of = about or ({}, ())
        found.append(LocalResult(path, f"{lfn}/{name}", derived or of, {**own, **attributes}))
    return found


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False  # what is wrong with it is said when it is read


def _described(client: "Client", paths: list[Path]) -> "Described":
    if not paths:
        return {}
    from mdm_client.result.dicom import describe

    return describe(client, paths)
