"""The example configuration and the root's ACL."""

from pathlib import Path

from mdm_catalog.config import CatalogSettings
from mdm_service.access.acl import AclEntry
from mdm_service.settings import load
from mdm_wire.permission import Permission

EXAMPLE = Path(__file__).parent.parent / "config.example.toml"


def test_the_example_configuration_is_valid():
    settings = load(CatalogSettings, "catalog", EXAMPLE)
    assert settings.root.owner == "CN=operator,O=Example Lab"
    assert settings.root.acl().entries[0] == AclEntry("authenticated", Permission.TRAVERSE)
