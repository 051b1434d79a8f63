"""Write deid/data/iod_types.tsv: the Type each IOD gives its attributes, at every depth.

Reads the JSON tables of DICOM PS3.3 that highdicom (MIT) carries, so highdicom is needed here and nowhere at run time.
Run: python libs/deid/tools/generate_iod_types.py
"""

import json
import sys
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from mdm_deid.rules.table import load_actions
from pydicom.datadict import tag_for_keyword

OUT = Path(__file__).parents[1] / "src/mdm_deid/data/iod_types.tsv"
STRONG = ("1", "1C", "2", "2C")
# tag -> [Type, what is inside]
Tree = dict[int, list[Any]]


def main() -> None:
    """Write the table and print its size."""
    standard = resources.files("highdicom") / "_standard"
    modules, iods, sops = (
        json.loads((standard / f"{name}.json").read_text()) for name in ("module_attribute_map", "iod_module_map", "sop_class_iod_map")
    )
    nodes: dict[tuple[str, ...], int] = {}
    numbers = {name: intern(tree(modules[name]), nodes) for name in sorted(modules)}
    lines = [
        f"# DICOM PS3.3 attribute Types, from the tables of highdicom {metadata.version('highdicom')} (MIT licence).",
        "# sop <uid> <iod> | iod <iod> <node of each module, ? after one that is optional>",
        "# node <n>, then its rows: <tag> <Type> [<node inside>]",
    ]
    lines += [f"sop\t{uid}\t{iod}" for uid, iod in sorted(sops.items())]
    for iod in sorted(iods):
        used = {
            f"{numbers[module['key']]}{'?' if module['usage'] == 'U' else ''}": None
            for module in iods[iod]
            if numbers.get(module["key"]) and not (module["usage"] != "M" and removable(modules[module["key"]]))
        }
        lines.append(f"iod\t{iod}\t{' '.join(used)}")
    for rows, number in nodes.items():
        lines += [f"node\t{number}", *rows]
    OUT.write_text("\n".join(lines) + "\n")
    sys.stdout.write(f"{OUT}: {len(lines)} lines, {OUT.stat().st_size} bytes\n")


def removable(attributes: list[dict[str, Any]]) -> bool:
    """Return whether removal takes all that an optional module must have, so that the module is gone and stays valid."""
    tags = [tag_for_keyword(word["keyword"]) for word in attributes if not word["path"] and word["type"] in ("1", "2")]
    return bool(tags) and all(tag is not None and "X" in load_actions().get(tag, "") for tag in tags)


def tree(attributes: list[dict[str, Any]]) -> Tree:
    """Return the attributes of a module that have a Type stronger than 3, and the sequences on the way to them."""
    root: Tree = {}
    for attribute in attributes:
        tags = [tag_for_keyword(word) for word in (*attribute["path"], attribute["keyword"])]
        if None in tags or attribute["type"] not in STRONG:
            continue
        inside = root
        for tag in tags[:-1]:
            inside = inside.setdefault(tag, ["3", {}])[1]
        entry = inside.setdefault(tags[-1], ["3", {}])
        entry[0] = min(entry[0], attribute["type"])
    return root


def intern(inside: Tree, nodes: dict[tuple[str, ...], int]) -> int:
    """Return the number of a node, equal for equal content; 0 for an empty one."""
    if not inside:
        return 0
    rows = tuple(
        f"{tag:08X}\t{kind}" + (f"\t{number}" if (number := intern(below, nodes)) else "") for tag, (kind, below) in sorted(inside.items())
    )
    return nodes.setdefault(rows, len(nodes) + 1)


if __name__ == "__main__":
    main()
