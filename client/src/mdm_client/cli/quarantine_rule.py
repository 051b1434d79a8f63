"""Commands of curators about pictures: quarantine kinds, picture, head, text, blank, rules, end-rule."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from mdm.srm.v1 import curator_pb2 as pb
from mdm_wire.errors import Invalid

from mdm_client.cli.context import Session, session_command
from mdm_client.cli.error import exit_code_of_items
from mdm_client.cli.moment import age, iso
from mdm_client.cli.output import print_json, printable, show, show_table
from mdm_client.curator import Region
from mdm_client.local_file import output_file

_REGION = re.compile(r"(\d{1,6}),(\d{1,6}),(\d{1,6}),(\d{1,6})", re.ASCII)
_site = click.option("--site", default="", help="Which site; needed where several are configured.")
_frame = click.option("--frame", type=click.IntRange(min=1), default=1, show_default=True, help="Which frame.")


def _regions(_context: click.Context, _option: click.Parameter, texts: tuple[str, ...]) -> list[Region]:
    found = [_REGION.fullmatch(text) for text in texts]
    for text, match in zip(texts, found, strict=True):
        if match is None:
            raise Invalid("REGIONS_MALFORMED", f"{text[:80]!r} is no region: LEFT,TOP,WIDTH,HEIGHT in pixels of the image")
    return [(int(match[1]), int(match[2]), int(match[3]), int(match[4])) for match in found if match is not None]


@click.command()
@click.option("--reason", default="", metavar="REASON", help="Only what waits for this reason, such as ULTRASOUND.")
@_site
@session_command
def kinds(run: Session, reason: str, site: str) -> None:
    """List what waits by kind of image and reason: maker, model, modality and size."""
    found = run.client().curator(site).kinds(reason)
    if run.as_json:
        for item in found:
            print_json(kind_facts(item))
        return
    columns = (("KIND", "uuid"), ("REASON", "text"), ("IMAGES", "int"), ("MODALITY", "text"), ("SIZE", "uuid"), ("MAKER", "text"))
    rows = (
        (
            item.kind.name,
            item.reason,
            item.count,
            item.kind.modality,
            f"{item.kind.columns}x{item.kind.rows}",
            _maker(item.kind),
            age(item.oldest_time),
        )
        for item in found
    )
    show_table((*columns, ("OLDEST", "uuid")), rows)


@click.command()
@click.argument("guid", metavar="GUID")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, metavar="FILE", help="Write the JPEG there."
)
@_frame
@click.option("--size", "side", type=click.IntRange(16, 2048), default=1024, show_default=True, metavar="PIXELS", help="The longest side.")
@click.option("--released", is_flag=True, help="As it would leave, instead of as the PACS has it.")
@click.option(
    "--blank", "regions", multiple=True, callback=_regions, metavar="L,T,W,H", help="And with this region blanked; may be repeated."
)
@_site
@session_command
def picture(run: Session, guid: str, output: Path, frame: int, side: int, released: bool, regions: list[Region], site: str) -> None:
    """Write the picture of an image that waits. It may identify the patient: keep it where images are kept, and remove it."""
    found = run.client().curator(site).picture(guid, frame, side, released=released, regions=regions)
    with output_file(str(output)) as file:
        file.write(found.jpeg)
    facts = {"file": str(output), "columns": found.columns, "rows": found.rows, "frames": found.frames}
    show(run.as_json, facts, f"{output}: frame {frame} of {found.frames}, the image has {found.columns} x {found.rows} pixels")


@click.command(epilog="\b\nExample:\n  mdm quarantine head 0b5f5e0e-4d33-4a4c-9d0e-6a0f3c1d2e4f -o head.png")
@click.argument("guid", metavar="GUID")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write the PNG there instead.")
@_site
@session_command
def head(run: Session, guid: str, output: Path | None, site: str) -> None:
    """Draw the head of an image's series in the terminal: above with its face, below without. This identifies the patient.

    From the front and from its left. Below is nothing if the face cannot be masked; the answer says why.
    """
    found = run.client().curator(site).head(guid)
    if output is not None:
        with output_file(str(output)) as file:
            file.write(found.png)
    elif not run.as_json:
        _draw(found.png)
    masked = f"the face cannot be masked: {found.detail}" if found.detail else "below without the face"
    facts = {"file": str(output) if output else None, "images": found.images, "masked": not found.detail, "detail": found.detail}
    show(run.as_json, facts, f"{output or guid}: the head of a series of {found.images} images, {masked}")


def _draw(png: bytes) -> None:
    from mdm_client.image.reader import need_packages

    need_packages("mdm quarantine head without -o FILE", "picture", "numpy", "PIL", "pydicom")
    from mdm_client.picture.montage import fitted_png
    from mdm_client.picture.protocol import PROTOCOLS
    from mdm_client.picture.terminal import detect

    terminal = detect()
    write, has_pixels = PROTOCOLS[terminal.protocol]
    cell = terminal.cell if has_pixels else (1, 2)
    for part in write(fitted_png(png, terminal.size[0], terminal.size[1] - 2, cell, 4.0)):
        sys.stdout.write(part)


@click.command()
@click.argument("guid", metavar="GUID")
@_frame
@_site
@session_command
def text(run: Session, guid: str, frame: int, site: str) -> None:
    """List the lines of text that a detector finds in an image that waits. This may identify the patient."""
    found = run.client().curator(site).text(guid, frame)
    if run.as_json:
        for item in found:
            facts = {"region": list(region_of(item.region)), "text": item.text, "score": round(item.score, 3), "in_header": item.in_header}
            print_json(facts)
        return
    columns = (("REGION", "uuid"), ("SURE", "uuid"), ("IN HEADER", "uuid"), ("TEXT", "text"))
    rows = ((_written(item.region), f"{item.score:.2f}", "yes" if item.in_header else "no", printable(item.text)) for item in found)
    show_table(columns, rows)


@click.command()
@click.argument("guid", metavar="GUID")
@click.option(
    "--region", "regions", multiple=True, required=True, callback=_regions, metavar="L,T,W,H", help="What is blanked; may be repeated."
)
@click.option("--note", default="", metavar="TEXT", help="Why, for the record: one line, nothing that identifies a patient.")
@click.option("--only-this", is_flag=True, help="On this image only, not on its kind.")
@_site
@session_command
def blank(run: Session, guid: str, regions: list[Region], note: str, only_this: bool, site: str) -> int:
    """Have regions of an image blanked, on all images of its maker, model and size from now on.

    Those that wait for the same suspicion are judged again at once, and leave with the regions blanked.
    """
    curator = run.client().curator(site)
    rule, errors = (curator.blank_one if only_this else curator.blank_alike)(guid, regions, note)
    failures = [error for error in errors if error is not None]
    facts = {"rule": rule_facts(rule), "queued": len(errors) - len(failures), "failed": len(failures)}
    show(run.as_json, facts, f"{rule.name}: {len(errors) - len(failures)} images queued to be judged again")
    return exit_code_of_items(len(errors), failures) if errors else 0


@click.command()
@_site
@session_command
def rules(run: Session, site: str) -> None:
    """List the pixel rules that curators made, the newest first; those that ended are among them."""
    found = run.client().curator(site).rules()
    if run.as_json:
        for rule in found:
            print_json(rule_facts(rule))
        return
    columns = (
        ("RULE", "uuid"),
        ("STATE", "uuid"),
        ("FOR", "text"),
        ("SIZE", "uuid"),
        ("REGIONS", "text"),
        ("WHO", "text"),
        ("WHEN", "uuid"),
    )
    rows = (
        (
            *(rule.name, "ended" if rule.ended_by else "holds", rule.guid or _maker(rule.kind), f"{rule.kind.columns}x{rule.kind.rows}"),
            *(" ".join(_written(region) for region in rule.regions), rule.subject, iso(rule.time), rule.note),
        )
        for rule in found
    )
    show_table((*columns, ("NOTE", "text")), rows)


@click.command("end-rule")
@click.argument("name", metavar="RULE")
@_site
@session_command
def end_rule(run: Session, name: str, site: str) -> None:
    """End a pixel rule: its images are held back again when they are judged or fetched the next time."""
    rule = run.client().curator(site).end_rule(name)
    show(run.as_json, rule_facts(rule), f"{rule.name} has ended")


def kind_facts(item: pb.QuarantinedKind) -> dict[str, Any]:
    """Return a kind that waits as JSON has it."""
    return {
        **_image_kind(item.kind),
        "reason": item.reason,
        "count": item.count,
        "oldest": iso(item.oldest_time),
        "newest": iso(item.newest_time),
        "example": item.example_guid,
        "releasable": item.releasable,
    }


def rule_facts(rule: pb.PixelRule) -> dict[str, Any]:
    """Return a pixel rule as JSON has it."""
    return {
        "name": rule.name,
        "kind": _image_kind(rule.kind),
        "regions": [list(region_of(region)) for region in rule.regions],
        "reasons": list(rule.reasons),
        "subject": rule.subject,
        "time": iso(rule.time),
        "note": rule.note,
        "guid": rule.guid,
        "ended_by": rule.ended_by,
        "ended": iso(rule.end_time) if rule.ended_by else "",
    }


def region_of(region: pb.Region) -> Region:
    """Return a region: left, top, width, height."""
    return region.left, region.top, region.width, region.height


def _written(region: pb.Region) -> str:
    return ",".join(map(str, region_of(region)))


def _image_kind(kind: pb.ImageKind) -> dict[str, Any]:
    return {
        "kind": kind.name,
        "manufacturer": kind.manufacturer,
        "model": kind.model,
        "modality": kind.modality,
        "sop_class_uid": kind.sop_class_uid,
        "columns": kind.columns,
        "rows": kind.rows,
    }


def _maker(kind: pb.ImageKind) -> str:
    parts: Sequence[str] = [part for part in (kind.manufacturer, kind.model) if part]
    return printable(", ".join(parts)) or "unknown"


#: What `mdm quarantine` offers beside decisions.
COMMANDS = (kinds, picture, head, text, blank, rules, end_rule)
