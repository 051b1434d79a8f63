"""The configuration: the example is valid, contradictions are refused."""

import tomllib
from pathlib import Path

import pytest
from mdm_metadata.config import MetadataSettings
from mdm_wire.permission import Permission
from pydantic import ValidationError

EXAMPLE = Path(__file__).parent.parent / "config.example.toml"


def test_the_example_is_valid_and_lets_dicom_srm_create_below_the_root():
    acl = MetadataSettings(**tomllib.loads(EXAMPLE.read_text())).root.acl()
    assert acl.owner == "CN=operator,O=Example Lab"
    assert acl.entries[0].principal == "dn:CN=dicom-srm,O=Example Lab"
    assert acl.entries[0].permissions & Permission.WRITE


def test_a_subscriber_without_its_role_is_refused_at_once():
    settings = tomllib.loads(EXAMPLE.read_text())
    settings["feed"] = {"subscribers": [{"subject": "CN=metadata,O=Other Hospital", "subtrees": ["/biomed/hospital-a"]}]}
    with pytest.raises(ValidationError, match="CN=metadata,O=Other Hospital is not under"):
        MetadataSettings(**settings)
    settings["roles"]["peer.metadata"] = ["/O=Other Hospital/CN=metadata"]
    assert MetadataSettings(**settings).feed.subtrees_by_subject() == {"CN=metadata,O=Other Hospital": {"/biomed/hospital-a"}}
    settings["feed"]["subscribers"][0]["subject"] = "nobody"
    with pytest.raises(ValidationError, match=r"feed\.subscribers"):
        MetadataSettings(**settings)
