"""A development authority for certificates of servers and callers."""

import pytest
from mdm_site.pki import DevelopmentCa


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> DevelopmentCa:
    """A development authority whose subjects lie below `O=MDM Test`: `pki.issue(pki.subject("alice"))`."""
    return DevelopmentCa(tmp_path_factory.mktemp("pki"))
