"""Write deid/data/structures.txt: the names of structures from the worksheet of AAPM's Task Group 263, a CSV file given as argument."""

import csv
import re
import sys
import textwrap
from pathlib import Path

_TARGET = Path(__file__).parents[1] / "src/mdm_deid/data/structures.txt"
_COLUMN = "TG263-Primary Name"
# What the grammar of a label adds to a name: side or place, planning risk volume, a number to be filled in, what is taken off.
_ADDED = re.compile(r"(?:[_-](?:[LRAPISM]|L[IS]|R[IS]|NAdj|Dist|Prox|PRV.*|[PCGI]TV.*|Ev\d+.*|x+.*|[LR]xx))+$|^E-PTV.*")
_HEAD = (
    "# Names of structures in radiotherapy, without side, margin and number: nomenclature worksheet of AAPM Task Group 263, 2017-08-15.\n"
    "# Written by tools/generate_structures.py.\n"
)


def main() -> None:
    """Gather the names and write them, sorted."""
    with Path(sys.argv[1]).open(encoding="utf-8", newline="") as worksheet:
        names = {row[_COLUMN].strip() for row in csv.DictReader(worksheet)}
    bare = {_ADDED.sub("", name) for name in names} - {""}
    _TARGET.write_text(_HEAD + textwrap.fill(" ".join(sorted(bare)), 140, break_on_hyphens=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
