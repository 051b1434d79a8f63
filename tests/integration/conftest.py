"""Three keystores as processes, for the tests of a module."""

from collections.abc import Iterator
from typing import Any

import pytest
from mdm_testing.keystore import KeystoreProcesses
from mdm_testing.postgres import fresh_databases


@pytest.fixture(scope="module")
def all_processes(postgres: Any, pki: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeystoreProcesses]:
    """Three keystores for a module."""
    with fresh_databases(postgres, "keystore", 3) as conninfos:
        made = KeystoreProcesses(pki, conninfos, tmp_path_factory.mktemp("keystores"))
        yield made
        made.close()


@pytest.fixture
def keystores(all_processes: KeystoreProcesses) -> Iterator[KeystoreProcesses]:
    """Three running keystores without keys."""
    all_processes.tidy()
    yield all_processes
    all_processes.tidy()
