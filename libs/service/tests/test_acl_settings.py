"""ACLs in configuration files."""

import pytest
from mdm_service.access.acl import AclEntry, RootSettings
from mdm_wire.permission import Permission
from pydantic import ValidationError


def test_names_become_canonical_and_letters_permissions():
    root = RootSettings.model_validate({"owner": "/O=Lab/CN=operator", "entries": [{"principal": "dn:/O=Lab/CN=a", "permissions": "rx"}]})
    assert root.acl().owner == "CN=operator,O=Lab"
    assert root.acl().entries == (AclEntry("dn:CN=a,O=Lab", Permission.READ | Permission.TRAVERSE),)


@pytest.mark.parametrize(
    "root",
    [
        {"owner": "nobody"},
        {"owner": "CN=a", "entries": [{"principal": "alice", "permissions": "r"}]},
        {"owner": "CN=a", "entries": [{"principal": "dn:nonsense", "permissions": "r"}]},
        {"owner": "CN=a", "entries": [{"principal": "authenticated", "permissions": "q"}]},
        {"owner": "CN=a", "entries": [{"principal": "authenticated", "permissions": ""}]},
        {"owner": "CN=a", "entries": [{"principal": "authenticated", "permissions": "r"}] * 2},
        {"owner": "CN=a", "entry": []},
    ],
)
def test_what_is_no_acl_is_refused(root):
    with pytest.raises(ValidationError):
        RootSettings.model_validate(root)
