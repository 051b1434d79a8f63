"""Verifiable k-of-n splitting of a key scalar over ed25519's prime-order group.

A key is a scalar s modulo ℓ. A random polynomial f of degree k − 1 with f(0) = s gives server x the share f(x)
(A. Shamir, "How to share a secret", CACM 22, 1979); the public points C_j = f_j·B commit to its coefficients
(P. Feldman, "A practical scheme for non-interactive verifiable secret sharing", FOCS 1987), so that anybody can check
f(x)·B = Σ x^j·C_j. C_0 = s·B names the key. Group arithmetic is libsodium's; secret scalars meet no other code.
"""

import functools
import hmac
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from nacl.bindings import (
    crypto_core_ed25519_add,
    crypto_core_ed25519_is_valid_point,
    crypto_core_ed25519_scalar_add,
    crypto_core_ed25519_scalar_mul,
    crypto_core_ed25519_scalar_reduce,
    crypto_scalarmult_ed25519_base_noclamp,
)
from nacl.exceptions import RuntimeError as NaClRuntimeError

ORDER = 2**252 + 27742317777372353535851937790883648493
"""ℓ, the order of ed25519's base point (RFC 8032, section 5.1)."""

MAX_SHARES = 16
MAX_EPOCH = 2**32 - 1
MAX_VERSION = 2**32 - 1
_SIZE = 32
_ZERO = bytes(_SIZE)
_FIELD = 2**255 - 19
_IDENTITY = (1).to_bytes(_SIZE, "little")


class ShareError(ValueError):
    """A share, or a set of shares, that cannot be used; `x` is the guilty share's index, where there is one."""

    def __init__(self, reason: str, message: str, x: int | None = None) -> None:
        super().__init__(message if x is None else f"share {x}: {message}")
        self.reason = reason
        self.x = x


@dataclass(frozen=True, slots=True)
class Share:
    """f(x), and what is needed to check it; `value` is 32 bytes, little-endian, and stays out of `repr`.

    `epoch` numbers the key, which is derived with it; `version` numbers the polynomials that have been laid through one key.
    """

    guid: UUID
    epoch: int
    x: int
    value: bytes = field(repr=False)
    commitments: tuple[bytes, ...]
    threshold: int
    total: int
    version: int = 0

    @property
    def public_key(self) -> bytes:
        """The commitment to the constant term, which names the key."""
        return self.commitments[0]


def random_scalar() -> bytes:
    """Return a scalar uniform in 1..ℓ−1 (to within 2^−250), from 64 random bytes reduced modulo ℓ."""
    while True:
        scalar = crypto_core_ed25519_scalar_reduce(os.urandom(64))
        if scalar != _ZERO:
            return scalar


def split(secret_scalar: bytes | None, threshold: int, total: int, guid: UUID, epoch: int = 0) -> list[Share]:
    """Split a scalar (None: a fresh random one) into `total` shares, x = 1..total, of which any `threshold` combine.

    Raises:
        ShareError: 2 ≤ threshold ≤ total ≤ 16 does not hold, the epoch is not a 32-bit number, or the scalar is not
            canonical or is zero.
    """
    _check_parameters(threshold, total, epoch)
    secret = random_scalar() if secret_scalar is None else secret_scalar
    _check_scalar(secret, "scalar-invalid", None)
    while True:
        coefficients = (secret, *(random_scalar() for _ in range(threshold - 1)))
        values = [evaluate(coefficients, x) for x in range(1, total + 1)]
        if _ZERO not in values:
            break
    commitments = tuple(crypto_scalarmult_ed25519_base_noclamp(coefficient) for coefficient in coefficients)
    return [Share(guid, epoch, x, value, commitments, threshold, total) for x, value in enumerate(values, start=1)]


