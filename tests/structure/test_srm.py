"""The page about SRM v2.2 has every operation and code of the standard once, and says of ours what the contract says."""

import re
from pathlib import Path

from mdm.srm.v1 import result_pb2, srm_pb2
from mdm_testing.repository import ROOT

PAGE: Path = ROOT / "docs/developer/srm.md"
OPERATIONS, CODES = 39, 34
# What the standard has no operation for.
OURS = {"WatchGetRequest", "Write", "AbortPut"}


def rows(heading: str) -> list[tuple[list[str], str]]:
    """Return the names of the standard and of ours in each row of the table below a heading."""
    section = PAGE.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line.split("|") for line in section.splitlines() if line.startswith(("| srm", "| SRM_"))]
    return [(re.findall(r"\bsrm[A-Z]\w+|\bSRM_[A-Z_]+", cells[1]), cells[2].strip()) for cells in lines]


def test_every_operation_is_there_once_and_ours_are_those_of_the_contract():
    table = rows("Operations")
    named = [name for names, _ in table for name in names]
    assert len(named) == len(set(named)) == OPERATIONS
    services = (srm_pb2.DESCRIPTOR.services_by_name["SrmService"], result_pb2.DESCRIPTOR.services_by_name["ResultService"])
    methods = {method.name for service in services for method in service.methods}
    assert {name for _, ours in table for name in ours.split(", ")} - {"–"} == methods - OURS


def test_every_code_is_there_once_and_ours_are_those_of_the_contract():
    table = rows("Status codes")
    named = [name for names, _ in table for name in names]
    assert len(named) == len(set(named)) == CODES
    codes = {name.removeprefix("STATUS_CODE_") for name in dict(srm_pb2.StatusCode.items())} - {"UNSPECIFIED"}
    assert {ours for _, ours in table} - {"–"} == codes
    assert all(names == [f"SRM_{ours}"] for names, ours in table if ours != "–")
