"""What a delegation says: who lets which job read what, until when; the claims of its token, not their signature.

The claims are those of the WLCG token profile 1.3 with two of our own: `mdm.acl` and, in `cnf`, `mdm.dn`. A token is signed by the user's
own key and carries the user's certificate (`x5c`), so that a service needs nothing but its trust store to verify it.
"""

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote
from uuid import UUID

from mdm_wire import path
from mdm_wire.errors import Invalid, MdmError
from mdm_wire.path import ROOT, Lfn

if TYPE_CHECKING:
    from cryptography import x509

#: The key of gRPC metadata under which a job sends its token.
METADATA_KEY = "mdm-delegation"
TOKEN_TYPE = "mdm-delegation+jwt"  # noqa: S105  # a type, not a secret
#: Nobody but the user signs, so there is no issuer to be looked up; the profile wants an https URL, and `.invalid` has no host.
ISSUER = "https://self-issued.mdm.invalid"
#: The audience of a token that any grid may accept whose authorities signed the user's certificate.
ANY_AUDIENCE = "https://any.mdm.invalid"
#: The algorithm that goes with a curve; an RSA key signs by RS256. A token never chooses.
CURVES = {"secp256r1": "ES256", "secp384r1": "ES384"}
#: Metadata of a call have 8 KiB in gRPC, the token's part of them is at most this.
MAX_TOKEN_BYTES = 7000
MAX_PATHS = 16
MAX_ACLS = 64
#: All scopes together: what dicom-srm writes beside a request has to fit into an index of PostgreSQL.
MAX_SCOPE_BYTES = 1200
MAX_NAME_BYTES = 400
#: How far the clock of who signs may be ahead of who verifies.
LEEWAY_SECONDS = 60
_READ = "storage.read:"
_ID = re.compile(r"[A-Za-z0-9_-]{16,64}")
_THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{43}")
_SUBJECT = "delegation:"


