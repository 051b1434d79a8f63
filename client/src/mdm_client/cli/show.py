"""The commands that draw images: show in the terminal, thumbnail into a file."""

import logging
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import click
from mdm_wire.errors import Invalid, MdmError, NotFound

from mdm_client.cli.catalog.entry import LFN
from mdm_client.cli.context import Session, force_option, keep_freed_memory, session_command
from mdm_client.cli.error import Failures, exit_code_of_items
from mdm_client.cli.output import print_json, print_line, printable
from mdm_client.name_syntax import Name, parse_names

if TYPE_CHECKING:
    from mdm_client.dicomweb.presentation import Presentation
    from mdm_client.image.fetching import FileRef
    from mdm_client.image.reader import ImageReader

_NEEDED = ("numpy", "PIL", "pydicom")
_PROTOCOLS = ("auto", "kitty", "sixel", "blocks", "blocks256", "plain")
#: Names of files by which pictures are known, and their formats.
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
_MOST_TILES = 100
_ENLARGED = 4.0

_window = click.option(
    "--window", type=(float, float), metavar="C W", help="Window centre and width, instead of those of the header (or of most values)."
)
_frame = click.option("--frame", type=click.IntRange(min=1), metavar="N", help="A frame of a multi-frame image, counted from 1.")


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...", type=LFN)
@click.option("--protocol", type=click.Choice(_PROTOCOLS), default="auto", show_default=True, help="How to draw.")
@_window
@_frame
@click.option(
    "--tiles", type=click.IntRange(1, _MOST_TILES), default=16, show_default=True, metavar="N", help="Images of a montage at most."
)
@session_command
def show(run: Session, targets: tuple[str, ...], protocol: str, window: tuple[float, float] | None, frame: int | None, tiles: int) -> int:
    """Draw images in the terminal: TARGET is the LFN or GUID of an image, or a directory or pattern, which becomes a montage.

    The terminal is asked what it can: kitty's protocol or sixel draws true pixels; else half blocks in colours, or characters.

    Images are decrypted in memory only.
    """
    _prepare("mdm show", window)
    from mdm_client.image.reader import ImageReader
    from mdm_client.picture.montage import View, fitted
    from mdm_client.picture.montage import show as shown_of
    from mdm_client.picture.protocol import PROTOCOLS
    from mdm_client.picture.terminal import detect

    terminal = detect("" if protocol == "auto" else protocol)
    write, has_pixels = PROTOCOLS[terminal.protocol]
    cell = terminal.cell if has_pixels else (1, 2)
    failures, names = Failures(), parse_names(targets)
    with ImageReader(run.client()) as reader:
        for name in names:
            try:
                refs = _files(reader, name)
                found = shown_of(reader, refs, View(frame or 0, window, tiles, _states(run, reader, refs)))
            except MdmError as error:
                failures.add(str(name), error)
                continue
            if run.as_json:
                print_json({"target": str(name), "width": found.image.width, "height": found.image.height, "caption": found.caption})
                continue
            # A line for the caption and one for the prompt stay free.
            for part in write(fitted(found.image, terminal.size[0], terminal.size[1] - 2, cell, _ENLARGED)):
                sys.stdout.write(part)
            print_line(f"{printable(str(name))}: {found.caption}")
    failures.show(run.as_json)
    return exit_code_of_items(len(names), failures.errors)


@click.command()
@click.argument("target", metavar="TARGET", type=LFN)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, metavar="FILE", help="A .png, .jpg or .jpeg file."
)
@click.option("--size", type=click.IntRange(16, 4096), default=256, show_default=True, metavar="PIXELS", help="Longest side at most.")
@_window
@_frame
@force_option
@session_command
def thumbnail(
    run: Session, target: str, output: Path, size: int, window: tuple[float, float] | None, frame: int | None, force: bool
) -> None:
    """Write a small picture of an image; of a series or study, the middle image that can be drawn."""
    _prepare("mdm thumbnail", window)
    kind = _FORMATS.get(output.suffix.lower())
    if kind is None:
        raise Invalid("PICTURE_FORMAT", f"{output}: a picture's name ends with {', '.join(_FORMATS)}")
    from mdm_client.image.reader import ImageReader
    from mdm_client.local_file import new_file
    from mdm_client.picture.montage import View, sample, written

    [name] = parse_names([target])
    with ImageReader(run.client()) as reader:
        refs = _files(reader, name)
        picture = sample(reader, refs, View(frame or 0, window, states=_states(run, reader, refs)))
    content = written(picture, size, kind)
    with new_file(output, replace=force) as file:
        file.write(content)
    if run.as_json:
        print_json({"target": str(name), "path": str(output), "width": picture.width, "height": picture.height})


def _prepare(what: str, window: tuple[float, float] | None) -> None:
    """Check that packages are there and the window is one; silence remarks about what modalities wrote.

    Raises:
        Invalid: PACKAGE_MISSING. click.UsageError.
    """
    from mdm_client.image.reader import need_packages

    need_packages(what, "picture", *_NEEDED)
    if window is not None and not window[1] >= 1:
        raise click.UsageError("--window C W: the width is at least 1")
    keep_freed_memory()
    warnings.filterwarnings("ignore", module="pydicom")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)


def _files(reader: "ImageReader", name: Name) -> "list[FileRef]":
    """Return the files of a name.

    Raises:
        MdmError: it leads nowhere. NotFound: NO_IMAGE.
    """
    from mdm_client.image.reader import refs_of

    plan = reader.plan([name])
    if plan.failures and not plan.files:
        raise plan.failures[0].error
    if not plan.files:
        raise NotFound("NO_IMAGE", f"{name}: no files there that you may see")
    return refs_of(plan)


def _states(run: Session, reader: "ImageReader", refs: "list[FileRef]") -> "tuple[Presentation, ...]":
    """Return the presentation states of the files' studies that the caller may read."""
    from mdm_client.picture.states import presentations

    return presentations(run.client(), reader, refs)
