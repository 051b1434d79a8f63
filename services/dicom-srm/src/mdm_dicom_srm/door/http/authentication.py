"""Who asks: the one place where an HTTP request becomes a caller, and what that caller may use it for."""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from aiohttp import web
from mdm_service import policy
from mdm_service.identity.caller import Authenticator, Caller
from mdm_wire.delegation import METADATA_KEY
from mdm_wire.errors import Forbidden, Unauthenticated


class Activity(StrEnum):
    """What a request does with a path, with the method of gRPC whose row of the policy decides about it."""

    LOOK = "/mdm.srm.v1.SrmService/Ls"
    READ = "/mdm.srm.v1.TransferService/Read"
    STAGE = "/mdm.srm.v1.SrmService/BringOnline"
    RELEASE = "/mdm.srm.v1.SrmService/ReleaseFiles"


@dataclass(frozen=True, slots=True)
class Scope:
    """What a credential allows at `path` (an LFN) and below it."""

    activity: Activity
    path: str

    def covers(self, activity: Activity, lfn: str) -> bool:
        """Return whether it allows an activity at a path. Names are compared whole: /a does not cover /ab."""
        return self.activity is activity and (self.path in ("/", lfn) or lfn.startswith(f"{self.path}/"))


@dataclass(frozen=True, slots=True)
class Peer:
    """Who made a request; `scopes` narrow what it may do to certain paths, None does not narrow it."""

    caller: Caller
    scopes: Sequence[Scope] | None = None

    @property
    def dn(self) -> str:
        """The subject by which the catalog is asked: a DN, or what a job's delegation says."""
        return self.caller.subject

    def check(self, activity: Activity, lfns: Sequence[str] = ()) -> None:
        """Check that the peer may do something, at each of some paths. The catalog's rights come on top.

        Raises:
            Forbidden: the policy or a scope does not allow it.
        """
        if not policy.allows(activity, self.caller.roles):
            raise Forbidden("ROLE_MISSING", "Your role may not do this.")
        if self.scopes is not None and not all(any(scope.covers(activity, lfn) for scope in self.scopes) for lfn in lfns):
            raise Forbidden("SCOPE_MISSING", "What you have shown does not allow this here.")


class Authentication(Protocol):
    """Turns a request into a peer. Certificates alone are one; tokens plug in here.

    A credential that names a path narrower than its holder's rights returns `scopes`. `requires_certificate` says whether the TLS
    handshake refuses clients without one; an authentication that takes bearer tokens alone sets it to False and refuses, itself, a
    request with neither.
    """

    requires_certificate: bool

    def authenticate(self, request: web.BaseRequest) -> Peer:
        """Return who made a request. It is called once for each, in a thread that may wait.

        Raises:
            Unauthenticated: nobody who is known.
        """
        ...


class CertificateAuthentication:
    """Callers by the certificate of the connection, by the same checks as those of gRPC: authority, namespace, CRL, validity, bans.

    A job shows the token of its user in the header `mdm-delegation` beside its certificate, as it does in the metadata of gRPC.
    """

    requires_certificate = True

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    def authenticate(self, request: web.BaseRequest) -> Peer:
        """See `Authentication`."""
        connection = request.transport.get_extra_info("ssl_object") if request.transport is not None else None
        if connection is None:
            raise Unauthenticated("CERTIFICATE_MISSING", "A client certificate is required.")
        certificate = connection.getpeercert(binary_form=True)
        pem = ssl.DER_cert_to_PEM_cert(certificate).encode() if certificate else b""
        version = (connection.version() or "").encode()
        tokens = request.headers.getall(METADATA_KEY, [])
        if len(tokens) > 1 or not all(tokens):
            raise Unauthenticated("DELEGATION_MALFORMED", f"A request has one delegation at most: `{METADATA_KEY}`.")
        context = {"ssl_tls_version": [version], "x509_pem_cert": [pem] if pem else []}
        return Peer(self._authenticator.authenticate(context, tokens[0] if tokens else ""))