@dataclass(frozen=True)
class Delegation:
    """The right of `job` to read, as `user`, what lies at or below `paths` and is guarded by one of `acl_ids`.

    `acl_ids` is None where a service asks another one, which knows the paths. `thumbprint` is that of the job's certificate, or empty: then
    any certificate of `job` will do. `expires` is in seconds since 1970.
    """

    user: str
    job: str
    id: str
    expires: int
    paths: tuple[Lfn, ...]
    acl_ids: frozenset[UUID] | None = None
    thumbprint: str = ""

    def covers(self, lfn: str) -> bool:
        """Return whether `lfn` is one of the paths or lies below one; a path is never the prefix of a name."""
        return any(lfn == given or given == ROOT or lfn.startswith(f"{given}/") for given in self.paths)

    def guards(self, acl_id: UUID) -> bool:
        """Return whether what this access list guards may be read."""
        return self.acl_ids is None or acl_id in self.acl_ids

    @property
    def subject(self) -> str:
        """The subject under which a service asks another one for the job, and which owns what the job requests."""
        facts = {"user": self.user, "job": self.job, "id": self.id, "expires": self.expires, "paths": self.paths}
        return _SUBJECT + json.dumps(facts, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def is_subject(text: str) -> bool:
    """Return whether a subject is that of a job, not a DN."""
    return text.startswith(_SUBJECT)


def from_subject(text: str) -> Delegation:
    """Return the delegation that `Delegation.subject` wrote.

    Raises:
        Invalid: SUBJECT_MALFORMED.
    """
    try:
        facts = json.loads(text.removeprefix(_SUBJECT))
        paths = tuple(path.parse(item) for item in facts["paths"])
        found = Delegation(str(facts["user"]), str(facts["job"]), str(facts["id"]), int(facts["expires"]), paths)
    except (ValueError, TypeError, KeyError, AttributeError, MdmError):
        raise Invalid("SUBJECT_MALFORMED", "Not the subject of a delegation.") from None
    if found.subject != text:
        raise Invalid("SUBJECT_MALFORMED", "Not the subject of a delegation.")
    return found


def thumbprint_of(certificate: "x509.Certificate") -> str:
    """Return the `x5t#S256` of a certificate: the SHA-256 of its DER in base64url (RFC 8705)."""
    from cryptography.hazmat.primitives.hashes import SHA256

    return base64.urlsafe_b64encode(certificate.fingerprint(SHA256())).rstrip(b"=").decode()


def scope_of(paths: Iterable[Lfn]) -> str:
    """Return the scope that lets paths be read; what is special in a scope is percent-encoded."""
    return " ".join(_READ + quote(item, safe="/") for item in paths)


def paths_of(scope: str) -> tuple[Lfn, ...]:
    """Return the paths of a scope.

    Raises:
        Invalid: DELEGATION_SCOPE: it grants anything but reading, is too long, or a path is not in the one form that `scope_of` writes.
    """
    items = scope.split(" ")
    if len(scope.encode()) > MAX_SCOPE_BYTES or len(items) > MAX_PATHS:
        raise Invalid("DELEGATION_SCOPE", f"The scopes are too many: at most {MAX_PATHS}, {MAX_SCOPE_BYTES:,} bytes in all.")
    found = []
    for item in items:
        if not item.startswith(_READ):
            raise Invalid("DELEGATION_SCOPE", "A delegation gives storage.read:/PATH and nothing else.")
        try:
            lfn = path.parse(unquote(item.removeprefix(_READ), errors="strict"))
        except (UnicodeDecodeError, MdmError):
            raise Invalid("DELEGATION_SCOPE", "A scope's path is not an absolute path without '.' and '..'.") from None
        if quote(lfn, safe="/") != item.removeprefix(_READ):
            raise Invalid("DELEGATION_SCOPE", "A scope's path is not encoded in the one way that counts.")
        found.append(lfn)
    return tuple(found)


def claims_of(delegation: Delegation, audience: str, issued: int) -> dict[str, Any]:
    """Return the claims of a delegation's token; `issued` is in seconds since 1970."""
    bound = {"x5t#S256": delegation.thumbprint} if delegation.thumbprint else {}
    return {
        "iss": ISSUER,
        "sub": delegation.user,
        "aud": audience,
        "iat": issued,
        "nbf": issued,
        "exp": delegation.expires,
        "jti": delegation.id,
        "wlcg.ver": "1.0",
        "scope": scope_of(delegation.paths),
        "mdm.acl": sorted(_short(acl_id) for acl_id in delegation.acl_ids or ()),
        "cnf": {"mdm.dn": delegation.job, **bound},
    }


_CLAIMS = frozenset({"iss", "sub", "aud", "iat", "nbf", "exp", "jti", "wlcg.ver", "scope", "mdm.acl", "cnf"})


def from_claims(claims: Mapping[str, Any]) -> Delegation:
    """Return what verified claims say. A claim that is not known is refused: it may be meant to restrict.

    Raises:
        Invalid: DELEGATION_MALFORMED, DELEGATION_SCOPE.
    """
    if set(claims) != _CLAIMS:
        raise _malformed("its claims are not those of a delegation")
    confirmation, acls = claims["cnf"], claims["mdm.acl"]
    texts = (claims["sub"], claims["jti"], claims["scope"])
    if not all(isinstance(text, str) for text in texts) or not isinstance(confirmation, dict) or not isinstance(acls, list):
        raise _malformed("a claim has another type than it must have")
    if any(type(claims[name]) is not int for name in ("iat", "nbf", "exp")) or claims["wlcg.ver"] != "1.0":
        raise _malformed("a claim has another type than it must have")
    job, thumbprint = confirmation.get("mdm.dn"), confirmation.get("x5t#S256", "")
    if not isinstance(job, str) or not isinstance(thumbprint, str) or confirmation.keys() - {"mdm.dn", "x5t#S256"}:
        raise _malformed("it is not bound to a job")
    if thumbprint and not _THUMBPRINT.fullmatch(thumbprint):
        raise _malformed("it is not bound to a job")
    if max(len(job.encode()), len(claims["sub"].encode())) > MAX_NAME_BYTES or not _ID.fullmatch(claims["jti"]):
        raise _malformed("a name is too long")
    return Delegation(claims["sub"], job, claims["jti"], claims["exp"], paths_of(claims["scope"]), _acl_ids(acls), thumbprint)


def _acl_ids(texts: Sequence[object]) -> frozenset[UUID]:
    if len(texts) > MAX_ACLS:
        raise _malformed(f"it names more than {MAX_ACLS} access lists")
    found = set()
    for text in texts:
        try:
            acl_id = UUID(bytes=base64.urlsafe_b64decode(f"{text}=="))
        except ValueError:
            raise _malformed("an access list's id is malformed") from None
        if _short(acl_id) != text:
            raise _malformed("an access list's id is malformed")
        found.add(acl_id)
    return frozenset(found)


def _short(acl_id: UUID) -> str:
    return base64.urlsafe_b64encode(acl_id.bytes).rstrip(b"=").decode()


def _malformed(why: str) -> Invalid:
    return Invalid("DELEGATION_MALFORMED", f"The delegation is refused: {why}.")
