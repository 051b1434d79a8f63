"""Which certificates are accepted: authorities with their namespaces and CRLs, the ban list."""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeVar

from cachetools import LRUCache
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from mdm_wire import dn
from mdm_wire.errors import MdmError, Unauthenticated

from mdm_service.settings import ConfigurationError

MIN_RSA_BITS = 2048
_MOST_ACCEPTED = 4096
T = TypeVar("T")


class WatchedFile(Generic[T]):
    """A file parsed again whenever it changes; a change that cannot be parsed fails until the file is corrected."""

    def __init__(self, path: Path, parse: Callable[[bytes], T]) -> None:
        self._path, self._parse = path, parse
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._value: T | None = None

    def get(self) -> T:
        """Return the parsed content of the file as it is now.

        Raises:
            OSError, ValueError: it cannot be read or parsed.
        """
        status = self._path.stat()
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        with self._lock:
            if stamp != self._stamp:
                self._value = self._parse(self._path.read_bytes())
                self._stamp = stamp
            assert self._value is not None
            return self._value


@dataclass(frozen=True)
class RevocationList:
    """A verified CRL: when it becomes stale and which serial numbers it revokes."""

    next_update: datetime
    serials: frozenset[int]


class Authority:
    """A certificate authority, the subjects it may sign, and its CRL."""

    def __init__(self, certificate: x509.Certificate, namespaces: tuple[x509.Name, ...], crl: Path | None) -> None:
        self.certificate = certificate
        self._namespaces = namespaces
        self._crl = WatchedFile(crl, self._parse_crl) if crl else None

    @classmethod
    def load(cls, certificate: Path, namespaces: tuple[str, ...], crl: Path | None) -> "Authority":
        """Read an authority's files.

        Raises:
            ConfigurationError: a file or a namespace cannot be used.
        """
        try:
            loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
            return cls(loaded, tuple(dn.parse(text) for text in namespaces), crl)
        except (OSError, ValueError, MdmError) as error:
            raise ConfigurationError(f"trust.ca: {certificate}: {error}") from error

    def issued(self, certificate: x509.Certificate) -> bool:
        """Return whether this authority signed `certificate` directly."""
        if certificate.issuer != self.certificate.subject:
            return False
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True

    def allows(self, subject: x509.Name) -> bool:
        """Return whether this authority may sign `subject`."""
        return any(dn.is_within(subject, namespace) for namespace in self._namespaces)

    def check_revocation(self, certificate: x509.Certificate, now: datetime) -> None:
        """Refuse a revoked certificate, and any certificate while the CRL is stale or unreadable."""
        if self._crl is None:
            return
        try:
            revoked = self._crl.get()
        except (OSError, ValueError) as error:
            raise Unauthenticated("CRL_UNUSABLE", "The revocation list of this authority cannot be used.") from error
        if now > revoked.next_update:
            raise Unauthenticated("CRL_STALE", "The revocation list of this authority is out of date.")
        if certificate.serial_number in revoked.serials:
            raise Unauthenticated("CERTIFICATE_REVOKED", "The certificate is revoked.")

    def _parse_crl(self, content: bytes) -> RevocationList:
        crl = x509.load_pem_x509_crl(content)
        if not crl.is_signature_valid(self.certificate.public_key()):  # type: ignore[arg-type]
            raise ValueError("CRL is not signed by its authority")
        if crl.next_update_utc is None:
            raise ValueError("CRL has no nextUpdate")
        return RevocationList(crl.next_update_utc, frozenset(entry.serial_number for entry in crl))


@dataclass(frozen=True)
class AcceptedCertificate:
    """What never changes about an accepted certificate: its subject, its authority, its validity."""

    certificate: x509.Certificate
    authority: Authority
    subject: str


class TrustStore:
    """Accepts or refuses leaf certificates whose chain TLS has verified already."""

    def __init__(self, authorities: tuple[Authority, ...], ban_list: Path | None = None) -> None:
        self._authorities = authorities
        self._bans = WatchedFile(ban_list, _parse_ban_list) if ban_list else None
        self._accepted: LRUCache[bytes, AcceptedCertificate] = LRUCache(_MOST_ACCEPTED)
        self._lock = threading.Lock()

    def subject_of(self, pem: bytes, now: datetime | None = None) -> str:
        """Return the canonical subject of an acceptable certificate.

        What can change (validity, revocation, bans) is checked on each call, the rest once per certificate.

        Raises:
            Unauthenticated: the certificate is not acceptable; the reason says why.
        """
        moment = now or datetime.now(UTC)
        digest = hashlib.sha256(pem).digest()
        with self._lock:
            accepted = self._accepted.get(digest)
        if accepted is None:
            accepted = self._accept(pem)
            with self._lock:
                self._accepted[digest] = accepted
        certificate = accepted.certificate
        if not certificate.not_valid_before_utc <= moment <= certificate.not_valid_after_utc:
            raise Unauthenticated("CERTIFICATE_EXPIRED", "The certificate is not valid now.")
        accepted.authority.check_revocation(certificate, moment)
        if self.is_banned(accepted.subject):
            raise Unauthenticated("SUBJECT_BANNED", "This subject is banned.")
        return accepted.subject

    def is_banned(self, subject: str) -> bool:
        """Return whether the ban list names `subject`; an unusable ban list bans everyone."""
        if self._bans is None:
            return False
        try:
            return subject in self._bans.get()
        except (OSError, ValueError, MdmError):
            return True

    def could_accept(self, subject: str) -> bool:
        """Return whether any authority may sign `subject`; whether such a certificate exists is not known here."""
        name = dn.parse(subject)
        return any(authority.allows(name) for authority in self._authorities)

    def _accept(self, pem: bytes) -> AcceptedCertificate:
        try:
            certificate = x509.load_pem_x509_certificate(pem)
            subject = dn.of_certificate(certificate)
        except MdmError as error:
            raise Unauthenticated(error.reason, error.message) from error
        except ValueError as error:
            raise Unauthenticated("CERTIFICATE_MALFORMED", "The certificate cannot be read.") from error
        _check_key(certificate)
        for authority in self._authorities:
            if authority.issued(certificate):
                if not authority.allows(certificate.subject):
                    raise Unauthenticated("SUBJECT_OUTSIDE_NAMESPACE", "This authority may not sign that subject.")
                return AcceptedCertificate(certificate, authority, subject)
        raise Unauthenticated("ISSUER_UNKNOWN", "The certificate was not issued by a configured authority.")


def _check_key(certificate: x509.Certificate) -> None:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        raise Unauthenticated("KEY_TOO_SHORT", f"RSA keys need at least {MIN_RSA_BITS} bits.")
    if isinstance(key, dsa.DSAPublicKey) or (isinstance(key, ec.EllipticCurvePublicKey) and key.key_size < 256):
        raise Unauthenticated("KEY_TOO_SHORT", "The certificate's key is too weak.")
    if isinstance(certificate.signature_hash_algorithm, type(None)):
        return
    if certificate.signature_hash_algorithm.name in {"md5", "sha1"}:
        raise Unauthenticated("SIGNATURE_WEAK", "The certificate is signed with a broken hash.")


def _parse_ban_list(content: bytes) -> frozenset[str]:
    lines = (line.strip() for line in content.decode().splitlines())
    return frozenset(dn.canonical(line) for line in lines if line and not line.startswith("#"))
