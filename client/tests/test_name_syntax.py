"""What people type is understood or refused; it never reaches a service malformed."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mdm_client.name_syntax import Name, normalise_lfn, parse_acl_change, parse_name, parse_permissions, parse_principal
from mdm_wire.errors import Invalid
from mdm_wire.permission import format_permissions
from mdm_wire.url import surl_authority, turl_authority

GUID = "0190b0a0-1234-4abc-8def-0123456789ab"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("/biomed//hospital-a/", Name(lfn="/biomed/hospital-a")),
        ("/", Name(lfn="/")),
        (GUID, Name(guid=UUID(GUID))),
        (GUID.upper(), Name(guid=UUID(GUID))),
        (f"srm://hospital-a/{GUID}", Name(surl=f"srm://hospital-a/{GUID}")),
        ("/a/e\u0301", Name(lfn="/a/\u00e9")),
    ],
)
def test_a_name_is_an_lfn_a_guid_or_a_surl(text, name):
    assert parse_name(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "relative",
        "srm://",
        "srm://site",
        GUID[:-1],
        "{" + GUID + "}",
        "/a/../b",
        "/a/./b",
        "/a\nb",
        "/a\u2028b",
        "/a\u2029b",
        "/\ud800",
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(Invalid) as caught:
        parse_name(text)
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    ("path", "fits"),
    [
        ("/" + "a" * 255, True),
        ("/" + "a" * 256, False),
        ("/ab" * 341, True),
        ("/ab" * 341 + "/", True),
        ("/ab" * 342, False),
        ("/" + "é" * 128, False),
    ],
)
def test_lengths_are_counted_in_bytes(path, fits):
    if fits:
        assert normalise_lfn(path) == path.rstrip("/")
    else:
        with pytest.raises(Invalid, match="too long"):
            normalise_lfn(path)


@given(st.text(max_size=40))
def test_a_normal_form_is_stable_and_stays_inside(text):
    try:
        normal = normalise_lfn("/" + text)
    except Invalid:
        return
    assert normalise_lfn(normal) == normal
    assert ".." not in normal.split("/")


@pytest.mark.parametrize(
    ("text", "principal"),
    [
        ("authenticated", "authenticated"),
        ("dn:CN=alice,O=MDM Test", "dn:CN=alice,O=MDM Test"),
        ("CN=alice,O=MDM Test", "dn:CN=alice,O=MDM Test"),
        ("/O=MDM Test/CN=alice", "dn:/O=MDM Test/CN=alice"),
        ("group:/biomed/neuro", "group:/biomed/neuro"),
        ("/biomed/neuro", "group:/biomed/neuro"),
    ],
)
def test_principals_may_be_short(text, principal):
    assert parse_principal(text) == principal


@pytest.mark.parametrize("text", ["", "nobody", "dn:", "dn:alice", "group:", "group:neuro", "/", "role:operator", "CN=a\nb"])
def test_other_principals_are_refused(text):
    with pytest.raises(Invalid):
        parse_principal(text)


def test_permission_letters_name_bits():
    assert parse_permissions("rlxg") == 4 + 32 + 16 + 64
    assert parse_permissions("prwlxgsd") == 255
    assert format_permissions(255) == "pdrwlxgs"
    for wrong in ("", "q", "r w", "R"):
        with pytest.raises(Invalid):
            parse_permissions(wrong)


@given(st.integers(1, 255))
def test_letters_and_bits_are_the_same(bits):
    assert parse_permissions(format_permissions(bits)) == bits


def test_urls_name_their_site():
    assert surl_authority(f"srm://hospital-a/{GUID}") == "hospital-a"
    assert turl_authority(f"mdm+grpc://hospital-a/token/{GUID}") == "hospital-a"
    with pytest.raises(Invalid):
        turl_authority(f"https://hospital-a/token/{GUID}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("group:/biomed/neuro+rl", ("group:/biomed/neuro", "+", 4 + 32)),
        ("authenticated=", ("authenticated", "=", 0)),
        ("dn:CN=a-b,O=Lab+x-r", ("dn:CN=a-b,O=Lab+x", "-", 4)),
        ("/O=Lab/CN=alice=read", ("dn:/O=Lab/CN=alice", "=", 4 + 16 + 32 + 64)),
        ("dn:CN=alice,O=Lab-write", ("dn:CN=alice,O=Lab", "-", 254)),
        ("/vo/group+all", ("group:/vo/group", "+", 255)),
    ],
)
def test_short_forms_of_acl_changes_are_read_from_their_end(text, expected):
    assert parse_acl_change(text) == expected


@pytest.mark.parametrize(
    "text", ["", "authenticated", "authenticated+", "+r", "authenticated+q", "authenticated-none", "dn:CN=alice,O=Lab", "nobody=r"]
)
def test_what_is_no_acl_change_is_refused(text):
    with pytest.raises(Invalid):
        parse_acl_change(text)
