"""What mdm get does for --png, --nifti and --bids: fetched files become others."""

import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from mdm_wire.errors import MdmError

from mdm_client.cli.context import Session
from mdm_client.cli.error import Failures, exit_code_of_items, show_error
from mdm_client.cli.output import counted_files, print_json, print_line
from mdm_client.client import Client
from mdm_client.fetch.download import FetchOptions
from mdm_client.fetch.plan import Plan
from mdm_client.local_file import local_error, stops_all, translated

if TYPE_CHECKING:
    from mdm_client.conversion.bids import BidsTree
    from mdm_client.conversion.gathering import Gathering, Outcome

PNG, NIFTI, BIDS = "png", "nifti", "bids"


@dataclass(frozen=True)
class Conversion:
    """What files become, and how pictures are made: window (centre, width) and bits of grey."""

    kind: str
    window: tuple[float, float] | None = None
    bits: int = 8


def chosen(png: bool, nifti: bool, bids: bool, window: tuple[float, float] | None, bits: int | None) -> Conversion | None:
    """Return the conversion that options ask for, or None.

    Raises:
        click.UsageError: they do not go together. Invalid: PACKAGE_MISSING.
    """
    kinds = [kind for kind, wanted in ((PNG, png), (NIFTI, nifti), (BIDS, bids)) if wanted]
    if len(kinds) > 1:
        raise click.UsageError("one of --png, --nifti and --bids at a time")
    if kinds != [PNG] and (window is not None or bits is not None):
        raise click.UsageError("--window and --bits are for --png")
    if window is not None and not window[1] >= 1:
        raise click.UsageError("--window C W: the width is at least 1")
    if not kinds:
        return None
    from mdm_client.image.reader import need_packages

    if kinds == [PNG]:
        need_packages("mdm get --png", "picture", "numpy", "PIL", "pydicom")
    else:
        need_packages(f"mdm get --{kinds[0]}", "nifti", "pydicom")
    warnings.filterwarnings("ignore", module="pydicom")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    return Conversion(kinds[0], window, bits or 8)


def get_converted(run: Session, client: Client, plan: Plan, output: Path, options: FetchOptions, conversion: Conversion) -> int:
    """Fetch the files of a plan and write what they become; return the exit code."""
    tally = _Tally(run, output)
    for failure in plan.failures:
        tally.failures.add(failure.name, failure.error)
    if not plan.files and not plan.failures:
        show_error("nothing to fetch: no files there that you may see", "NOTHING_TO_FETCH", False)
        return 0
    try:
        if conversion.kind == PNG:
            _pictures(client, plan, output, options, conversion, tally)
            total = len(plan.files) + len(plan.failures)
        else:
            total = _volumes(client, plan, output, options, conversion.kind == BIDS, tally) + len(plan.failures)
    finally:
        tally.failures.show(run.as_json)
    tally.summarise()
    return exit_code_of_items(total, tally.failures.errors)


class _Tally:
    """Counts what was made, writes it as it is made, and keeps the failures."""

    def __init__(self, run: Session, output: Path) -> None:
        self._run = run
        self._output = output
        self._began = time.monotonic()
        self._made = 0
        self._from = 0
        self._left_out = 0
        self.failures = Failures()

    def made(self, name: str, paths: Sequence[str]) -> None:
        self._made += len(paths)
        self._from += 1
        if self._run.as_json:
            for path in paths:
                print_json({"name": name, "path": str(self._output / path)})

    def note(self, name: str, why: str, reason: str) -> None:
        """Say what is no failure, but worth knowing."""
        self._left_out += reason == "LEFT_OUT"
        words = "left out: " if reason == "LEFT_OUT" else ""
        show_error(why if self._run.as_json else f"note: {name}: {words}{why}", reason, self._run.as_json, item=name)

    def summarise(self) -> None:
        if self._run.as_json:
            return
        parts = [f"made {self._made} files of {self._from} in {self._output} in {time.monotonic() - self._began:.1f} s"]
        parts += [f"{self._left_out} left out"] if self._left_out else []
        parts += [f"{len(self.failures.errors)} failed"] if self.failures.errors else []
        print_line("; ".join(parts))