def check(share: Share) -> None:
    """Check a share completely: its form, every commitment a point of the prime-order group, and f(x)·B = Σ x^j·C_j.

    Raises:
        ShareError: naming the share's x, with reason `share-malformed`, `commitment-invalid` or `share-wrong`.
    """
    _check_form(share)
    key, *others = share.commitments
    if not all(crypto_core_ed25519_is_valid_point(point) for point in others) or not _is_canonical(key):
        raise _commitment_invalid(share)
    # The other points being in the group, the equation holds only for a C_0 in the group: no need to test that first.
    if not _matches_commitments(share):
        if not crypto_core_ed25519_is_valid_point(key):
            raise _commitment_invalid(share)
        raise ShareError("share-wrong", "the value does not match its commitments", share.x)


def verify(share: Share) -> bool:
    """Return whether `check` accepts the share."""
    try:
        check(share)
    except ShareError:
        return False
    return True


def combine(shares: Sequence[Share]) -> bytes:
    """Return the key scalar from at least `threshold` shares of one key; only the first `threshold` are used.

    The result is proven by s·B = C_0, which costs less than checking each share; when that fails each share is checked.

    Raises:
        ShareError: too few shares, duplicate x, mixed keys, epochs, versions, parameters or commitments, or a malformed or
            wrong share, whose x it names.
    """
    if not shares:
        raise ShareError("shares-too-few", "no shares given")
    for share in shares:
        _check_form(share)
    _check_same_key(shares)
    threshold = shares[0].threshold
    if len(shares) < threshold:
        raise ShareError("shares-too-few", f"{len(shares)} shares given, {threshold} needed")
    chosen = shares[:threshold]
    scalar = _interpolate(chosen, 0)
    if scalar != _ZERO and hmac.compare_digest(crypto_scalarmult_ed25519_base_noclamp(scalar), chosen[0].commitments[0]):
        return scalar
    for share in chosen:
        check(share)
    raise ShareError("shares-wrong", "the shares do not combine to the key that their commitments name")


def recover(shares: Sequence[Share], x: int) -> Share:
    """Return the share at `x` from at least `threshold` shares, for a server that has lost its share.

    Raises:
        ShareError: as `combine`, or x is not in 1..total.
    """
    combine(shares)
    first = shares[0]
    chosen = shares[: first.threshold]
    value = _interpolate(chosen, x)
    recovered = replace(first, x=x, value=value)
    check(recovered)
    return recovered


def file_key(scalar: bytes, guid: UUID, epoch: int) -> bytes:
    """Return the 32-byte file key: HKDF-SHA-256 (RFC 5869), no salt, info = GUID (16 bytes) ‖ epoch (4, big-endian)."""
    _check_scalar(scalar, "scalar-invalid", None)
    info = guid.bytes + epoch.to_bytes(4, "big")
    return HKDF(algorithm=SHA256(), length=_SIZE, salt=None, info=info).derive(scalar)


def evaluate(coefficients: Sequence[bytes], x: int) -> bytes:
    """Return f(x), coefficients lowest degree first, by Horner's rule on secret scalars."""
    multiplier = x.to_bytes(_SIZE, "little")
    value = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        value = crypto_core_ed25519_scalar_add(crypto_core_ed25519_scalar_mul(value, multiplier), coefficient)
    return value


def _matches_commitments(share: Share) -> bool:
    """Horner's rule on points: x is public and small, so additions beat a scalar multiplication."""
    expected = share.commitments[-1]
    try:
        for commitment in reversed(share.commitments[:-1]):
            expected = crypto_core_ed25519_add(_times(share.x, expected), commitment)
    except NaClRuntimeError:  # not a point of the curve
        return False
    return hmac.compare_digest(crypto_scalarmult_ed25519_base_noclamp(share.value), expected)


def _is_canonical(point: bytes) -> bool:
    """Return whether a point's y is below p (RFC 8032, section 5.1.3) and it is not the identity."""
    return point != _IDENTITY and int.from_bytes(point, "little") & ~(1 << 255) < _FIELD


