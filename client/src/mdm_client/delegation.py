"""Delegation: a token, signed by the user's own key, by which a job with a certificate of its own reads some paths for a while."""

import base64
import json
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from mdm.delegation.v1 import delegation_pb2, delegation_pb2_grpc
from mdm_wire import delegation as wire
from mdm_wire import dn
from mdm_wire.channel import check_identity, read_certificate
from mdm_wire.delegation import Delegation
from mdm_wire.errors import FailedPrecondition, Invalid, MdmError
from mdm_wire.path import Lfn

from mdm_client.catalog.client import CatalogClient
from mdm_client.name_syntax import Name
from mdm_client.service import Service

if TYPE_CHECKING:
    from mdm_wire.tls import TlsFiles

LONGEST_HOURS = 168


@dataclass(frozen=True)
class Job:
    """Whom a token is for: a DN, and the thumbprint of its certificate unless any certificate of that DN will do."""

    dn: str
    thumbprint: str = ""

    @classmethod
    def parse(cls, text: str) -> "Job":
        """Return the job of a certificate's file, or of a DN.

        Raises:
            Invalid: CERTIFICATE_UNREADABLE, or the DN is malformed.
        """
        if "=" in text and not Path(text).is_file():
            return cls(dn.canonical(text))
        certificate = read_certificate(Path(text).expanduser())
        return cls(dn.of_certificate(certificate), wire.thumbprint_of(certificate))


def make_delegation(catalog: CatalogClient, user: str, job: Job, names: Sequence[Name], seconds: int) -> Delegation:
    """Return the delegation of some files and directories, as the catalog names them now, with the access lists that guard them.

    Raises:
        MdmError: the catalog does not show one of them. Invalid: DELEGATION_TOO_WIDE, or the time is not 1 minute to 7 days.
    """
    if not 60 <= seconds <= LONGEST_HOURS * 3600:
        raise Invalid("DELEGATION_TIME", f"a delegation lives from 1 minute to {LONGEST_HOURS} hours; services may allow less")
    if not 1 <= len(names) <= wire.MAX_PATHS:
        raise Invalid("DELEGATION_TOO_WIDE", f"a delegation names 1 to {wire.MAX_PATHS} paths: make several, one for each job")
    paths: list[Lfn] = []
    acl_ids: set[str] = set()
    for entry in catalog.stat(names):
        if isinstance(entry, MdmError):
            raise entry
        paths.append(Lfn(entry.lfn))
        for acl_id in (entry.acl_id, *_acls_below(catalog, entry.lfn)):
            acl_ids.add(acl_id)
            if len(acl_ids) > wire.MAX_ACLS:
                few = f"more than {wire.MAX_ACLS} access lists guard what is there: name fewer paths, or make several delegations"
                raise Invalid("DELEGATION_TOO_WIDE", few)
    bound = frozenset(UUID(acl_id) for acl_id in acl_ids)
    return Delegation(user, job.dn, secrets.token_urlsafe(18), int(time.time()) + seconds, tuple(paths), bound, job.thumbprint)


def sign(delegation: Delegation, tls: "TlsFiles", audience: str = wire.ANY_AUDIENCE) -> str:
    """Return the token of a delegation, signed by the key of its user.

    Raises:
        Invalid: KEY_UNSUITABLE, DELEGATION_SCOPE or DELEGATION_TOO_WIDE: it would be too long. Unauthenticated: as `check_identity`.
    """
    import jwt
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

    certificate = check_identity(tls)
    key = load_pem_private_key(tls.key.read_bytes(), password=None)
    if isinstance(key, rsa.RSAPrivateKey):
        algorithm = "RS256"
    elif isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in wire.CURVES:
        algorithm = wire.CURVES[key.curve.name]
    else:
        raise Invalid("KEY_UNSUITABLE", f"{tls.key}: a delegation is signed by a key of RSA, P-256 or P-384")
    claims = wire.claims_of(delegation, audience, int(time.time()))
    wire.from_claims(claims)  # what no service would take is not signed
    chain = [base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()]
    token = jwt.encode(claims, key, algorithm=algorithm, headers={"typ": wire.TOKEN_TYPE, "x5c": chain})
    if len(token) > wire.MAX_TOKEN_BYTES:
        raise Invalid("DELEGATION_TOO_WIDE", f"the token would have more than {wire.MAX_TOKEN_BYTES:,} bytes: name fewer paths")
    return token


def read_token(path: Path) -> str:
    """Return the token in a file.

    Raises:
        Invalid: DELEGATION_UNREADABLE.
    """
    try:
        token = path.expanduser().read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a token"
        raise Invalid("DELEGATION_UNREADABLE", f"{path}: cannot read the delegation ({why})") from error
    if token.count(".") != 2 or not token.isprintable() or " " in token or len(token) > wire.MAX_TOKEN_BYTES:
        raise Invalid("DELEGATION_UNREADABLE", f"{path}: this is no delegation as `mdm delegate` writes it")
    return token


def read_claims(token: str) -> Delegation:
    """Return what a token says, without verifying it: that is for services.

    Raises:
        Invalid: it is none.
    """
    try:
        payload = token.split(".")[1]
        return wire.from_claims(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))))
    except (ValueError, IndexError, TypeError) as error:
        raise Invalid("DELEGATION_UNREADABLE", "this is no delegation as `mdm delegate` writes it") from error


def revoke(services: Sequence[Service], delegation_id: str) -> dict[str, MdmError | None]:
    """Have each service refuse a delegation from now on; return the error of each, None where it is done. Safe to repeat."""
    request = delegation_pb2.RevokeDelegationRequest(id=delegation_id)
    answers: dict[str, MdmError | None] = {}
    for service in services:
        stub = delegation_pb2_grpc.DelegationServiceStub(service.channel)
        try:
            service.call(stub.RevokeDelegation, request)
            answers[service.place] = None
        except MdmError as error:
            answers[service.place] = error
    return answers


class Record:
    """The tokens that this user has made on this machine, one JSON object a line; the tokens themselves are not in it."""

    def __init__(self, path: Path | None = None) -> None:
        data = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser()
        self.path = path or data / "mdm" / "delegations.jsonl"

    def add(self, **facts: Any) -> None:
        """Append what happened to a token, named by `id`.

        Raises:
            FailedPrecondition: RECORD_UNWRITABLE.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "a", encoding="utf-8") as file:
                file.write(json.dumps(facts, ensure_ascii=False) + "\n")
        except OSError as error:
            raise FailedPrecondition("RECORD_UNWRITABLE", f"{self.path}: cannot keep the record ({error.strerror})") from error

    def all(self) -> Iterator[dict[str, Any]]:
        """Yield the tokens, oldest first, with what became of each; lines that are damaged are left out."""
        found: dict[str, dict[str, Any]] = {}
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except OSError:
            return
        for line in lines:
            try:
                facts = json.loads(line)
                found.setdefault(facts["id"], {}).update(facts)
            except (ValueError, TypeError, KeyError):
                continue
        yield from found.values()


def _acls_below(catalog: CatalogClient, lfn: str) -> Iterator[str]:
    acls, hidden = catalog.acls.of_subtree(Name(lfn=lfn))
    yield from (acl.acl_id for acl in acls)
    if hidden:  # lists that the user may read under, but not look at
        yield from (entry.acl_id for entry in catalog.list_entries(lfn, recursive=True))
