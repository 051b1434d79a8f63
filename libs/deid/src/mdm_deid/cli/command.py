"""The command `mdm deid`: files and directories in, de-identified files out; and `mdm deid preview`."""

import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from mdm_deid.cli.batch import WorkerNotStarted, find_files, run
from mdm_deid.cli.face import check_installed
from mdm_deid.cli.preview import preview as render
from mdm_deid.cli.report import Report
from mdm_deid.cli.worker import Order, Refused, map_file
from mdm_deid.encoding.pydicom_log import silence_pydicom
from mdm_deid.outcome import Malformed, Outcome, ProfileError
from mdm_deid.pixels.blanking import Unblankable
from mdm_deid.pixels.rule import SHIPPED, PixelRules
from mdm_deid.rules.patient import PatientIdError, PatientIdRule, load_rule
from mdm_deid.rules.profile import SHIPPED as SHIPPED_PROFILES
from mdm_deid.rules.profile import Profile
from mdm_deid.rules.pseudonym import Pseudonymiser

_SECRET_BYTES = 32
_SOME_FAILED = 1
_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)
_PIXEL_RULES = click.option(
    "--pixel-rules", "rules", metavar="FILE", default="", help=f"Blank pixels by these rules; {SHIPPED!r} names those that come with it."
)


class _WithPreview(click.Command):
    """A command on files that has one sub-command; a file of that name is given as ./preview."""

    def make_context(self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any) -> click.Context:
        """Return the context of the command or of its sub-command; see click.Command.make_context."""
        if args[:1] == ["preview"]:
            return preview.make_context(f"{info_name} preview", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, context: click.Context) -> Any:
        """Run the command that the context was made for."""
        return super().invoke(context) if context.command is self else context.command.invoke(context)