def _commitment_invalid(share: Share) -> ShareError:
    return ShareError("commitment-invalid", "a commitment is not a point of the prime-order group", share.x)


def _times(x: int, point: bytes) -> bytes:
    """x·P for 1 ≤ x ≤ 16 by doubling and adding."""
    result = point
    for bit in bin(x)[3:]:
        result = crypto_core_ed25519_add(result, result)
        if bit == "1":
            result = crypto_core_ed25519_add(result, point)
    return result


def _interpolate(shares: Sequence[Share], at: int) -> bytes:
    """f(at) from as many shares as the polynomial has coefficients."""
    value = _ZERO
    weights = lagrange_weights(tuple(share.x for share in shares), at)
    for share, weight in zip(shares, weights, strict=True):
        value = crypto_core_ed25519_scalar_add(value, crypto_core_ed25519_scalar_mul(weight, share.value))
    return value


@functools.lru_cache(maxsize=1024)
def lagrange_weights(xs: tuple[int, ...], at: int) -> tuple[bytes, ...]:
    """Return Lagrange's basis polynomials at `at` for these (public) indices: λ_i = Π (x_j − at) / (x_j − x_i) modulo ℓ."""
    weights = []
    for x in xs:
        numerator = denominator = 1
        for other in xs:
            if other != x:
                numerator = numerator * (other - at) % ORDER
                denominator = denominator * (other - x) % ORDER
        weights.append((numerator * pow(denominator, -1, ORDER) % ORDER).to_bytes(_SIZE, "little"))
    return tuple(weights)


def _check_same_key(shares: Sequence[Share]) -> None:
    repeated = _first_repeated(share.x for share in shares)
    if repeated is not None:
        raise ShareError("share-duplicate", "given twice", repeated)
    groups = [(share.guid, share.epoch, share.version, share.threshold, share.total, share.commitments) for share in shares]
    common, _ = Counter(groups).most_common(1)[0]
    aspects = ("GUID", "epoch", "version", "threshold", "total", "commitments")
    for share, group in zip(shares, groups, strict=True):
        for aspect, mine, theirs in zip(aspects, group, common, strict=True):
            if mine != theirs:
                raise ShareError("share-mixed", f"differs from the other shares in its {aspect}", share.x)


def _first_repeated(indices: Iterable[int]) -> int | None:
    seen: set[int] = set()
    for x in indices:
        if x in seen:
            return x
        seen.add(x)
    return None


def _check_form(share: Share) -> None:
    _check_parameters(share.threshold, share.total, share.epoch, share.x)
    if not 0 <= share.version <= MAX_VERSION:
        raise ShareError("share-malformed", "the version is not a 32-bit number", share.x)
    if not 1 <= share.x <= share.total:
        raise ShareError("share-malformed", f"index is not in 1..{share.total}", share.x)
    _check_scalar(share.value, "share-malformed", share.x)
    if len(share.commitments) != share.threshold or any(len(point) != _SIZE for point in share.commitments):
        raise ShareError("share-malformed", f"needs {share.threshold} commitments of {_SIZE} bytes", share.x)


def _check_parameters(threshold: int, total: int, epoch: int, x: int | None = None) -> None:
    if not 2 <= threshold <= total <= MAX_SHARES:
        message = f"threshold {threshold} of {total}: needs 2 ≤ threshold ≤ total ≤ {MAX_SHARES}"
        raise ShareError("threshold-invalid", message, x)
    if not 0 <= epoch <= MAX_EPOCH:
        raise ShareError("epoch-invalid", "the epoch is not a 32-bit number", x)


def _check_scalar(scalar: bytes, reason: str, x: int | None) -> None:
    if len(scalar) != _SIZE or scalar == _ZERO or int.from_bytes(scalar, "little") >= ORDER:
        raise ShareError(reason, f"the scalar is not canonical: {_SIZE} bytes, little-endian, 0 < value < ℓ", x)
