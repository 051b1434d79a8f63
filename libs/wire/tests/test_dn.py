"""Distinguished names in their two written forms."""

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from mdm_wire import dn
from mdm_wire.errors import Invalid


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("CN=alice,O=MDM,C=EU", "CN=alice,O=MDM,C=EU"),
        ("/C=EU/O=MDM/CN=alice", "CN=alice,O=MDM,C=EU"),
        ("cn=alice, o=MDM", "CN=alice,O=MDM"),
        ("/O=Grid/CN=host/node.example.org", "CN=host/node.example.org,O=Grid"),
        ("/O=A, B/CN=x/emailAddress=a@b.example", "emailAddress=a@b.example,CN=x,O=A\\, B"),
        ("CN=alice+OU=staff,O=MDM", "OU=staff+CN=alice,O=MDM"),
    ],
)
def test_both_forms_give_one_canonical_name(typed, expected):
    assert dn.canonical(typed) == expected
    assert dn.canonical(expected) == expected


@pytest.mark.parametrize("typed", ["", "alice", "/", "/alice", "CN=", "CN=a,CN=b", "XX=1", "CN=a\x00b,O=c"])
def test_what_is_not_a_name_is_refused(typed):
    with pytest.raises(Invalid):
        dn.canonical(typed)


def test_the_order_of_rdns_matters():
    assert dn.canonical("CN=alice,O=MDM") != dn.canonical("O=MDM,CN=alice")


def test_a_namespace_covers_what_lies_below_it_only():
    namespace = dn.parse("O=MDM,C=EU")
    assert dn.is_within(dn.parse("CN=a,O=MDM,C=EU"), namespace)
    assert not dn.is_within(dn.parse("O=MDM,C=EU"), namespace)
    assert not dn.is_within(dn.parse("CN=a,O=MDM2,C=EU"), namespace)
    assert not dn.is_within(dn.parse("C=EU,O=MDM,CN=a"), namespace)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=16))
def test_any_common_name_survives_a_round_trip(text):
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "MDM"), x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])
    printed = dn.of_name(name)
    assert dn.parse(printed) == name or not text.isprintable() or text != text.strip()
