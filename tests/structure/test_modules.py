"""Modules have the size of one idea, and none imports what imports it."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

from tests.structure.repository import ROOT, tracked

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
    "client/src/mdm_client/cli/memory.py": LATER,
    "deploy/forwarder/src/mdm_forwarder/probe.py": PROGRAM,
    "deploy/forwarder/src/mdm_forwarder/refusal.py": COMMAND,
    "deploy/local/src/mdm_local/component.py": CONTRACT,
    "deploy/local/src/mdm_local/credential.py": ALONE,
    "deploy/site/src/mdm_site/error.py": CONTRACT,
    "deploy/site/src/mdm_site/file.py": ALONE,
    "deploy/site/src/mdm_site/service.py": CONTRACT,
    "libs/deid/src/mdm_deid/encoding/pydicom_log.py": ALONE,
    "libs/deid/src/mdm_deid/private/number.py": ALONE,
    "libs/deid/src/mdm_deid/rules/characteristic.py": ALONE,
    "libs/deid/src/mdm_deid/rules/revision.py": LATER,
    "libs/deid/src/mdm_deid/text/label.py": ALONE,
    "libs/service/src/mdm_service/access/acl.py": CONTRACT,
    "libs/service/src/mdm_service/errors.py": CONTRACT,
    "libs/service/src/mdm_service/server/batch.py": ALONE,
    "libs/service/src/mdm_service/server/logs.py": ALONE,
    "services/catalog/src/mdm_catalog/__main__.py": PROGRAM,
    "services/catalog/src/mdm_catalog/config.py": SETTINGS,
    "services/dicom-srm/src/mdm_dicom_srm/deidentification.py": LATER,
    "services/dicom-srm/src/mdm_dicom_srm/dicom_log.py": ALONE,
    "services/dicom-srm/src/mdm_dicom_srm/grid/access.py": ADAPTER,
    "services/dicom-srm/src/mdm_dicom_srm/grid/error.py": LATER,
    "services/dicom-srm/src/mdm_dicom_srm/pacs/settings.py": SETTINGS,
    "services/dicom-srm/src/mdm_dicom_srm/register/rules/site.py": CONTRACT,
    "services/dicom-srm/src/mdm_dicom_srm/register/store/record.py": ADAPTER,
    "services/dicom-srm/src/mdm_dicom_srm/stage/metrics.py": ALONE,
    "services/dicom-srm/src/mdm_dicom_srm/stage/sealing/worker.py": PROGRAM,
    "services/dicom-srm/src/mdm_dicom_srm/stage/settings.py": SETTINGS,
    "services/keystore/src/mdm_keystore/__main__.py": PROGRAM,
    "services/keystore/src/mdm_keystore/store/acl.py": ADAPTER,
    "services/metadata/src/mdm_metadata/rules/query/syntax/limit.py": SETTINGS,
}
#: A profile loads itself from its file, whose reader makes profiles and knows the lists of private attributes.
CIRCLES = {
    frozenset({"mdm_deid.rules.profile", "mdm_deid.rules.profile_file"}),
    frozenset({"mdm_deid.rules.private", "mdm_deid.rules.profile", "mdm_deid.rules.profile_file"}),
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
    assert {frozenset(chain) for chain in circles(graph)} == CIRCLES


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
