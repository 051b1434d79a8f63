"""A BIDS tree (https://bids-specification.readthedocs.io) of converted series: names, sidecars, tables."""

import csv
import gzip
import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mdm_wire.errors import FailedPrecondition

from mdm_client.conversion.guess import Guess, guess
from mdm_client.conversion.nifti import Converted, Volume
from mdm_client.conversion.series import FetchedSeries

BIDS_VERSION = "1.10.0"
_README = """Images of a data grid, fetched and converted by `mdm get --bids` and dcm2niix.

Subjects are the pseudonyms of the grid, sessions its studies: their dates are shifted for each patient, and four hexadecimal digits of the
study's UID follow. What a series is was guessed from its header; series of which nothing is known were left out.
"""
_COLUMNS = {
    "sex": {"Description": "sex of the participant, as the image says it", "Levels": {"M": "male", "F": "female", "O": "other"}},
    "age": {"Description": "age of the participant at the first session that was fetched", "Units": "year"},
}
_UNKNOWN = "n/a"
_AGE = re.compile(r"(\d{3})([DWMY])")
_YEARS = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}


@dataclass(frozen=True)
class LeftOut:
    """A series, or a volume of one, that is not in the tree, and why."""

    series: str
    why: str


@dataclass(frozen=True)
class _Placed:
    series: FetchedSeries
    volume: Volume
    guess: Guess


class BidsTree:
    """Series gathered for a tree; `files` says what it consists of."""

    def __init__(self) -> None:
        self._placed: list[_Placed] = []
        self.left_out: list[LeftOut] = []

    def add(self, series: FetchedSeries, converted: Converted, name: str) -> None:
        """Add a series, or note why it is left out; `name` is how a person knows it."""
        if not subject_of(series):
            self.left_out.append(LeftOut(name, "it has no pseudonym"))
            return
        for volume in converted.volumes:
            b_values = [float(part) for part in volume.files[".bval"].read_text().split()] if ".bval" in volume.files else []
            found = guess(_sidecar(volume), _volumes_in(volume), b_values, volume.mark)
            if converted.remarks and not found.left_out:
                found = Guess(left_out=converted.remarks[0])
            if found.left_out:
                self.left_out.append(LeftOut(name, found.left_out))
            else:
                self._placed.append(_Placed(series, volume, found))

    def files(self) -> dict[str, Path | str]:
        """Return the paths below the tree's root, each with the file that goes there or with its text.

        Volumes of the same kind in one session are numbered by series number.
        """
        groups: dict[tuple[str, str], list[_Placed]] = {}
        for item in sorted(
            self._placed, key=lambda item: (int(item.series.text("SeriesNumber") or 0), item.series.text("SeriesInstanceUID"))
        ):
            groups.setdefault((self._stem(item), item.guess.suffix), []).append(item)
        found: dict[str, Path | str] = {}
        for (stem, suffix), items in groups.items():
            for number, item in enumerate(items, 1):
                run = f"_run-{number}" if len(items) > 1 else ""
                base = f"{stem}{run}_{suffix}"
                found |= {base + ending: path for ending, path in item.volume.files.items()}
                found[f"{base}.json"] = _text_of(_sidecar(item.volume) | ({"TaskName": item.guess.task} if item.guess.task else {}))
        return found

    def participants(self) -> dict[str, tuple[str, str]]:
        """Return sex and age in years (`n/a` where unknown) of each participant, each of the earliest series that states it."""
        found: dict[str, tuple[str, str]] = {}
        for item in sorted(self._placed, key=lambda item: (item.series.text("StudyDate"), _order(item))):
            name, sex, years = f"sub-{subject_of(item.series)}", item.series.text("PatientSex"), _years(item.series.text("PatientAge"))
            known_sex, known_years = found.get(name, (_UNKNOWN, _UNKNOWN))
            stated = sex if sex in ("M", "F", "O") else _UNKNOWN
            found[name] = (stated if known_sex == _UNKNOWN else known_sex, years if known_years == _UNKNOWN else known_years)
        return found

    @staticmethod
    def _stem(item: _Placed) -> str:
        subject, session = subject_of(item.series), session_of(item.series)
        task = f"_task-{item.guess.task}" if item.guess.task else ""
        return f"sub-{subject}/ses-{session}/{item.guess.kind}/sub-{subject}_ses-{session}{task}"


def _order(item: _Placed) -> tuple[int, str]:
    number = item.series.text("SeriesNumber")
    return int(number) if number.isdecimal() else 0, item.series.text("SeriesInstanceUID")


def subject_of(series: FetchedSeries) -> str:
    """Return the label of a subject: its pseudonym without signs."""
    return re.sub(r"[^0-9A-Za-z]", "", series.text("PatientID"))


def session_of(series: FetchedSeries) -> str:
    """Return the label of a session: the study's date, if it has one, and four digits of its UID's digest."""
    digest = hashlib.sha256(series.text("StudyInstanceUID").encode()).hexdigest()[:4]
    date = series.text("StudyDate")
    return f"{date}x{digest}" if re.fullmatch(r"\d{8}", date) else f"x{digest}"


def root_files(root: Path, participants: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Return the texts of the files at a tree's root: those that are not there yet, and the table of participants with new ones added.

    Raises:
        FailedPrecondition: NOT_BIDS: there is a table of participants that cannot be added to.
    """
    made = {
        "README": _README,
        "dataset_description.json": _text_of(
            {
                "Name": "Images of a data grid",
                "BIDSVersion": BIDS_VERSION,
                "DatasetType": "raw",
                "GeneratedBy": [{"Name": "mdm", "Version": version("mdm-client")}, {"Name": "dcm2niix"}],
            }
        ),
        "participants.json": _text_of(_COLUMNS),
    }
    found = {name: text for name, text in made.items() if not (root / name).exists()}
    table = root / "participants.tsv"
    rows: list[dict[str, str]] = []
    columns = ["participant_id", "sex", "age"]
    if table.exists():
        with table.open(newline="") as file:
            reader = csv.DictReader(file, delimiter="\t")
            columns = list(reader.fieldnames or [])
            rows = list(reader)
        if columns[:1] != ["participant_id"]:
            raise FailedPrecondition("NOT_BIDS", f"{table}: is no table of participants; name another directory")
    known = {row["participant_id"] for row in rows}
    for name, (sex, age) in sorted(participants.items()):
        if name not in known:
            rows.append({"participant_id": name, "sex": sex, "age": age})
    written = io.StringIO()
    writer = csv.DictWriter(written, columns, _UNKNOWN, "ignore", delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return found | {"participants.tsv": written.getvalue()}


def _sidecar(volume: Volume) -> dict[str, Any]:
    path = volume.files.get(".json")
    found: dict[str, Any] = json.loads(path.read_text(errors="replace")) if path else {}
    return found


def _volumes_in(volume: Volume) -> int:
    with gzip.open(volume.files[".nii.gz"]) as file:
        header = file.read(56)
    return max(int.from_bytes(header[48:50], "little", signed=True), 1)


def _years(age: str) -> str:
    found = _AGE.fullmatch(age)
    return str(int(int(found[1]) / _YEARS[found[2]])) if found else _UNKNOWN


def _text_of(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
