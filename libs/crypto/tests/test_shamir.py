"""Splitting, checking and combining, held against Python's big integers and an independent HKDF."""

import hashlib
import hmac
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mdm_crypto import shamir
from mdm_crypto.shamir import ORDER, Share, ShareError
from nacl.bindings import crypto_core_ed25519_add, crypto_scalarmult_ed25519_base_noclamp

GUID = UUID("0190a5a0-0000-7000-8000-000000000001")
OTHER = UUID("0190a5a0-0000-7000-8000-000000000002")
BASE_POINT = bytes.fromhex("58" + "66" * 31)  # RFC 8032, section 5.1: y = 4/5, even x
ORDER_TWO_POINT = (2**255 - 20).to_bytes(32, "little")  # (0, −1)


def number(scalar: bytes) -> int:
    return int.from_bytes(scalar, "little")


def scalar(value: int) -> bytes:
    return value.to_bytes(32, "little")


def reason_of(error: pytest.ExceptionInfo[ShareError]) -> tuple[str, int | None]:
    return error.value.reason, error.value.x


parameters = st.integers(2, 16).flatmap(lambda total: st.tuples(st.integers(2, total), st.just(total)))
secrets = st.integers(1, ORDER - 1)


@given(secrets, parameters, st.randoms(use_true_random=False))
def test_any_threshold_of_shares_give_the_scalar_back(secret, threshold_and_total, random):
    threshold, total = threshold_and_total
    shares = shamir.split(scalar(secret), threshold, total, GUID, 7)
    assert all(shamir.verify(share) for share in random.sample(shares, 2))
    assert number(shamir.combine(random.sample(shares, threshold))) == secret


@given(secrets, parameters)
def test_shares_lie_on_a_polynomial_of_degree_below_the_threshold(secret, threshold_and_total):
    """Newton's form through the secret and k − 1 shares, in big integers, predicts every other share."""
    threshold, total = threshold_and_total
    shares = shamir.split(scalar(secret), threshold, total, GUID)
    points = [(0, secret)] + [(share.x, number(share.value)) for share in shares[: threshold - 1]]

    def predicted(x: int) -> int:
        value = 0
        for i, (xi, yi) in enumerate(points):
            term = yi
            for j, (xj, _) in enumerate(points):
                if i != j:
                    term = term * (x - xj) * pow(xi - xj, -1, ORDER) % ORDER
            value = (value + term) % ORDER
        return value

    assert all(number(share.value) == predicted(share.x) for share in shares)


def test_a_split_with_known_coefficients_gives_the_values_of_the_polynomial(monkeypatch):
    """f(x) = 5 + 3x + 2x²: 10, 19, 32, 49; commitments 5B, 3B, 2B."""
    coefficients = iter([scalar(3), scalar(2)])
    monkeypatch.setattr(shamir, "random_scalar", lambda: next(coefficients))
    shares = shamir.split(scalar(5), 3, 4, GUID)
    assert [number(share.value) for share in shares] == [10, 19, 32, 49]
    two = crypto_core_ed25519_add(BASE_POINT, BASE_POINT)
    three = crypto_core_ed25519_add(two, BASE_POINT)
    assert shares[0].commitments == (crypto_core_ed25519_add(three, two), three, two)
    assert shares[0].public_key == shares[0].commitments[0]


def test_the_base_point_is_that_of_rfc_8032():
    assert crypto_scalarmult_ed25519_base_noclamp(scalar(1)) == BASE_POINT


def test_fewer_shares_than_the_threshold_are_refused():
    shares = shamir.split(None, 3, 5, GUID)
    with pytest.raises(ShareError) as error:
        shamir.combine(shares[:2])
    assert reason_of(error) == ("shares-too-few", None)
    with pytest.raises(ShareError):
        shamir.combine([])


