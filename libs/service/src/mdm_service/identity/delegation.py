"""Whether a job's token is good: signed by a user whom this service would let in, for it, for now, for this job, and not revoked."""

import base64
import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jwt
from cachetools import LRUCache
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from mdm_wire.delegation import CURVES, ISSUER, LEEWAY_SECONDS, MAX_TOKEN_BYTES, TOKEN_TYPE, Delegation, from_claims, thumbprint_of
from mdm_wire.errors import MdmError, Unauthenticated

from mdm_service.identity.trust import TrustStore

_MOST_KEPT = 4096
_MOST_CERTIFICATES = 4


@dataclass(frozen=True)
class _Signed:
    """What never changes about a token: what it says, who signed it, when it begins."""

    delegation: Delegation
    signer: bytes
    issued: int
    not_before: int


class DelegationVerifier:
    """Verifies the tokens of jobs. The signature is verified once for each token, everything else with every call.

    `audiences` are those that mean this service; a token may live `max_seconds`; `is_revoked` says whether a user has revoked an id.
    """

    def __init__(self, trust: TrustStore, audiences: Iterable[str], max_seconds: int, is_revoked: Callable[[str, str], bool]) -> None:
        self._trust = trust
        self._audiences = tuple(audiences)
        self._max_seconds = max_seconds
        self._is_revoked = is_revoked
        self._signed: LRUCache[bytes, _Signed] = LRUCache(_MOST_KEPT)
        self._lock = threading.Lock()

    def verify(self, token: str, peer_pem: bytes, peer: str, now: datetime | None = None) -> Delegation:
        """Return what a token says that came from the peer with this certificate and canonical subject; `check_current` comes after it.

        Raises:
            Unauthenticated: the token is not acceptable; the reason says why.
        """
        moment = now or datetime.now(UTC)
        if len(token) > MAX_TOKEN_BYTES:
            raise Unauthenticated("DELEGATION_TOO_LONG", f"A delegation has at most {MAX_TOKEN_BYTES:,} bytes.")
        signed = self._find(token)
        delegation = signed.delegation
        self._check_signer(signed.signer, delegation.user, moment)
        self._check_time(signed, int(moment.timestamp()))
        if delegation.job != peer:
            raise _bound_to_another()
        if delegation.thumbprint and delegation.thumbprint != thumbprint_of(x509.load_pem_x509_certificate(peer_pem)):
            raise _bound_to_another()
        return delegation

    def check_current(self, delegation: Delegation, now: datetime | None = None) -> None:
        """Refuse a delegation that has been verified, here or by another service, and has ended since."""
        if int((now or datetime.now(UTC)).timestamp()) >= delegation.expires:
            raise Unauthenticated("DELEGATION_EXPIRED", "The delegation has expired; its user can make another one.")
        if self._is_revoked(delegation.user, delegation.id):
            raise Unauthenticated("DELEGATION_REVOKED", "The delegation has been revoked by its user.")

    def _find(self, token: str) -> _Signed:
        digest = hashlib.sha256(token.encode()).digest()
        with self._lock:
            signed = self._signed.get(digest)
        if signed is None:
            signed = self._read(token)
            with self._lock:
                self._signed[digest] = signed
        return signed

    def _read(self, token: str) -> _Signed:
        try:
            certificate, algorithm = _header(jwt.get_unverified_header(token))
            claims = jwt.decode(
                token,
                certificate.public_key(),  # type: ignore[arg-type]  # `_header` has seen that it is RSA or EC
                algorithms=[algorithm],
                audience=self._audiences,
                issuer=ISSUER,
                # Times are checked with every call, below.
                options={"require": ["exp", "iat", "nbf", "jti", "sub"], "verify_exp": False, "verify_iat": False, "verify_nbf": False},
            )
            return _Signed(from_claims(claims), certificate.public_bytes(Encoding.PEM), claims["iat"], claims["nbf"])
        except jwt.InvalidAudienceError:
            raise Unauthenticated("DELEGATION_AUDIENCE", "The delegation is for another grid or site.") from None
        except jwt.InvalidSignatureError:
            raise Unauthenticated("DELEGATION_SIGNATURE", "The delegation was not signed by the certificate that it carries.") from None
        except MdmError as error:
            raise Unauthenticated(error.reason, error.message) from None
        except (jwt.PyJWTError, ValueError, TypeError):
            raise _malformed() from None

    def _check_signer(self, pem: bytes, user: str, moment: datetime) -> None:
        try:
            signer = self._trust.subject_of(pem, moment)
        except Unauthenticated as error:
            raise Unauthenticated("DELEGATION_SIGNER", f"Who signed the delegation may not call: {error.reason}.") from None
        if signer != user:
            raise Unauthenticated("DELEGATION_SIGNER", "Only the user's own key can delegate; a job cannot pass a delegation on.")

    def _check_time(self, signed: _Signed, now: int) -> None:
        expires = signed.delegation.expires
        if max(signed.issued, signed.not_before) > now + LEEWAY_SECONDS:
            raise Unauthenticated("DELEGATION_NOT_YET_VALID", "The delegation is not valid yet; look at the clocks.")
        if not 0 < expires - min(signed.issued, signed.not_before) <= self._max_seconds:
            hours = self._max_seconds // 3600
            raise Unauthenticated("DELEGATION_TOO_LONG_LIFE", f"A delegation lives at most {hours} hours here.")


def _header(header: dict[str, Any]) -> tuple[x509.Certificate, str]:
    """Return the certificate that a token names as its signer's and the algorithm of that certificate's key."""
    chain = header.get("x5c")
    if set(header) != {"alg", "typ", "x5c"} or header["typ"] != TOKEN_TYPE or not isinstance(chain, list):
        raise _malformed()
    if not 1 <= len(chain) <= _MOST_CERTIFICATES or not isinstance(chain[0], str):
        raise _malformed()
    certificate = x509.load_der_x509_certificate(base64.b64decode(chain[0], validate=True))
    algorithm = _algorithm(certificate)
    if header["alg"] != algorithm:
        raise Unauthenticated("DELEGATION_ALGORITHM", "A delegation is signed by RS256, ES256 or ES384, whichever goes with its key.")
    _check_usage(certificate)
    return certificate, algorithm


def _algorithm(certificate: x509.Certificate) -> str:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return "RS256"
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in CURVES:
        return CURVES[key.curve.name]
    raise Unauthenticated("DELEGATION_ALGORITHM", "A delegation is signed by a key of RSA, P-256 or P-384.")


def _check_usage(certificate: x509.Certificate) -> None:
    """Refuse a certificate that TLS would not take from a client."""
    try:
        usage: Any = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        good = ExtendedKeyUsageOID.CLIENT_AUTH in usage or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usage
    except x509.ExtensionNotFound:
        good = True
    with contextlib.suppress(x509.ExtensionNotFound):
        good = good and certificate.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    if not good:
        raise Unauthenticated("DELEGATION_SIGNER", "Who signed the delegation may not call: its certificate is not for clients.")


def _bound_to_another() -> Unauthenticated:
    return Unauthenticated("DELEGATION_BOUND", "The delegation is for a job with another certificate.")


def _malformed() -> Unauthenticated:
    return Unauthenticated("DELEGATION_MALFORMED", "The delegation is not a token as `mdm delegate` makes it.")
