"""New shares of an old key: verifiable redistribution from any k holders to n' servers, with any new threshold k'.

Each of k holders i deals g_i, a random polynomial of degree k' − 1 with g_i(0) = λ_i·f(i), where λ_i are Lagrange's weights at 0
(Y. Desmedt and S. Jajodia, "Redistributing secret shares to new access structures and its applications", 1997; verifiable by
Feldman commitments as in T. Wong, C. Wang and J. Wing, SISW 2002). Server x receives every g_i(x); their sum f'(x) is its new share,
and the sum of the commitments commits to f'. As Σ λ_i·f(i) = f(0), the key and its first commitment stay as they are. Each g_i(x) is
uniformly random by itself, so that nobody learns a share of another, and shares of f and of f' lie on unrelated polynomials.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from nacl.bindings import (
    crypto_core_ed25519_add,
    crypto_core_ed25519_scalar_add,
    crypto_core_ed25519_scalar_mul,
    crypto_scalarmult_ed25519_base_noclamp,
    crypto_scalarmult_ed25519_noclamp,
)
from nacl.exceptions import RuntimeError as NaClRuntimeError

from mdm_crypto import shamir
from mdm_crypto.shamir import MAX_SHARES, ORDER, Share, ShareError

_ZERO = bytes(32)


@dataclass(frozen=True, slots=True)
class Subshare:
    """The part that one helper deals to one server: g_i(x), 32 bytes little-endian, and the commitments to g_i."""

    value: bytes = field(repr=False)
    commitments: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Sharing:
    """The public half of a share: the polynomial that it lies on."""

    version: int
    threshold: int
    total: int
    commitments: tuple[bytes, ...]

    @classmethod
    def of(cls, share: Share) -> "Sharing":
        """Return the sharing that a share belongs to."""
        return cls(share.version, share.threshold, share.total, share.commitments)


def deal(share: Share, helpers: Sequence[int], threshold: int, total: int) -> list[Subshare]:
    """Split a share, weighted for this set of helpers, into subshares for the servers 1..total.

    Raises:
        ShareError: the helpers are not `share.threshold` different indices with the share's own among them, or
            2 ≤ threshold ≤ total ≤ 16 does not hold.
    """
    _check_helpers(helpers, share.threshold, share.total)
    if share.x not in helpers:
        raise ShareError("helpers-invalid", "is not among the helpers", share.x)
    if not 2 <= threshold <= total <= MAX_SHARES:
        raise ShareError("threshold-invalid", f"threshold {threshold} of {total}: needs 2 ≤ threshold ≤ total ≤ {MAX_SHARES}")
    weight = shamir.lagrange_weights(tuple(helpers), 0)[list(helpers).index(share.x)]
    constant = crypto_core_ed25519_scalar_mul(weight, share.value)
    coefficients = (constant, *(shamir.random_scalar() for _ in range(threshold - 1)))
    commitments = tuple(crypto_scalarmult_ed25519_base_noclamp(coefficient) for coefficient in coefficients)
    return [Subshare(shamir.evaluate(coefficients, x), commitments) for x in range(1, total + 1)]


def assemble(place: Share, base: Sharing, subshares: Mapping[int, Subshare]) -> Share:
    """Return the new share at `place` (whose value and commitments are ignored) from all helpers' subshares.

    The sum is checked completely: it lies on the polynomial that its commitments name, which goes through the old key. Only if it
    does not, each subshare is checked.

    Raises:
        ShareError: naming the helper whose subshare is malformed or wrong; or the helpers are not `base.threshold` indices.
    """
    helpers = tuple(sorted(subshares))
    _check_helpers(helpers, base.threshold, base.total)
    for helper, subshare in subshares.items():
        _check_form(helper, subshare, place.threshold)
    try:
        share = _sum(place, subshares)
        if share.public_key == base.commitments[0]:
            shamir.check(share)
            return share
    except (ShareError, NaClRuntimeError):
        pass
    for helper in helpers:
        _check(helper, helpers, subshares[helper], base, place.x)
    raise ShareError("subshares-wrong", "the subshares do not add up to a share of the key")


def _sum(place: Share, subshares: Mapping[int, Subshare]) -> Share:
    value = _ZERO
    for subshare in subshares.values():
        value = crypto_core_ed25519_scalar_add(value, subshare.value)
    columns = zip(*(subshare.commitments for subshare in subshares.values()), strict=True)
    return replace(place, value=value, commitments=tuple(_sum_of_points(column) for column in columns))


def _check(helper: int, helpers: tuple[int, ...], subshare: Subshare, base: Sharing, x: int) -> None:
    """Check one subshare: it lies on the helper's polynomial, whose constant is the helper's old share times its weight."""
    weight = shamir.lagrange_weights(helpers, 0)[helpers.index(helper)]
    try:
        old = _value_of(base.commitments, helper)
        expected = crypto_scalarmult_ed25519_noclamp(weight, old)
        lies = crypto_scalarmult_ed25519_base_noclamp(subshare.value) == _value_of(subshare.commitments, x)
    except NaClRuntimeError:
        raise ShareError("commitment-invalid", "a commitment is not a point of the prime-order group", helper) from None
    if subshare.commitments[0] != expected:
        raise ShareError("subshare-foreign", "dealt another value than its own share", helper)
    if not lies:
        raise ShareError("subshare-wrong", "the subshare does not match its commitments", helper)


def _check_form(helper: int, subshare: Subshare, threshold: int) -> None:
    if len(subshare.value) != len(_ZERO) or not 0 < int.from_bytes(subshare.value, "little") < ORDER:
        raise ShareError("subshare-malformed", "the subshare is not a canonical scalar", helper)
    if len(subshare.commitments) != threshold or any(len(point) != len(_ZERO) for point in subshare.commitments):
        raise ShareError("subshare-malformed", f"needs {threshold} commitments of 32 bytes", helper)


def _check_helpers(helpers: Sequence[int], threshold: int, total: int) -> None:
    if len(set(helpers)) != len(helpers) or len(helpers) != threshold or not all(1 <= x <= total for x in helpers):
        raise ShareError("helpers-invalid", f"needs {threshold} different helpers of 1..{total}")


def _value_of(commitments: Sequence[bytes], x: int) -> bytes:
    """Return f(x)·B from the commitments to f, by Horner's rule on points."""
    value = commitments[-1]
    factor = x.to_bytes(32, "little")
    for commitment in reversed(commitments[:-1]):
        value = crypto_core_ed25519_add(crypto_scalarmult_ed25519_noclamp(factor, value), commitment)
    return value


def _sum_of_points(points: Sequence[bytes]) -> bytes:
    first, *others = points
    for point in others:
        first = crypto_core_ed25519_add(first, point)
    return first