@given(st.integers(0, 2), st.integers(0, 255))
def test_a_flipped_bit_is_refused_and_its_share_named(which, bit):
    shares = shamir.split(None, 3, 5, GUID)
    value = bytearray(shares[which].value)
    value[bit // 8] ^= 1 << bit % 8
    shares[which] = replace(shares[which], value=bytes(value))
    assert not shamir.verify(shares[which])
    with pytest.raises(ShareError) as error:
        shamir.combine(shares[:3])
    assert error.value.x == which + 1


def test_the_same_index_twice_is_refused():
    shares = shamir.split(None, 2, 3, GUID)
    with pytest.raises(ShareError) as error:
        shamir.combine([shares[1], shares[1]])
    assert reason_of(error) == ("share-duplicate", 2)


@pytest.mark.parametrize("other", [{"guid": OTHER}, {"epoch": 1}, {"total": 4}])
def test_shares_of_another_guid_epoch_or_total_never_combine(other):
    shares = shamir.split(None, 2, 3, GUID, 0)
    with pytest.raises(ShareError) as error:
        shamir.combine([shares[0], shares[1], replace(shares[2], **other)])
    assert reason_of(error) == ("share-mixed", 3)


def test_shares_of_two_splits_of_one_scalar_never_combine():
    first, second = (shamir.split(scalar(42), 2, 3, GUID) for _ in range(2))
    with pytest.raises(ShareError) as error:
        shamir.combine([first[0], first[1], second[2]])
    assert reason_of(error) == ("share-mixed", 3)
    with pytest.raises(ShareError):
        shamir.combine([first[0], second[1]])


@pytest.mark.parametrize(("threshold", "total"), [(1, 3), (0, 3), (4, 3), (2, 17), (-2, 3), (2, 1)])
def test_bad_thresholds_are_refused(threshold, total):
    with pytest.raises(ShareError) as error:
        shamir.split(None, threshold, total, GUID)
    assert reason_of(error) == ("threshold-invalid", None)


@pytest.mark.parametrize("epoch", [-1, 2**32])
def test_an_epoch_beyond_32_bits_is_refused(epoch):
    with pytest.raises(ShareError, match="epoch"):
        shamir.split(None, 2, 3, GUID, epoch)


@pytest.mark.parametrize("value", [bytes(32), scalar(ORDER), scalar(ORDER + 5), b"\xff" * 32, b"", b"\x01" * 31])
def test_scalars_that_are_zero_or_not_canonical_are_refused(value):
    with pytest.raises(ShareError) as error:
        shamir.split(value, 2, 3, GUID)
    assert reason_of(error) == ("scalar-invalid", None)
    share = replace(shamir.split(None, 2, 3, GUID)[1], value=value)
    with pytest.raises(ShareError) as error:
        shamir.check(share)
    assert reason_of(error) == ("share-malformed", 2)
    with pytest.raises(ShareError):
        shamir.file_key(value, GUID, 0)


@pytest.mark.parametrize("x", [0, 4, -1, 2**252])
def test_an_index_outside_of_1_to_total_is_refused(x):
    share = replace(shamir.split(None, 2, 3, GUID)[0], x=x)
    with pytest.raises(ShareError) as error:
        shamir.check(share)
    assert reason_of(error) == ("share-malformed", x)


IDENTITY = scalar(1)
NOT_ON_CURVE = scalar(2)
NOT_CANONICAL = (2**255 - 19 + 1).to_bytes(32, "little")  # y = p + 1, another spelling of the identity


@pytest.mark.parametrize("point", [IDENTITY, ORDER_TWO_POINT, NOT_ON_CURVE, NOT_CANONICAL, bytes(32), b"\xff" * 32])
@pytest.mark.parametrize("position", [0, 1])
def test_commitments_outside_of_the_prime_order_group_are_refused(point, position):
    share = shamir.split(None, 2, 3, GUID)[0]
    commitments = list(share.commitments)
    commitments[position] = point
    with pytest.raises(ShareError) as error:
        shamir.check(replace(share, commitments=tuple(commitments)))
    assert reason_of(error) == ("commitment-invalid", 1)


def test_a_commitment_with_a_torsion_component_is_refused_even_where_the_equation_holds():
    """Adding the point of order two to C_1 leaves f(2)·B = C_0 + 2·C_1 true."""
    share = shamir.split(None, 2, 3, GUID)[1]
    twisted = crypto_core_ed25519_add(share.commitments[1], ORDER_TWO_POINT)
    assert not shamir.verify(replace(share, commitments=(share.commitments[0], twisted)))


@pytest.mark.parametrize("commitments", [(), (BASE_POINT,), (BASE_POINT,) * 3, (BASE_POINT, b"short")])
def test_a_wrong_number_or_size_of_commitments_is_refused(commitments):
    share = replace(shamir.split(None, 2, 3, GUID)[0], commitments=commitments)
    with pytest.raises(ShareError) as error:
        shamir.combine([share])
    assert reason_of(error) == ("share-malformed", 1)


def test_lying_servers_that_agree_on_an_equation_still_cannot_replace_the_key():
    """Shares of another polynomial under the true commitments fail s·B = C_0, and each is named."""
    true, forged = (shamir.split(None, 2, 3, GUID) for _ in range(2))
    shares = [replace(share, commitments=true[0].commitments) for share in forged]
    with pytest.raises(ShareError) as error:
        shamir.combine(shares)
    assert reason_of(error) == ("share-wrong", 1)


@given(parameters, st.randoms(use_true_random=False))
def test_any_lost_share_is_recovered_from_a_threshold_of_others(threshold_and_total, random):
    threshold, total = threshold_and_total
    shares = shamir.split(None, threshold, total, GUID, 3)
    lost = random.choice(shares)
    assert shamir.recover(random.sample(shares, threshold), lost.x) == lost


@pytest.mark.parametrize("x", [0, 4])
def test_the_key_itself_and_shares_that_never_were_are_not_recovered_as_shares(x):
    with pytest.raises(ShareError):
        shamir.recover(shamir.split(None, 2, 3, GUID), x)


@given(secrets, st.uuids(), st.integers(0, 2**32 - 1))
def test_the_file_key_is_hkdf_sha256_of_rfc_5869(secret, guid, epoch):
    """Extract and expand written out with hmac: PRK = HMAC(0³², IKM); T(1) = HMAC(PRK, info ‖ 1)."""
    extracted = hmac.digest(bytes(32), scalar(secret), hashlib.sha256)
    expected = hmac.digest(extracted, guid.bytes + epoch.to_bytes(4, "big") + b"\x01", hashlib.sha256)
    assert shamir.file_key(scalar(secret), guid, epoch) == expected


def test_the_file_key_of_a_published_vector_does_not_change():
    """Fixed at the first release: a change would make every stored ciphertext unreadable."""
    key = shamir.file_key(scalar(1), GUID, 0)
    assert key.hex() == "1c0194c6cdbf589e2989385991e9aea0bebcf71b341723233f5bc88f6065fd8f"
    assert len({key, shamir.file_key(scalar(1), OTHER, 0), shamir.file_key(scalar(1), GUID, 1)}) == 3


def test_a_share_never_shows_its_value():
    share = shamir.split(None, 2, 3, GUID)[0]
    assert repr(share.value) not in repr(share)
    assert isinstance(share, Share)
