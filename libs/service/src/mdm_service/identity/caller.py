"""Who calls: the verified subject with its groups and roles, and how a TLS connection becomes one."""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from uuid import UUID

from mdm_wire import delegation as wire
from mdm_wire import dn
from mdm_wire.delegation import Delegation
from mdm_wire.errors import Invalid, MdmError, Unauthenticated

from mdm_service.identity.delegation import DelegationVerifier
from mdm_service.identity.trust import Authority, TrustStore, WatchedFile
from mdm_service.policy import DELEGATE, USER
from mdm_service.settings import ConfigurationError, ServiceSettings

TLS_VERSIONS = frozenset({"TLSv1.3"})


@dataclass(frozen=True)
class Caller:
    """A verified peer: canonical subject, VO groups, and roles.

    `roles` are those that the configuration gives the subject. Only a subject without any has the role `user`: an operator, for
    example, may not call the methods that only users may.

    With a `delegation`, the caller is a job that acts as the user `dn`; its only role is `delegate`, and what it may do is what both the
    user may and the delegation says.
    """

    dn: str
    groups: frozenset[str] = field(default_factory=frozenset)
    roles: frozenset[str] = field(default_factory=frozenset)
    delegation: Delegation | None = None

    @property
    def subject(self) -> str:
        """The subject by which a service names this caller to another one, and keeps what is the caller's: a DN unless it is a job."""
        return self.dn if self.delegation is None else self.delegation.subject

    @property
    def actor(self) -> str:
        """Who acted, for an audit: the user, and for a job also the job and the delegation."""
        if self.delegation is None:
            return self.dn
        return f"{self.dn} by {self.delegation.job} delegation {self.delegation.id}"

    def guards(self, acl_id: UUID) -> bool:
        """Return whether the caller's rights under an access list count: all do, unless a delegation leaves this list out."""
        return self.delegation is None or self.delegation.guards(acl_id)

    def covers(self, lfn: str) -> bool:
        """Return whether the caller's rights on a path count: all do, unless a delegation leaves this path out."""
        return self.delegation is None or self.delegation.covers(lfn)

    @cached_property
    def principals(self) -> frozenset[str]:
        """The principals of ACL entries that name this caller."""
        return frozenset({f"dn:{self.dn}", "authenticated", *(f"group:{group}" for group in self.groups)})

    def has_role(self, role: str) -> bool:
        """Return whether the configuration gives the caller this role."""
        return role in self.roles


_caller: ContextVar[Caller] = ContextVar("caller")


def current_caller() -> Caller:
    """Return who made the call being handled.

    Raises:
        Unauthenticated: there is no call, or it was not authenticated.
    """
    try:
        return _caller.get()
    except LookupError:
        raise Unauthenticated("NO_CALLER", "No authenticated caller.") from None


def set_caller(caller: Caller) -> None:
    """Make `caller` the current caller of this context; for the interceptor and for tests."""
    _caller.set(caller)


class Membership:
    """Groups by subject, read again whenever the file changes.

    The file is TOML: one table `[groups]`, group name (`"/vo/group"`) = list of subjects. A file that cannot be read or
    parsed gives nobody any group.
    """

    def __init__(self, path: Path | None) -> None:
        self._file = WatchedFile(path, parse_membership) if path else None

    def groups_of(self, subject: str) -> frozenset[str]:
        """Return the groups of a canonical subject."""
        return self._groups().get(subject, frozenset())

    def members_of(self, group: str) -> frozenset[str]:
        """Return the canonical subjects of a group."""
        return frozenset(subject for subject, groups in self._groups().items() if group in groups)

    def _groups(self) -> Mapping[str, frozenset[str]]:
        if self._file is None:
            return {}
        try:
            return self._file.get()
        except (OSError, ValueError, ConfigurationError):
            return {}


def parse_membership(content: bytes) -> dict[str, frozenset[str]]:
    """Return groups by canonical subject.

    Raises:
        ConfigurationError: the content is not a membership file.
    """
    try:
        document = tomllib.loads(content.decode())
        found: dict[str, set[str]] = {}
        for group, subjects in document.pop("groups", {}).items():
            if not group.startswith("/"):
                raise ConfigurationError(f"groups: {group}: a group name starts with '/'")
            for subject in subjects:
                found.setdefault(dn.canonical(subject), set()).add(group)
        if document:
            raise ConfigurationError(f"groups: unknown key {min(document)}")
    except (ValueError, TypeError, AttributeError, MdmError) as error:
        raise ConfigurationError(f"groups: {error}") from error
    return {subject: frozenset(groups) for subject, groups in found.items()}


