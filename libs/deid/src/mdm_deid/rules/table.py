"""The package's data files: PS3.15 tables E.1-1 and E.3.10-1 and PS3.3 attribute Types, each loaded once, and the revision of all rules."""

import csv
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

from mdm_deid.encoding.element import tag_of

EDITION = "2026c"

# Option name -> column of the table.
OPTION_COLUMNS = {
    "retain_safe_private": "rtn_safe_priv",
    "retain_uids": "rtn_uids",
    "retain_device_identity": "rtn_dev_id",
    "retain_institution_identity": "rtn_inst_id",
    "retain_patient_characteristics": "rtn_pat_chars",
    "retain_longitudinal_full_dates": "rtn_long_full_dates",
    "retain_longitudinal_modified_dates": "rtn_long_modif_dates",
    "clean_descriptors": "clean_desc",
    "clean_structured_content": "clean_struct_cont",
    "clean_graphics": "clean_graph",
}
# What most images are made of; its modules stand in for SOP classes PS3.3 no longer describes.
_COMMON_IOD = "secondary-capture-image"
_SUFFIXES: Final = (".py", ".csv", ".toml", ".tsv", ".txt")


@dataclass(frozen=True)
class Row:
    """One attribute of table E.1-1: its basic action code (`X`, `Z/D`, …) and K or C per option name."""

    tag: int
    name: str
    basic: str
    options: Mapping[str, str]


@dataclass
class TypeNode:
    """The Types of one level of an IOD: tag -> Type, and the levels inside its sequences.

    `demanded` are the Types of the modules that the IOD always or under a condition has, its optional ones left out.
    """

    types: dict[int, str] = field(default_factory=dict)
    demanded: dict[int, str] = field(default_factory=dict)
    children: dict[int, "TypeNode"] = field(default_factory=dict)


def _lines(name: str) -> list[str]:
    return (resources.files("mdm_deid") / "data" / name).read_text(encoding="utf-8").splitlines()


@cache
def load_rows() -> tuple[Row, ...]:
    """Return every row of table E.1-1 that names one tag; repeating groups and private tags are rules of the engine."""
    rows = []
    for line in csv.DictReader(_lines("table_e1_1.csv")):
        try:
            tag = tag_of(line["tag"])
        except ValueError:
            continue
        options = {name: line[column] for name, column in OPTION_COLUMNS.items() if line[column]}
        rows.append(Row(tag, line["name"], line["basic_2026c"] or line["basic_2024e"], options))
    return tuple(rows)


@cache
def load_additional() -> tuple[Row, ...]:
    """Return attributes that the table does not list but this project removes, with the action X/Z/D."""
    lines = csv.DictReader(_lines("additional.csv"))
    return tuple(Row(tag_of(line["tag"]), line["name"], "X/Z/D", {}) for line in lines)


@cache
def load_identifiers() -> frozenset[int]:
    """Return the attributes whose values identify things: slides, devices, orders."""
    return frozenset(tag_of(line["tag"]) for line in csv.DictReader(_lines("identifiers.csv")))


@cache
def load_actions() -> dict[int, str]:
    """Return tag -> basic action code, of the standard's rows and our own."""
    return {row.tag: row.basic for row in (*load_additional(), *load_rows())}


@cache
def load_safe_private() -> Mapping[tuple[int, int, str], str]:
    """Return (group, low byte of element, private creator) -> VR of table E.3.10-1."""
    safe = {}
    for line in csv.DictReader(_lines("safe_private.csv")):
        safe[int(line["group"], 16), int(line["element"][-2:], 16), line["private_creator"]] = line["vr"]
    return safe


# One module or sequence level as the file has it: rows of (tag, Type, number of the level inside or 0).
_Level = list[tuple[int, str, int]]


@cache
def _iod_index() -> tuple[dict[str, str], dict[str, list[str]], dict[int, _Level]]:
    sops: dict[str, str] = {}
    iods: dict[str, list[str]] = {}
    levels: dict[int, _Level] = {}
    rows: _Level = []
    for line in _lines("iod_types.tsv"):
        first, *rest = line.split("\t")
        if first == "node":
            rows = levels.setdefault(int(rest[0]), [])
        elif first == "sop":
            sops[rest[0]] = rest[1]
        elif first == "iod":
            iods[rest[0]] = rest[1].split()
        elif not first.startswith("#"):
            rows.append((int(first, 16), rest[0], int(rest[1]) if len(rest) > 1 else 0))
    return sops, iods, levels


def known_sop_class(uid: str) -> bool:
    """Return whether PS3.3 describes an IOD for this SOP class."""
    return uid in _iod_index()[0]


def iod_types(sop_class: str) -> TypeNode:
    """Return the Types of the IOD behind `sop_class`, or of the common modules if there is none.

    Where two modules disagree, the stricter Type counts.
    """
    sops, iods, levels = _iod_index()
    root = TypeNode()
    for module in iods[sops.get(sop_class, _COMMON_IOD)]:
        _merge(root, levels, int(module.rstrip("?")), not module.endswith("?"))
    return root


def _merge(node: TypeNode, levels: dict[int, _Level], number: int, demanded: bool) -> None:
    for tag, kind, inside in levels[number]:
        if kind != "3":
            node.types[tag] = min(kind, node.types.get(tag, "9"))
            if demanded:
                node.demanded[tag] = min(kind, node.demanded.get(tag, "9"))
        if inside:
            _merge(node.children.setdefault(tag, TypeNode()), levels, inside, demanded)


@cache
def revision() -> str:
    """Return 16 hexadecimal digits that change whenever a file of the package does."""
    digest = hashlib.sha256()
    for name, file in sorted(_files(resources.files("mdm_deid"))):
        digest.update(hashlib.sha256(name.encode() + b"\0" + file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _files(folder: Traversable, path: str = "") -> Iterator[tuple[str, Traversable]]:
    """Yield the package's code and tables, in its rooms too, with their paths in it."""
    for file in folder.iterdir():
        if file.is_dir():
            yield from _files(file, f"{path}{file.name}/")
        elif file.name.endswith(_SUFFIXES):
            yield path + file.name, file
