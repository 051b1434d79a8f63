"""The grid of fakes, and three real keystores."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

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
    names = [f"keystore_{uuid4().hex[:12]}" for _ in range(3)]
    made = Cluster(pki, [postgres.create_database(name) for name in names])
    yield made
    made.close()
    for name in names:
        postgres.drop_database(name)


@pytest.fixture
def cluster(whole_cluster, monkeypatch) -> Iterator[Cluster]:
    """The cluster as new; every client asks a and b first."""
    monkeypatch.setattr("mdm_client.keystore.reading.random.shuffle", lambda servers: None)
    yield whole_cluster
    whole_cluster.tidy()
