"""The configuration: the example is valid, the root's ACL is checked before anything opens."""

import tomllib
from pathlib import Path

import pytest
from mdm_metadata.config import ROOT_ACL_ID, MetadataSettings, RootSettings
from mdm_service.acl import Permission
from pydantic import ValidationError

EXAMPLE = Path(__file__).parent.parent / "config.example.toml"


def test_the_example_is_valid_and_lets_dicom_srm_create_below_the_root():
    acl = MetadataSettings(**tomllib.loads(EXAMPLE.read_text())).root.as_acl()
    assert acl.id == ROOT_ACL_ID
    assert acl.owner == "CN=operator,O=Example Lab"
    assert acl.entries[0].principal == "dn:CN=dicom-srm,O=Example Lab"
    assert acl.entries[0].permissions & Permission.WRITE


@pytest.mark.parametrize("acl", [{"everybody": "r"}, {"authenticated": "q"}, {"dn:nonsense": "r"}])
def test_a_malformed_root_acl_is_refused(acl):
    with pytest.raises(ValidationError):
        RootSettings(owner="CN=operator,O=Example Lab", acl=acl)
