"""Write deid/data/iod_types.tsv: which Type each IOD gives the attributes that de-identification touches.

Reads the JSON tables of DICOM PS3.3 that highdicom (MIT) carries, so highdicom is needed here and nowhere at run time.
Run: python services/dicom-srm/tools/generate_iod_types.py
"""

import json
import sys
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from mdm_dicom_srm.deid.table import load_actions
from pydicom.datadict import dictionary_VR, tag_for_keyword

OUT = Path(__file__).parents[1] / "src/mdm_dicom_srm/deid/data/iod_types.tsv"
STRONG = ("1", "1C", "2", "2C")
CODE_MEANING = 0x00080104
CONTENT_SEQUENCE = 0x0040A730


def main() -> None:
    """Write the table and print its size."""
    standard = resources.files("highdicom") / "_standard"
    modules, iods, sops = (
        json.loads((standard / f"{name}.json").read_text()) for name in ("module_attribute_map", "iod_module_map", "sop_class_iod_map")
    )
    rows = {key: module_rows(attributes) for key, attributes in modules.items()}
    lines = [
        f"# DICOM PS3.3 attribute Types, from the tables of highdicom {metadata.version('highdicom')} (MIT licence).",
        "# sop <uid> <iod> | iod <iod> <modules> | module <name>, then its rows: <tag path> <Type>",
    ]
    lines += [f"sop\t{uid}\t{iod}" for uid, iod in sorted(sops.items())]
    for iod in sorted(iods):
        used = [
            module["key"]
            for module in iods[iod]
            if rows.get(module["key"]) and not (module["usage"] != "M" and removable(modules[module["key"]]))
        ]
        lines.append(f"iod\t{iod}\t{' '.join(used)}")
    for name in sorted(rows):
        if rows[name]:
            lines.append(f"module\t{name}")
            lines += [f"{'/'.join(f'{tag:08X}' for tag in path)}\t{kind}" for path, kind in sorted(rows[name].items())]
    OUT.write_text("\n".join(lines) + "\n")
    sys.stdout.write(f"{OUT}: {len(lines)} lines, {OUT.stat().st_size} bytes\n")


def removable(attributes: list[dict[str, Any]]) -> bool:
    """Tell whether removal takes all that an optional module must have, so that the module is gone and stays valid."""
    tags = [tag_for_keyword(word["keyword"]) for word in attributes if not word["path"] and word["type"] in ("1", "2")]
    return bool(tags) and all(tag is not None and "X" in load_actions().get(tag, "") for tag in tags)


def module_rows(attributes: list[dict[str, Any]]) -> dict[tuple[int, ...], str]:
    """Return tag path -> Type for the attributes of one module whose Type can change what is written."""
    types: dict[tuple[int, ...], str] = {}
    for attribute in attributes:
        tags = [tag_for_keyword(word) for word in (*attribute["path"], attribute["keyword"])]
        if None not in tags and attribute["type"] in STRONG:
            path = tuple(tag for tag in tags if tag is not None)
            types[path] = min(attribute["type"], types.get(path, "9"))
    return {path: kind for path, kind in types.items() if matters(path, types)}


def matters(path: tuple[int, ...], types: dict[tuple[int, ...], str]) -> bool:
    """Tell whether the Type at `path` is ever asked for: a coded attribute, a name, or content of a dummy item."""
    actions = load_actions()
    for depth in range(1, len(path)):
        action = actions.get(path[depth - 1], "")
        if action and "U" not in action:
            needs_dummy = types.get(path[:depth]) in ("1", "1C") and path[depth - 1] != CONTENT_SEQUENCE
            return needs_dummy and (types[path] in ("1", "2") or path[-1] == CODE_MEANING)
    return actions.get(path[-1], "U") != "U" or dictionary_VR(path[-1]) in ("PN", "DA", "DT", "AE", "UR")


if __name__ == "__main__":
    main()