@click.command(
    cls=_WithPreview,
    epilog="`mdm deid preview --help`: see what pixel rules would blank.\n\n\b\nExample:\n  mdm deid study -o released --profile research",
)
@click.argument("inputs", nargs=-1, required=True, metavar="IN...", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", required=True, metavar="OUT", type=_FOLDER, help="Directory to write to.")
@click.option(
    "--profile", metavar="FILE", default="basic", show_default=True, help=f"A profile's file, or one of {', '.join(SHIPPED_PROFILES)}."
)
@click.option("--secret-file", metavar="FILE", type=_FILE, help="At least 32 random bytes that pseudonyms follow from; else new ones.")
@_PIXEL_RULES
@click.option("--patient-ids", metavar="FILE", type=_FILE, help="TOML with [patient_id], such as the site's: how Patient IDs are compared.")
@click.option("--report", "report_path", metavar="FILE", type=_FILE, help="Write a JSON line per file; nothing in it identifies.")
@click.option("-j", "--jobs", type=click.IntRange(1, 256), default=1, show_default=True, metavar="N", help="Processes at work.")
@click.option("--timeout", type=click.FloatRange(min=1), default=600, show_default=True, help="Seconds after which a file has failed.")
@click.option("--no-check", is_flag=True, help="Do not search each output for the identifying values of its original.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON for programs.")
@click.pass_context
def deid(
    context: click.Context,
    inputs: tuple[Path, ...],
    output: Path,
    profile: str,
    secret_file: Path | None,
    rules: str,
    patient_ids: Path | None,
    report_path: Path | None,
    jobs: int,
    timeout: float,
    no_check: bool,
    as_json: bool,
) -> int:
    """De-identify DICOM files by PS3.15 Annex E, without any server.

    Each IN is a file or a directory. Output files are named after their new identifiers. What is not released is listed with its
    reason: FILTERED by policy, QUARANTINED for a person to look at, FAILED. Equal secrets give equal pseudonyms, UIDs and dates. The files
    of a study are of one patient: of whom most of them are.
    """
    as_json = as_json or bool(getattr(context.obj, "as_json", False))
    order = Order(
        _profile(profile), _pseudonymiser(secret_file), _rules(rules), _directory(output), not no_check, _patient_ids(patient_ids)
    )
    if secret_file is None:
        _tell("no --secret-file: no other run will give the pseudonyms, UIDs and dates of this one", "ONE_OFF_SECRET", as_json)
    tasks = find_files(inputs, order.output)
    settings = {"profile": order.profile.name, "pixel_rules": rules, "check": order.check, "secret": "file" if secret_file else "one-off"}
    with ExitStack() as stack:
        report = Report(stack.enter_context(_opened(report_path)) if report_path else None, **settings)
        advance = stack.enter_context(_progress(len(tasks)))
        try:
            for entry in run(order, tasks, jobs, timeout):
                report.add(entry)
                path = str(tasks[entry.number - 1].path)
                if as_json:
                    click.echo(json.dumps({"input": path, **entry.as_json()}))
                elif entry.outcome is not Outcome.RELEASED:
                    _tell(f"{path}: {entry.outcome} {entry.reason}", entry.reason, as_json)
                advance()
        except WorkerNotStarted:
            raise click.ClickException("a worker process does not start; its error is shown above") from None
        report.close()
    if not as_json:
        click.echo(f"{report.summary()}; into {output}")
    return _SOME_FAILED if report.outcomes().get(Outcome.FAILED) else 0


@click.command(epilog="\b\nExample:\n  mdm deid preview image.dcm -o pictures")
@click.argument("inputs", nargs=-1, required=True, metavar="FILE...", type=_FILE)
@click.option("-o", "--output", required=True, metavar="DIR", type=_FOLDER, help="Where to put PNG files.")
@_PIXEL_RULES
@click.option("--frame", type=click.IntRange(1), default=1, show_default=True, help="Which frame to show.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON for programs.")
@click.pass_context
def preview(context: click.Context, inputs: tuple[Path, ...], output: Path, rules: str, frame: int, as_json: bool) -> int:
    """Show in red which regions of images pixel rules would blank.

    The pictures identify as much as the images do: keep them where the images are.
    """
    as_json = as_json or bool(getattr(context.obj, "as_json", False))
    silence_pydicom()
    pixel_rules, failed = _rules(rules or SHIPPED), False
    folder = _directory(output)
    for path in inputs:
        try:
            picture, rule = render(map_file(path), pixel_rules, frame - 1)
            target = folder / f"{path.name}.png"
            with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
                file.write(picture)
        except (Malformed, Unblankable, Refused) as error:
            failed = True
            _tell(f"{path}: {error.reason}", error.reason, as_json)
        except OSError as error:
            failed = True
            _tell(f"{path}: {error.strerror}", "UNREADABLE", as_json)
        else:
            click.echo(
                json.dumps({"input": str(path), "picture": str(target), "pixel_rule": rule})
                if as_json
                else f"{target}: {rule or 'no rule'}"
            )
    return _SOME_FAILED if failed else 0


def _tell(message: str, reason: str, as_json: bool) -> None:
    click.echo(json.dumps({"reason": reason, "message": message}) if as_json else f"mdm: {message}", err=True)


def _profile(name: str) -> Profile:
    try:
        profile = Profile.shipped(name) if name in SHIPPED_PROFILES else Profile.load(Path(name))
        check_installed(profile)
        return profile
    except (ProfileError, OSError) as error:
        raise click.UsageError(f"--profile: {error}") from error


def _rules(name: str) -> PixelRules:
    try:
        return PixelRules.load(name)
    except (ProfileError, OSError) as error:
        raise click.UsageError(f"--pixel-rules: {error}") from error


def _patient_ids(path: Path | None) -> PatientIdRule:
    try:
        return load_rule(path) if path else PatientIdRule()
    except (PatientIdError, OSError) as error:
        raise click.UsageError(f"--patient-ids: {error}") from error


def _pseudonymiser(secret_file: Path | None) -> Pseudonymiser:
    if secret_file is None:
        return Pseudonymiser(secrets.token_bytes(_SECRET_BYTES))
    try:
        return Pseudonymiser(secret_file.read_bytes())
    except (OSError, ValueError) as error:
        raise click.UsageError(f"--secret-file: {error}") from error


def _directory(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
        return path.resolve()
    except OSError as error:
        raise click.UsageError(f"--output: {error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        file = path.open("w", encoding="ascii")
    except OSError as error:
        raise click.UsageError(f"--report: {error}") from error
    with file:
        yield file


@contextmanager
def _progress(files: int) -> Iterator[Callable[[], None]]:
    """Show a bar on a terminal; the function given is called after each file."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    # rich takes longer to import than a small run takes.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("files"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=files)
        yield lambda: progress.update(task, advance=1)
