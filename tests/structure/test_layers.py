"""Each contract of import-linter forbids what it says, for modules that nobody has written yet, too."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from grimp import ImportGraph
from importlinter.api import read_configuration
from importlinter.application import use_cases
from importlinter.configuration import configure
from importlinter.domain.contract import Contract, registry
from mdm_testing.repository import ROOT

configure()
OPTIONS = read_configuration(str(ROOT / "pyproject.toml"))
CONTRACTS: list[dict[str, Any]] = OPTIONS["contracts_options"]
NEW = "written_tomorrow"


@pytest.fixture(scope="module")
def graph() -> ImportGraph:
    session = OPTIONS["session_options"]
    return use_cases._build_graph(session["root_packages"], None, True, False, False)


def contract_of(options: Mapping[str, Any]) -> Contract:
    use_cases._register_contract_types(use_cases.read_user_options(str(ROOT / "pyproject.toml")))
    return registry.get_contract_class(options["type"])(options["name"], OPTIONS["session_options"], dict(options))


def kept(options: Mapping[str, Any], graph: ImportGraph, *imports: tuple[str, str]) -> bool:
    changed = copy.deepcopy(graph)
    for importer, imported in imports:
        for module in (importer, imported):
            if module not in changed.modules:
                changed.add_module(module)
        changed.add_import(importer=importer, imported=imported, line_number=1, line_contents="")
    return bool(contract_of(options).check(changed, verbose=False).kept)


def names(options: Mapping[str, Any]) -> list[list[str]]:
    """Return the layers from above to below, each with its modules; what is written `(name)` need not be there."""
    return [[part.strip().strip("()") for part in layer.split("|")] for layer in options["layers"]]


def violations(options: Mapping[str, Any], graph: ImportGraph) -> Iterator[tuple[str, str]]:
    """Yield imports by new modules, in every folder that the contract speaks of, that it has to find."""
    if options["type"] == "forbidden":
        yield from ((f"{source}.{NEW}", forbidden) for source in options["source_modules"] for forbidden in options["forbidden_modules"])
    elif options["type"] == "independence":
        yield from ((f"{one}.{NEW}", f"{other}.{NEW}") for one in options["modules"] for other in options["modules"] if one != other)
    else:
        for container in options.get("containers", [""]):
            prefix = f"{container}." if container else ""
            layers = [[prefix + name for name in layer if prefix + name in graph.modules] for layer in names(options)]
            for number, above in enumerate(layers):
                yield from ((f"{low}.{NEW}", high) for below in layers[number + 1 :] for low in below for high in above)


@pytest.mark.parametrize("options", CONTRACTS, ids=lambda options: options["name"])
def test_a_contract_finds_every_import_it_forbids(options, graph):
    assert kept(options, graph)
    missed = [pair for pair in violations(options, graph) if kept(options, graph, pair)]
    assert not missed


def test_a_new_folder_of_a_service_belongs_to_a_layer_or_is_refused(graph):
    (options,) = (options for options in CONTRACTS if options["name"].startswith("Inside a service"))
    assert not kept(options, graph, (f"mdm_catalog.{NEW}", "mdm_catalog.rules.model"))