@contextmanager
def _local(output: Path) -> Iterator[None]:
    """Turn an OSError of the output directory into one line."""
    with translated(str(output), "written"):
        yield


def _pictures(client: Client, plan: Plan, output: Path, options: FetchOptions, conversion: Conversion, tally: _Tally) -> None:
    from mdm_wire.url import surl_authority

    from mdm_client.conversion.png import write_pictures
    from mdm_client.image.fetching import FileRef
    from mdm_client.image.reader import ImageReader

    refs = [FileRef(file.guid, file.location.lfn, surl_authority(file.location.surls[0])) for file in plan.files]
    with ImageReader(client, timeout=options.timeout) as reader, counted_files(len(refs)) as advance:
        received = 0
        for file, (ref, data) in zip(plan.files, reader.read(refs), strict=True):
            try:
                if isinstance(data, MdmError):
                    raise data
                received += len(data)
                how = {"durable": options.durable, "replace": options.replace}
                tally.made(ref.lfn, write_pictures(data, file.path, output, conversion.window, conversion.bits, **how))
            except MdmError as error:
                tally.failures.add(ref.lfn, error, [str(ref.guid)])
            except OSError as error:
                if stops_all(error, output):
                    raise local_error(error, str(output), "written") from error
                tally.failures.add(ref.lfn, local_error(error, str(output / file.path), "written"))
            advance(received)


def _volumes(client: Client, plan: Plan, output: Path, options: FetchOptions, as_bids: bool, tally: _Tally) -> int:
    """Return the number of directories whose series were to be converted."""
    from mdm_client.conversion.bids import BidsTree
    from mdm_client.conversion.gathering import Gathering, NiftiNames, put
    from mdm_client.conversion.nifti import find_program, private_folder

    program = find_program()
    tree, names = BidsTree() if as_bids else None, NiftiNames()
    with _local(output), private_folder(output) as folder:
        gathering = Gathering(plan.files, folder, program)
        for outcome in _outcomes(client, gathering, folder / "fetched", options, tally):
            if outcome.error is not None or outcome.series is None or outcome.converted is None:
                tally.failures.add(outcome.name, outcome.error or MdmError("CLIENT_DEFECT", "nothing became of it"))
            elif tree is not None:
                tree.add(outcome.series, outcome.converted, outcome.name)
            else:
                if outcome.converted.remarks:
                    tally.note(outcome.name, "; ".join(outcome.converted.remarks), "VOLUME_DOUBTFUL")
                files = names.of(outcome.series, outcome.converted)
                try:
                    put(files, output, replace=options.replace)
                    tally.made(outcome.name, list(files))
                except MdmError as error:
                    tally.failures.add(outcome.name, error)
        if tree is not None:
            _finish(tree, output, options.replace, tally)
    return gathering.count


def _outcomes(client: Client, gathering: "Gathering", folder: Path, options: FetchOptions, tally: _Tally) -> "Iterator[Outcome]":
    total = 0

    def count(size: int) -> None:
        nonlocal total
        total += size

    reasons: set[str] = set()
    with (
        counted_files(len(gathering.files)) as advance,
        closing(client.download(gathering.files, folder, options, count).results()) as results,
    ):
        for result in results:
            if result.error is not None and result.error.reason not in reasons:
                reasons.add(result.error.reason)
                tally.note(result.lfn, result.error.message, result.error.reason)
            advance(total)
            yield from gathering.add(result)


def _finish(tree: "BidsTree", output: Path, replace: bool, tally: _Tally) -> None:
    """Write the tree, all of it or nothing."""
    from mdm_client.conversion.bids import root_files
    from mdm_client.conversion.gathering import put

    for left in tree.left_out:
        tally.note(left.series, left.why, "LEFT_OUT")
    files = tree.files()
    if not files:
        return
    root = root_files(output, tree.participants())
    put(files, output, replace=replace)
    put(root, output, replace=True)
    tally.made("BIDS", [*files, *root])
