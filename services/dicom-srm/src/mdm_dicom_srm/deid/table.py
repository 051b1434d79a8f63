"""The facts: PS3.15 table E.1-1 and E.3.10-1, PS3.3 attribute Types, loaded once from the package's data files."""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

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


@dataclass(frozen=True)
class Row:
    """One attribute of table E.1-1: its basic action code (`X`, `Z/D`, …) and K or C per option name."""

    tag: int
    name: str
    basic: str
    options: Mapping[str, str]


@dataclass
class TypeNode:
    """The Types of one level of an IOD: tag -> Type, and the levels inside its sequences."""

    types: dict[int, str] = field(default_factory=dict)
    children: dict[int, "TypeNode"] = field(default_factory=dict)

    def add(self, path: list[int], kind: str) -> None:
        """Record `kind` at `path`; where two modules disagree the stricter Type stays."""
        node = self
        for tag in path[:-1]:
            node = node.children.setdefault(tag, TypeNode())
        node.types[path[-1]] = min(kind, node.types.get(path[-1], "9"))


def _lines(name: str) -> list[str]:
    return (resources.files("mdm_dicom_srm.deid") / "data" / name).read_text(encoding="utf-8").splitlines()


def _tag(text: str) -> int:
    return int(text.strip("()").replace(",", ""), 16)


@cache
def load_rows() -> tuple[Row, ...]:
    """Return every row of table E.1-1 that names one tag; repeating groups and private tags are rules of the engine."""
    rows = []
    for line in csv.DictReader(_lines("table_e1_1.csv")):
        try:
            tag = _tag(line["tag"])
        except ValueError:
            continue
        options = {name: line[column] for name, column in OPTION_COLUMNS.items() if line[column]}
        rows.append(Row(tag, line["name"], line["basic_2026c"] or line["basic_2024e"], options))
    return tuple(rows)


@cache
def load_additional() -> tuple[Row, ...]:
    """Return the attributes the table leaves alone and this project does not, with the action X/Z/D."""
    lines = csv.DictReader(_lines("additional.csv"))
    return tuple(Row(_tag(line["tag"]), line["name"], "X/Z/D", {}) for line in lines)


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


def _records() -> Iterator[list[str]]:
    return (line.split("\t") for line in _lines("iod_types.tsv") if not line.startswith("#"))


@cache
def _iod_index() -> tuple[dict[str, str], dict[str, list[str]], dict[str, list[tuple[list[int], str]]]]:
    sops: dict[str, str] = {}
    iods: dict[str, list[str]] = {}
    modules: dict[str, list[tuple[list[int], str]]] = {}
    rows: list[tuple[list[int], str]] = []
    for record in _records():
        if record[0] == "sop":
            sops[record[1]] = record[2]
        elif record[0] == "iod":
            iods[record[1]] = record[2].split()
        elif record[0] == "module":
            rows = modules.setdefault(record[1], [])
        else:
            rows.append(([int(tag, 16) for tag in record[0].split("/")], record[1]))
    return sops, iods, modules


# What every composite IOD is made of; used for SOP classes PS3.3 no longer describes.
_COMMON_MODULES = ("patient", "general-study", "general-series", "general-equipment", "general-image", "sop-common")


def known_sop_class(uid: str) -> bool:
    """Tell whether PS3.3 describes an IOD for this SOP class."""
    return uid in _iod_index()[0]


def iod_types(sop_class: str) -> TypeNode:
    """Return the Types of the IOD behind `sop_class`, or of the common modules if there is none."""
    sops, iods, modules = _iod_index()
    names = iods[sops[sop_class]] if sop_class in sops else _COMMON_MODULES
    root = TypeNode()
    for name in names:
        for path, kind in modules.get(name, ()):
            root.add(path, kind)
    return root
