"""The configuration: the example is valid."""

import tomllib
from pathlib import Path

from mdm_metadata.config import MetadataSettings
from mdm_service.acl import Permission

EXAMPLE = Path(__file__).parent.parent / "config.example.toml"


def test_the_example_is_valid_and_lets_dicom_srm_create_below_the_root():
    acl = MetadataSettings(**tomllib.loads(EXAMPLE.read_text())).root.acl()
    assert acl.owner == "CN=operator,O=Example Lab"
    assert acl.entries[0].principal == "dn:CN=dicom-srm,O=Example Lab"
    assert acl.entries[0].permissions & Permission.WRITE
