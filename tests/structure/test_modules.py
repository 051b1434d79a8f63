"""Modules have the size of one idea, and none imports what imports it."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest
from mdm_testing.repository import ROOT, tracked

LONGEST, SHORTEST = 400, 40
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["root_packages"]

PROGRAM = "what a program starts with, and nothing else"
CONTRACT = "an interface or a type that several modules share and none owns"
SETTINGS = "settings of one room: a class for each section"
ADAPTER = "one adapter behind a port"
COMMAND = "one group of commands"
ALONE = "one small idea that has several users and belongs to none of them"
LATER = "to be joined with another"
#: Shorter than usual, and why.
SHORT = {
    "client/src/mdm_client/cli/__main__.py": PROGRAM,
    "client/src/mdm_client/cli/desk.py": COMMAND,
    "client/src/mdm_client/cli/moment.py": ALONE,
    "client/src/mdm_client/cli/start.py": PROGRAM,
    "client/src/mdm_client/fetch/state.py": ALONE,
    "deploy/forwarder/src/mdm_forwarder/probe.py": PROGRAM,
    "deploy/forwarder/src/mdm_forwarder/refusal.py": COMMAND,
    "deploy/forwarder/src/mdm_forwarder/status.py": ALONE,
    "libs/deid/src/mdm_deid/encoding/pydicom_log.py": ALONE,
    "services/catalog/src/mdm_catalog/__main__.py": PROGRAM,
    "services/catalog/src/mdm_catalog/config.py": SETTINGS,
    "services/dicom-srm/src/mdm_dicom_srm/reconcile/store/spool.py": ADAPTER,
    "services/dicom-srm/src/mdm_dicom_srm/result/store/original.py": ADAPTER,
    "services/dicom-srm/src/mdm_dicom_srm/register/rules/commitment.py": CONTRACT,
    "services/dicom-srm/src/mdm_dicom_srm/stage/store/transaction.py": ALONE,
    "services/keystore/src/mdm_keystore/__main__.py": PROGRAM,
}


def product_modules() -> list[Path]:
    return [
        path for path in tracked("*.py") if "src" in path.parts and path.parts[0] not in ("proto", "tests") and path.name != "__init__.py"
    ]


def length(path: Path) -> int:
    return len((ROOT / path).read_text().splitlines())


def test_no_module_is_longer_than_one_idea():
    assert [str(path) for path in product_modules() if length(path) > LONGEST] == []


def test_short_modules_have_a_reason():
    assert {str(path) for path in product_modules() if length(path) < SHORTEST} == set(SHORT)


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, cache_dir=None)


def circles(graph: grimp.ImportGraph) -> Iterator[tuple[str, ...]]:
    """Yield for each import that closes a circle the chain from what is imported to who imports it."""
    for module in sorted(graph.modules):
        for imported in sorted(graph.find_modules_directly_imported_by(module)):
            related = imported == module or imported.startswith(f"{module}.") or module.startswith(f"{imported}.")
            if not related and (chain := graph.find_shortest_chain(imported, module)):
                yield chain


def test_no_module_imports_what_imports_it(graph):
    assert set(circles(graph)) == set()


def rooms(graph: grimp.ImportGraph) -> set[str]:
    """Return the packages inside packages."""
    return {module for module in graph.modules if graph.find_children(module) and module not in PACKAGES}


def test_no_room_imports_one_that_imports_it(graph):
    outer = {room for room in rooms(graph) if room.rpartition(".")[0] in PACKAGES}
    for room in outer:
        graph.squash_module(room)
    assert {chain for chain in circles(graph) if {chain[0], chain[-1]} <= outer} == set()


def test_a_circle_is_found():
    graph = grimp.ImportGraph()
    for importer, imported in (("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")):
        for module in (importer, imported):
            graph.add_module(module)
        graph.add_import(importer=importer, imported=imported)
    assert {frozenset(chain) for chain in circles(graph)} == {frozenset("abc")}
