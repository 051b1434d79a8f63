"""Rules for LFNs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mdm_wire import path
from mdm_wire.errors import Invalid


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "absolute"),
        ("a/b", "absolute"),
        ("//", "empty"),
        ("/a//b", "empty"),
        ("/a/", "empty"),
        ("/.", "'..'"),
        ("/a/..", "'..'"),
        ("/../a", "'..'"),
        ("/a/./b", "'..'"),
        ("/a\x00b", "control"),
        ("/a\nb", "control"),
        ("/a\x7f", "control"),
        ("/a\u0085", "control"),
        ("/a\u2028b", "control"),
        ("/a\ud800", "UTF-8"),
        ("/e\u0301", "NFC"),
        ("/" + "a" * 256, "255"),
        ("/" + "é" * 128, "255"),
        ("/a" * 512, "1023"),
        ("/" + "x" * 1999, "1023"),
    ],
)
def test_a_bad_path_is_refused_with_its_reason(text, problem):
    with pytest.raises(Invalid) as caught:
        path.parse(text)
    assert caught.value.reason == "LFN_INVALID"
    assert problem in caught.value.message.replace(",", "")


@pytest.mark.parametrize("text", ["/", "/a", "/...", "/.a/b.", "/é", "/ a b ", "/" + "a" * 255, "/a" * 511 + "b", "/患者/x"])
def test_a_good_path_is_kept_as_it_is(text):
    assert path.parse(text) == text


NAMES = st.lists(st.text(st.characters(categories=["L", "N", "Zs"], codec="utf-8"), min_size=1, max_size=8), max_size=5)


@given(NAMES, NAMES)
def test_order_of_names_is_the_byte_order_of_paths_with_the_slash_lowest(left, right):
    def key(parts):
        return b"\x00".join(part.encode() for part in parts)

    assert (tuple(left) < tuple(right)) == (key(left) < key(right))


@given(NAMES)
def test_split_join_names_and_ancestors_agree(parts):
    lfn = path.Lfn("/" + "/".join(parts))
    assert path.names(lfn) == tuple(parts)
    assert [path.names(ancestor) for ancestor in path.ancestors(lfn)] == [tuple(parts[:depth]) for depth in range(len(parts))]
    if parts:
        assert path.join(*path.split(lfn)) == lfn
