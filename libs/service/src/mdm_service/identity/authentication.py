"""From a TLS peer to a Caller."""

from collections.abc import Iterable, Mapping, Sequence

from mdm_wire import dn
from mdm_wire.errors import Unauthenticated

from mdm_service.identity.caller import Caller
from mdm_service.identity.membership import Membership
from mdm_service.identity.trust import TrustStore

TLS_VERSIONS = frozenset({"TLSv1.3"})
USER = "user"


class Authenticator:
    """Turns what gRPC says about a connection into a Caller, or refuses."""

    def __init__(self, trust: TrustStore, membership: Membership, roles: Mapping[str, Iterable[str]]) -> None:
        self._trust = trust
        self._membership = membership
        self._roles: dict[str, frozenset[str]] = {}
        for role, subjects in roles.items():
            for subject in subjects:
                name = dn.canonical(subject)
                self._roles[name] = self._roles.get(name, frozenset()) | {role}

    def authenticate(self, auth_context: Mapping[str, Sequence[bytes]]) -> Caller:
        """Return the caller behind a gRPC `auth_context`.

        Raises:
            Unauthenticated: no certificate, an old TLS version, or a certificate the trust store refuses.
        """
        versions = {value.decode("ascii", "replace") for value in auth_context.get("ssl_tls_version", ())}
        if not versions or not versions <= TLS_VERSIONS:
            raise Unauthenticated("TLS_VERSION", "TLS 1.3 is required.")
        pem = next(iter(auth_context.get("x509_pem_cert", ())), b"")
        if not pem:
            raise Unauthenticated("CERTIFICATE_MISSING", "A client certificate is required.")
        return self._caller(self._trust.subject_of(pem))

    def caller_for(self, subject: str) -> Caller:
        """Return the caller a subject would be, for calls that a trusted service makes on its behalf.

        Raises:
            Invalid: not a DN. Unauthenticated: the subject is banned.
        """
        name = dn.canonical(subject)
        if self._trust.is_banned(name):
            raise Unauthenticated("SUBJECT_BANNED", "This subject is banned.")
        return self._caller(name)

    def members_of(self, group: str) -> frozenset[str]:
        """Return the canonical subjects of a group, banned ones too."""
        return self._membership.members_of(group)

    def _caller(self, subject: str) -> Caller:
        return Caller(subject, self._membership.groups_of(subject), self._roles.get(subject, frozenset({USER})))