class Authenticator:
    """Turns what gRPC reports about a connection into a Caller, or refuses it."""

    def __init__(self, trust: TrustStore, membership: Membership, roles: Mapping[str, Iterable[str]]) -> None:
        self._trust = trust
        self._membership = membership
        self._delegations: DelegationVerifier | None = None
        self._roles: dict[str, frozenset[str]] = {}
        for role, subjects in roles.items():
            for subject in subjects:
                name = dn.canonical(subject)
                self._roles[name] = self._roles.get(name, frozenset()) | {role}

    @classmethod
    def from_settings(cls, settings: ServiceSettings) -> "Authenticator":
        """Return the authenticator that the settings describe.

        Raises:
            ConfigurationError: a file of it cannot be used.
        """
        authorities = tuple(Authority.load(ca.certificate, ca.namespaces, ca.crl) for ca in settings.trust.ca)
        groups = settings.groups.file if settings.groups else None
        if groups is not None:
            try:
                parse_membership(groups.read_bytes())
            except OSError as error:
                raise ConfigurationError(f"groups.file: {error}") from error
        return cls(TrustStore(authorities, settings.trust.ban_list), Membership(groups), settings.roles)

    @property
    def trust(self) -> TrustStore:
        """Which certificates are accepted."""
        return self._trust

    def accept_delegations(self, verifier: DelegationVerifier) -> None:
        """Accept the delegations that `verifier` accepts; without it, all are refused."""
        self._delegations = verifier

    def authenticate(self, auth_context: Mapping[str, Sequence[bytes]], token: str = "") -> Caller:
        """Return the caller behind a gRPC `auth_context`; with the token of a delegation, the user narrowed to it.

        Raises:
            Unauthenticated: no certificate, an old TLS version, a certificate that the trust store refuses, or a token that is not good.
        """
        versions = {value.decode("ascii", "replace") for value in auth_context.get("ssl_tls_version", ())}
        if not versions or not versions <= TLS_VERSIONS:
            raise Unauthenticated("TLS_VERSION", "TLS 1.3 is required.")
        pem = next(iter(auth_context.get("x509_pem_cert", ())), b"")
        if not pem:
            raise Unauthenticated("CERTIFICATE_MISSING", "A client certificate is required.")
        caller = self._caller(self._trust.subject_of(pem))
        return self._delegated(caller, pem, token) if token else caller

    def caller_for(self, subject: str) -> Caller:
        """Return the caller that a subject would be, for calls that a trusted service makes on its behalf; see `Caller.subject`.

        Raises:
            Invalid: not a DN. Unauthenticated: the subject is banned, or its delegation has ended.
        """
        if wire.is_subject(subject):
            return self._job(wire.from_subject(subject))
        name = dn.canonical(subject)
        if self._trust.is_banned(name):
            raise Unauthenticated("SUBJECT_BANNED", "This subject is banned.")
        return self._caller(name)

    def check_owner(self, subject: str) -> None:
        """Check that a canonical subject could call this service, before it becomes the owner of something.

        Raises:
            Invalid: ACL_OWNER_UNKNOWN: no authority may sign it, or it is banned.
        """
        if self._trust.is_banned(subject) or not self._trust.could_accept(subject):
            raise Invalid("ACL_OWNER_UNKNOWN", "Nobody can call under this DN: no trusted authority may sign it, or it is banned.")

    def members_of(self, group: str) -> frozenset[str]:
        """Return the canonical subjects of a group, banned ones too."""
        return self._membership.members_of(group)

    def _delegated(self, caller: Caller, pem: bytes, token: str) -> Caller:
        if self._delegations is None:
            raise Unauthenticated("DELEGATION_NOT_ACCEPTED", "This service accepts no delegations.")
        if caller.roles != {USER}:
            raise Unauthenticated("DELEGATION_ROLE", "Only a user's job can act for a user: this certificate has a role of its own.")
        return self._job(self._delegations.verify(token, pem, caller.dn))

    def _job(self, delegation: Delegation) -> Caller:
        if self._delegations is None:
            raise Unauthenticated("DELEGATION_NOT_ACCEPTED", "This service accepts no delegations.")
        self._delegations.check_current(delegation)
        if self._trust.is_banned(delegation.user) or self._trust.is_banned(delegation.job):
            raise Unauthenticated("SUBJECT_BANNED", "This subject is banned.")
        user = self._caller(delegation.user)
        if user.roles != {USER}:
            raise Unauthenticated("DELEGATION_ROLE", "Only users delegate: who signed has a role.")
        return Caller(user.dn, user.groups, frozenset({DELEGATE}), delegation)

    def _caller(self, subject: str) -> Caller:
        return Caller(subject, self._membership.groups_of(subject), self._roles.get(subject, frozenset({USER})))
