"""Files and index of the small archive."""

import hashlib
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

#: Unique key attribute of each query level (PS3.4 C.6.2), highest first.
LEVELS = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}
#: Columns of the index that a C-FIND may match; others are returned but not matched.
COLUMNS = (
    "PatientID",
    "PatientName",
    "StudyInstanceUID",
    "StudyDate",
    "AccessionNumber",
    "SeriesInstanceUID",
    "Modality",
    "SOPInstanceUID",
)


@dataclass(frozen=True)
class Instance:
    """One stored instance, as its file's meta information describes it."""

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    path: Path


class Archive:
    """Stored instances below a directory, one Part 10 file each, found through an SQLite index. Every thread opens its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "storage"
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._database = sqlite3.connect(directory / "index.sqlite", isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA busy_timeout = 10000;"
            "CREATE TABLE IF NOT EXISTS instance (sop_class TEXT NOT NULL, transfer_syntax TEXT NOT NULL, "
            + ", ".join(f"{name} TEXT NOT NULL" for name in COLUMNS)
            + ", PRIMARY KEY (SOPInstanceUID));"
            "CREATE INDEX IF NOT EXISTS instance_series ON instance (StudyInstanceUID, SeriesInstanceUID);"
        )

    def store(self, part10: bytes, header: Dataset, sop_class_uid: str, transfer_syntax_uid: str) -> str:
        """Store an instance, replacing an earlier one with the same SOP Instance UID; return that UID.

        Raises:
            ValueError: the header lacks a UID.
        """
        values = {name: str(header.get(name) or "") for name in COLUMNS}
        for name in LEVELS.values():
            if not values[name]:
                raise ValueError(f"{name} is missing")
        path = self.path(values["SOPInstanceUID"])
        scratch = path.with_suffix(".new")
        scratch.write_bytes(part10)
        scratch.replace(path)
        marks = ", ".join("?" * (2 + len(COLUMNS)))
        row = (sop_class_uid, transfer_syntax_uid, *values.values())
        self._database.execute(f"INSERT OR REPLACE INTO instance VALUES ({marks})", row)  # noqa: S608  question marks only
        return values["SOPInstanceUID"]

    def path(self, sop_instance_uid: str) -> Path:
        """Return the path of an instance."""
        return self._directory / f"{hashlib.sha256(sop_instance_uid.encode()).hexdigest()}.dcm"

    def instances(self, match: Mapping[str, Sequence[str]]) -> list[Instance]:
        """Return the instances whose columns have one of the given values each; `*` and `?` are wildcards."""
        clauses: list[str] = []
        values: list[str] = []
        for name, wanted in match.items():
            clauses.append("(" + " OR ".join(f"{name} GLOB ?" for _ in wanted) + ")")
            values.extend(text.replace("[", "[[]") for text in wanted)
        where = " AND ".join(clauses) or "1"
        query = f"SELECT SOPInstanceUID, sop_class, transfer_syntax FROM instance WHERE {where} ORDER BY rowid"  # noqa: S608  names from COLUMNS
        return [Instance(row[0], row[1], row[2], self.path(row[0])) for row in self._database.execute(query, values)]

    def find(self, identifier: Dataset) -> list[Dataset]:
        """Return one answer per entity of the identifier's Query/Retrieve Level that matches it (PS3.4 C.4.1).

        Raises:
            ValueError: the level is not one of the study root model.
        """
        level = str(identifier.get("QueryRetrieveLevel", ""))
        if level not in LEVELS:
            raise ValueError("QueryRetrieveLevel must be STUDY, SERIES or IMAGE")
        answers: dict[str, Dataset] = {}
        for instance in self.instances(keys_of(identifier)):
            header = dcmread(instance.path, stop_before_pixels=True)
            key = str(header[LEVELS[level]].value)
            if key not in answers:
                answers[key] = _answer(identifier, header, level)
        return list(answers.values())

    def close(self) -> None:
        """Close the index."""
        self._database.close()


def keys_of(identifier: Dataset) -> dict[str, list[str]]:
    """Return the columns that an identifier restricts, with the values it allows."""
    found: dict[str, list[str]] = {}
    for name in COLUMNS:
        value = identifier.get(name)
        if value not in (None, "", "*", []):
            texts = value if isinstance(value, list | tuple) or type(value).__name__ == "MultiValue" else [value]
            found[name] = [str(text) for text in texts]
    return found


def _answer(identifier: Dataset, header: Dataset, level: str) -> Dataset:
    answer = Dataset()
    answer.QueryRetrieveLevel = level
    for element in identifier:
        if element.tag in header and element.keyword != "QueryRetrieveLevel":
            answer[element.tag] = header[element.tag]
        elif element.tag not in answer:
            answer.add_new(element.tag, element.VR, None)
    if "SpecificCharacterSet" in header:
        answer.SpecificCharacterSet = header.SpecificCharacterSet
    return answer
