"""The grid of fakes, and three real keystores."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from mdm_testing.postgres import fresh_databases

from client.tests.cluster import Cluster
from client.tests.grid import FakeGrid


@pytest.fixture
def grid(pki, tmp_path: Path) -> Iterator[FakeGrid]:
    """A served grid of fakes, empty."""
    folder = tmp_path / "grid"
    folder.mkdir()
    with FakeGrid(pki, folder).serving() as served:
        yield served


@pytest.fixture(scope="module")
def whole_cluster(postgres, pki) -> Iterator[Cluster]:
    with fresh_databases(postgres, "keystore", 3) as conninfos:
        made = Cluster(pki, conninfos)
        yield made
        made.close()


@pytest.fixture
def cluster(whole_cluster, monkeypatch) -> Iterator[Cluster]:
    """The cluster as new; every client asks a and b first."""
    monkeypatch.setattr("mdm_client.keystore.calls.random.shuffle", lambda servers: None)
    yield whole_cluster
    whole_cluster.tidy()
