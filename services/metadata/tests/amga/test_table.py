"""Every row of docs/user/amga.md has its scenario, and every scenario its row."""

from . import test_entries, test_rights, test_schemas, test_sites, test_statements, test_transfer
from .table import SCENARIOS, rows

MODULES = (test_entries, test_rights, test_schemas, test_sites, test_statements, test_transfer)


def test_each_row_has_a_scenario_and_each_scenario_a_row():
    scenarios = {name for module in MODULES for name in vars(module) if name.startswith("test_")}
    assert scenarios == set(SCENARIOS)
    assert sorted(SCENARIOS.values()) == sorted(rows())
