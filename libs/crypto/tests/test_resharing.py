"""Giving a key new shares: the key stays, old and new shares never combine, and a helper that cheats is named."""

from dataclasses import replace
from itertools import combinations
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mdm_crypto import resharing, shamir
from mdm_crypto.resharing import Sharing, Subshare
from mdm_crypto.shamir import ORDER, Share, ShareError
from nacl.bindings import crypto_core_ed25519_add, crypto_scalarmult_ed25519_base_noclamp

GUID = UUID("0190a5a0-0000-7000-8000-000000000001")
ORDER_TWO_POINT = (2**255 - 20).to_bytes(32, "little")


def redistribute(shares: list[Share], helpers: list[int], threshold: int, total: int) -> list[Share]:
    """What all servers do together."""
    base = Sharing.of(shares[0])
    dealt = {x: resharing.deal(shares[x - 1], helpers, threshold, total) for x in helpers}
    return [resharing.assemble(place(base, x, threshold, total), base, {i: dealt[i][x - 1] for i in helpers}) for x in range(1, total + 1)]


def place(base: Sharing, x: int, threshold: int, total: int) -> Share:
    return Share(GUID, 3, x, b"", (), threshold, total, base.version + 1)


@st.composite
def cases(draw):
    total = draw(st.integers(2, 16))
    threshold = draw(st.integers(2, total))
    helpers = draw(st.permutations(range(1, total + 1)))[:threshold]
    new_total = draw(st.integers(2, 16))
    return threshold, total, helpers, draw(st.integers(2, new_total)), new_total


@given(cases())
def test_any_threshold_of_new_shares_give_the_same_key_and_the_public_key_stays(case):
    threshold, total, helpers, new_threshold, new_total = case
    old = shamir.split(None, threshold, total, GUID, 3)
    new = redistribute(old, helpers, new_threshold, new_total)
    scalar = shamir.combine(old)
    assert shamir.combine(new[-new_threshold:]) == scalar
    assert {share.public_key for share in new} == {old[0].public_key}
    assert shamir.file_key(scalar, GUID, 3) == shamir.file_key(shamir.combine(new), GUID, 3)
    assert all(share.version == 1 and shamir.verify(share) for share in new)


def test_old_and_new_shares_never_combine():
    old = shamir.split(None, 2, 3, GUID, 3)
    new = redistribute(old, [1, 3], 2, 3)
    scalar = shamir.combine(old)
    for one, other in combinations(range(3), 2):
        with pytest.raises(ShareError, match="version"):
            shamir.combine([old[one], new[other]])
        disguised = replace(new[other], version=0, commitments=old[0].commitments)
        with pytest.raises(ShareError) as error:
            shamir.combine([old[one], disguised])
        assert (error.value.reason, error.value.x) == ("share-wrong", other + 1)
    assert shamir.combine(new[1:]) == scalar


def test_the_sum_is_the_one_that_big_integers_give():
    """Interpolating dealt constants and new shares in Python's integers, as an independent computation."""
    old = shamir.split((12345).to_bytes(32, "little"), 3, 5, GUID, 3)
    helpers = [5, 1, 4]
    dealt = {x: resharing.deal(old[x - 1], helpers, 2, 4) for x in helpers}
    for x in range(1, 5):
        new = resharing.assemble(place(Sharing.of(old[0]), x, 2, 4), Sharing.of(old[0]), {i: dealt[i][x - 1] for i in helpers})
        assert number(new.value) == sum(number(dealt[i][x - 1].value) for i in helpers) % ORDER
    # A line through two new shares meets 0 at the secret.
    one, two = (sum(number(dealt[i][x - 1].value) for i in helpers) % ORDER for x in (1, 2))
    assert (2 * one - two) % ORDER == 12345


def number(scalar: bytes) -> int:
    return int.from_bytes(scalar, "little")


def shifted(value: bytes) -> bytes:
    return ((number(value) + 1) % ORDER).to_bytes(32, "little")


def lie_in_value(dealt: list[Subshare]) -> Subshare:
    return replace(dealt[0], value=shifted(dealt[0].value))


def deal_another_secret(dealt: list[Subshare]) -> Subshare:
    """True to itself, and through another constant."""
    one = crypto_scalarmult_ed25519_base_noclamp((1).to_bytes(32, "little"))
    key, *others = dealt[0].commitments
    return Subshare(shifted(dealt[0].value), (crypto_core_ed25519_add(key, one), *others))


def add_torsion(dealt: list[Subshare]) -> Subshare:
    key, *others = dealt[0].commitments
    return replace(dealt[0], commitments=(key, crypto_core_ed25519_add(others[0], ORDER_TWO_POINT), *others[1:]))


def give_no_point(dealt: list[Subshare]) -> Subshare:
    return replace(dealt[0], commitments=(dealt[0].commitments[0], bytes([2]) * 32))


def give_too_few(dealt: list[Subshare]) -> Subshare:
    return replace(dealt[0], commitments=dealt[0].commitments[:1])


def give_no_scalar(dealt: list[Subshare]) -> Subshare:
    return replace(dealt[0], value=b"\xff" * 32)


def give_zero(dealt: list[Subshare]) -> Subshare:
    return replace(dealt[0], value=bytes(32))


LIES = [lie_in_value, deal_another_secret, add_torsion, give_no_point, give_too_few, give_no_scalar, give_zero]


@pytest.mark.parametrize("lie", LIES)
def test_a_helper_that_cheats_is_named(lie):
    old = shamir.split(None, 2, 3, GUID, 3)
    base = Sharing.of(old[0])
    dealt = {x: resharing.deal(old[x - 1], [2, 3], 2, 3) for x in (2, 3)}
    with pytest.raises(ShareError) as error:
        resharing.assemble(place(base, 1, 2, 3), base, {2: dealt[2][0], 3: lie(dealt[3])})
    assert error.value.x == 3


def test_helpers_must_be_as_many_as_the_threshold_and_different():
    old = shamir.split(None, 2, 3, GUID, 3)
    base = Sharing.of(old[0])
    subshare = resharing.deal(old[0], [1, 2], 2, 3)[0]
    for helpers in ([1], [1, 1], [1, 2, 3], [1, 4], [0, 1], [2, 3]):
        with pytest.raises(ShareError) as error:
            resharing.deal(old[0], helpers, 2, 3)
        assert error.value.reason == "helpers-invalid"
    with pytest.raises(ShareError):
        resharing.assemble(place(base, 1, 2, 3), base, {1: subshare})
    with pytest.raises(ShareError) as error:
        resharing.deal(old[0], [1, 2], 1, 3)
    assert error.value.reason == "threshold-invalid"
