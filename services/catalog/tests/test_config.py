"""The example configuration and the root's ACL."""

from pathlib import Path

import pytest
from mdm_catalog.config import CatalogSettings, RootSettings
from mdm_service.acl import AclEntry, Permission
from mdm_service.settings import load
from pydantic import ValidationError

EXAMPLE = Path(__file__).parent.parent / "config.example.toml"


def test_the_example_configuration_is_valid():
    settings = load(CatalogSettings, "catalog", EXAMPLE)
    assert settings.root.owner == "CN=operator,O=Example Lab"
    assert settings.root.acl_entries()[0] == AclEntry("authenticated", Permission.TRAVERSE)


@pytest.mark.parametrize(
    "root",
    [
        {"owner": "nobody"},
        {"owner": "CN=a", "entries": [{"principal": "alice", "permissions": "r"}]},
        {"owner": "CN=a", "entries": [{"principal": "authenticated", "permissions": "q"}]},
        {"owner": "CN=a", "entries": [{"principal": "authenticated", "permissions": ""}]},
        {"owner": "CN=a", "entries": [{"principal": "authenticated", "permissions": "r"}] * 2},
        {"owner": "CN=a", "entry": []},
    ],
)
def test_a_wrong_root_acl_is_refused(root):
    with pytest.raises(ValidationError):
        RootSettings.model_validate(root)
