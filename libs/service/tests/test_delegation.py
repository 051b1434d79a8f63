"""Which tokens of jobs are good: each way in which one is not has a reason of its own."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from mdm_service.access.acl import Acl, AclEntry
from mdm_service.identity.caller import Authenticator, Caller, Membership
from mdm_service.identity.delegation import DelegationVerifier
from mdm_service.identity.trust import Authority, TrustStore
from mdm_service.policy import DELEGATE, OPERATOR
from mdm_site.pki import DevelopmentCa
from mdm_wire import delegation as wire
from mdm_wire.delegation import Delegation
from mdm_wire.errors import Invalid, MdmError, Unauthenticated
from mdm_wire.permission import Permission
from mdm_wire.tls import TlsFiles

ACL = UUID("6f1c2d3e-8a9b-4c5d-8e7f-0a1b2c3d4e5f")
GRID = "https://grid.example"
DAY = 24 * 3600


class Grid:
    """A service with an authority, users, a job, and what they may forge."""

    def __init__(self, folder: Path) -> None:
        self.ca = DevelopmentCa(folder)
        self.alice, self.job, self.other = (self.issue(name) for name in ("alice", "job", "other"))
        self.ban_list = folder / "banned"
        self.ban_list.write_text("")
        self.revoked: set[tuple[str, str]] = set()
        self.now = int(time.time())
        self.authenticator = self.service()

    def issue(self, name: str, **named: Any) -> TlsFiles:
        return self.ca.issue(self.ca.subject(name), name=name, **named)

    def service(self, audience: str = GRID, operator: str = "nobody") -> Authenticator:
        trust = TrustStore((Authority.load(self.ca.certificate_file, (self.ca.namespace,), self.ca.crl_file),), self.ban_list)
        authenticator = Authenticator(trust, Membership(None), {OPERATOR: (self.ca.subject(operator),)})
        is_revoked = lambda user, one: (user, one) in self.revoked  # noqa: E731
        authenticator.accept_delegations(DelegationVerifier(trust, (audience,), DAY, is_revoked))
        return authenticator

    def delegation(self, **changes: Any) -> Delegation:
        made = Delegation(
            user=self.ca.subject("alice"),
            job=self.ca.subject("job"),
            id="A" * 24,
            expires=self.now + 3600,
            paths=(wire.Lfn("/biomed/site/study"),),
            acl_ids=frozenset({ACL}),
            thumbprint=wire.thumbprint_of(certificate_of(self.job)),
        )
        return replace(made, **changes)

    def token(
        self, delegation: Delegation | None = None, signer: TlsFiles | None = None, header: dict[str, Any] | None = None, **claims: Any
    ) -> str:
        """Return a token; `claims` replace some, None leaves one out."""
        signer = signer or self.alice
        body = {**wire.claims_of(delegation or self.delegation(), GRID, self.now), **claims}
        body = {name: value for name, value in body.items() if value is not None}
        return jwt.encode(body, key_of(signer), algorithm="ES256", headers={**header_of(signer), **(header or {})})

    def call(self, token: str, peer: TlsFiles | None = None) -> Caller:
        context = {"ssl_tls_version": [b"TLSv1.3"], "x509_pem_cert": [(peer or self.job).certificate.read_bytes()]}
        return self.authenticator.authenticate(context, token)

    def reason(self, token: str, peer: TlsFiles | None = None) -> str:
        with pytest.raises(Unauthenticated) as refusal:
            self.call(token, peer)
        return refusal.value.reason


def certificate_of(files: TlsFiles) -> x509.Certificate:
    return x509.load_pem_x509_certificate(files.certificate.read_bytes())


def key_of(files: TlsFiles) -> Any:
    return serialization.load_pem_private_key(files.key.read_bytes(), None)


def header_of(files: TlsFiles) -> dict[str, Any]:
    return {"typ": wire.TOKEN_TYPE, "x5c": [base64.b64encode(certificate_of(files).public_bytes(Encoding.DER)).decode()]}


def b64(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    return Grid(tmp_path)


def test_a_job_is_its_user_narrowed_and_may_only_read(grid: Grid):
    caller = grid.call(grid.token())
    assert (caller.dn, caller.roles) == (grid.ca.subject("alice"), {DELEGATE})
    acl = Acl(ACL, grid.ca.subject("alice"))
    assert acl.permissions_of(caller) == Permission.READ | Permission.TRAVERSE | Permission.LIST | Permission.GET
    assert Acl(UUID(int=7), grid.ca.subject("alice")).permissions_of(caller) == Permission.NONE
    others = Acl(ACL, "CN=bob", (AclEntry("authenticated", Permission.LIST),))
    assert others.permissions_of(caller) == Permission.LIST, "never more than the user has"
    assert caller.actor == f"{grid.ca.subject('alice')} by {grid.ca.subject('job')} delegation {'A' * 24}"


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)], ids=["ES384", "RS256"])
def test_keys_of_other_kinds_sign_too(grid: Grid, key: Any):
    signer = grid.issue("alice", key=key)
    algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES384"
    token = jwt.encode(wire.claims_of(grid.delegation(), GRID, grid.now), key, algorithm=algorithm, headers=header_of(signer))
    assert grid.call(token).dn == grid.ca.subject("alice")


def test_another_service_asks_by_the_subject_and_the_end_counts_there_too(grid: Grid):
    subject = grid.call(grid.token()).subject
    found = grid.authenticator.caller_for(subject)
    assert (found.dn, found.roles, found.covers("/biomed/site/study/1"), found.covers("/biomed/site")) == (
        grid.ca.subject("alice"),
        {DELEGATE},
        True,
        False,
    )
    grid.revoked.add((grid.ca.subject("alice"), "A" * 24))
    with pytest.raises(Unauthenticated, match="revoked"):
        grid.authenticator.caller_for(subject)
    ended = replace(grid.delegation(acl_ids=None, thumbprint=""), expires=grid.now - 1)
    with pytest.raises(Unauthenticated, match="expired"):
        grid.authenticator.caller_for(ended.subject)


Forge = Callable[[Grid], str]
FORGED: dict[str, tuple[str, Forge]] = {
    "expired": ("DELEGATION_EXPIRED", lambda grid: grid.token(iat=grid.now - 900, nbf=grid.now - 900, exp=grid.now - 1)),
    "not yet valid": ("DELEGATION_NOT_YET_VALID", lambda grid: grid.token(nbf=grid.now + 600)),
    "signed in the future": ("DELEGATION_NOT_YET_VALID", lambda grid: grid.token(iat=grid.now + 600)),
    "lives too long": ("DELEGATION_TOO_LONG_LIFE", lambda grid: grid.token(exp=grid.now + DAY + 60)),
    "ends before it begins": ("DELEGATION_TOO_LONG_LIFE", lambda grid: grid.token(exp=grid.now - 5)),
    "for another grid": ("DELEGATION_AUDIENCE", lambda grid: grid.token(aud="https://other.example")),
    "for nobody": ("DELEGATION_MALFORMED", lambda grid: grid.token(aud=None)),
    "of another issuer": ("DELEGATION_MALFORMED", lambda grid: grid.token(iss="https://issuer.example")),
    "over-long": ("DELEGATION_TOO_LONG", lambda grid: grid.token(scope=" ".join(f"storage.read:/{n:0200d}" for n in range(40)))),
    "too many scopes": ("DELEGATION_SCOPE", lambda grid: grid.token(scope=" ".join(f"storage.read:/{n}" for n in range(17)))),
    "with ..": ("DELEGATION_SCOPE", lambda grid: grid.token(scope="storage.read:/biomed/../secret")),
    "with encoded ..": ("DELEGATION_SCOPE", lambda grid: grid.token(scope="storage.read:/biomed/%2e%2e/secret")),
    "with an encoded slash": ("DELEGATION_SCOPE", lambda grid: grid.token(scope="storage.read:/biomed%2Fsecret")),
    "with a trailing slash": ("DELEGATION_SCOPE", lambda grid: grid.token(scope="storage.read:/biomed/")),
    "without a path": ("DELEGATION_SCOPE", lambda grid: grid.token(scope="storage.read")),
    "without a scope": ("DELEGATION_SCOPE", lambda grid: grid.token(scope="")),
    "that writes": ("DELEGATION_SCOPE", lambda grid: grid.token(scope="storage.read:/biomed storage.modify:/biomed")),
    "with a claim that may restrict": ("DELEGATION_MALFORMED", lambda grid: grid.token(act={"sub": "CN=x"})),
    "with a list of audiences as scope": ("DELEGATION_MALFORMED", lambda grid: grid.token(scope=["storage.read:/"])),
    "with a time that is no number": ("DELEGATION_MALFORMED", lambda grid: grid.token(exp=True)),
    "bound to nothing": ("DELEGATION_MALFORMED", lambda grid: grid.token(cnf={})),
    "with an id of one letter": ("DELEGATION_MALFORMED", lambda grid: grid.token(jti="x")),
    "with too many lists": ("DELEGATION_MALFORMED", lambda grid: grid.token(**{"mdm.acl": ["AAAAAAAAAAAAAAAAAAAAAA"] * 65})),
    "delegated by a delegate": ("DELEGATION_SIGNER", lambda grid: grid.token(signer=grid.job)),
    "that says where its key is": ("DELEGATION_MALFORMED", lambda grid: grid.token(header={"jku": "https://evil.example"})),
    "of another type": ("DELEGATION_MALFORMED", lambda grid: grid.token(header={"typ": "JWT"})),
    "with another certificate's signature": (
        "DELEGATION_SIGNATURE",
        lambda grid: grid.token(signer=grid.job, header=header_of(grid.alice)),
    ),
    "without a certificate": ("DELEGATION_MALFORMED", lambda grid: grid.token(header={"x5c": []})),
    "with a malformed certificate": ("DELEGATION_MALFORMED", lambda grid: grid.token(header={"x5c": ["AAAA"]})),
    "that is no token": ("DELEGATION_MALFORMED", lambda grid: "a.b"),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_token_is_refused(what: str, grid: Grid):
    reason, forge = FORGED[what]
    assert grid.call(grid.token()).dn
    assert grid.reason(forge(grid)) == reason


def test_neither_none_nor_the_public_key_as_a_secret_signs(grid: Grid):
    claims, header = b64(wire.claims_of(grid.delegation(), GRID, grid.now)), header_of(grid.alice)
    assert grid.reason(f"{b64({**header, 'alg': 'none'})}.{claims}.") == "DELEGATION_ALGORITHM"
    public = certificate_of(grid.alice).public_key().public_bytes(Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    body = f"{b64({**header, 'alg': 'HS256'})}.{claims}"
    mac = base64.urlsafe_b64encode(hmac.digest(public, body.encode(), hashlib.sha256)).rstrip(b"=").decode()
    assert grid.reason(f"{body}.{mac}") == "DELEGATION_ALGORITHM"


def test_altered_claims_are_refused(grid: Grid):
    header, claims, signature = grid.token().split(".")
    facts = json.loads(base64.urlsafe_b64decode(claims + "=="))
    assert grid.reason(f"{header}.{b64({**facts, 'scope': 'storage.read:/'})}.{signature}") == "DELEGATION_SIGNATURE"


def test_a_certificate_of_a_foreign_authority_signs_nothing(grid: Grid, tmp_path: Path):
    foreign = DevelopmentCa(tmp_path / "foreign")
    signer = foreign.issue(foreign.subject("alice"))
    assert grid.reason(grid.token(signer=signer)) == "DELEGATION_SIGNER"


def test_a_token_is_good_beside_one_certificate_or_one_name_only(grid: Grid):
    token = grid.token()
    assert grid.call(token).dn
    assert grid.reason(token, grid.other) == "DELEGATION_BOUND"
    again = grid.issue("job")
    assert grid.reason(token, again) == "DELEGATION_BOUND", "the same name is not the same certificate"
    by_name = grid.token(grid.delegation(thumbprint=""))
    assert grid.call(by_name, again).dn == grid.ca.subject("alice")
    assert grid.reason(by_name, grid.other) == "DELEGATION_BOUND"


def test_a_token_dies_with_its_users_certificate_and_its_ban(grid: Grid):
    token = grid.token()
    assert grid.call(token).dn
    grid.ban_list.write_text(grid.ca.subject("alice") + "\n")
    assert grid.reason(token) == "DELEGATION_SIGNER"
    grid.ban_list.write_text(grid.ca.subject("job") + "\n")
    assert grid.reason(token) == "SUBJECT_BANNED"
    grid.ban_list.write_text("")
    grid.ca.revoke([grid.alice.certificate])
    assert grid.reason(token) == "DELEGATION_SIGNER"


def test_an_expired_certificate_signs_nothing(grid: Grid):
    now = datetime.now(UTC)
    old = grid.issue("alice", not_before=now - timedelta(days=9), not_after=now - timedelta(minutes=1))
    assert grid.reason(grid.token(signer=old)) == "DELEGATION_SIGNER"


def test_a_revoked_token_is_refused_and_that_of_another_user_with_the_same_id_is_not(grid: Grid):
    grid.revoked.add((grid.ca.subject("bob"), "A" * 24))
    assert grid.call(grid.token()).dn
    grid.revoked.add((grid.ca.subject("alice"), "A" * 24))
    assert grid.reason(grid.token()) == "DELEGATION_REVOKED"


@pytest.mark.parametrize("role_of", ["alice", "job"])
def test_who_has_a_role_neither_delegates_nor_acts_for_a_user(role_of: str, grid: Grid):
    grid.authenticator = grid.service(operator=role_of)
    assert grid.reason(grid.token()) == "DELEGATION_ROLE"


def test_a_service_that_keeps_no_revocations_accepts_no_token(grid: Grid):
    grid.authenticator = Authenticator(grid.authenticator.trust, Membership(None), {})
    assert grid.reason(grid.token()) == "DELEGATION_NOT_ACCEPTED"


@pytest.mark.parametrize(
    ("lfn", "covered"),
    [("/a/study", True), ("/a/study/1", True), ("/a/study-2", False), ("/a/studying/1", False), ("/a", False), ("/", False)],
)
def test_a_path_is_never_the_prefix_of_a_name(lfn: str, covered: bool):
    delegation = Delegation("CN=a", "CN=j", "A" * 24, 1, (wire.Lfn("/a/study"),))
    assert delegation.covers(lfn) is covered
    assert replace(delegation, paths=(wire.Lfn("/"),)).covers(lfn)


@pytest.mark.parametrize("text", ["delegation:", "delegation:[]", 'delegation:{"user":1}', "delegation:{}"])
def test_a_subject_that_nobody_wrote_is_refused(text: str):
    with pytest.raises(Invalid, match="subject"):
        wire.from_subject(text)


def test_names_with_spaces_and_accents_survive_scope_and_subject():
    paths = (wire.Lfn("/biomed/a b/é%2F"), wire.Lfn("/x"))
    assert wire.paths_of(wire.scope_of(paths)) == paths
    made = Delegation("CN=é", "CN=j", "A" * 24, 1, paths)
    assert wire.from_subject(made.subject) == made
    with pytest.raises(MdmError):
        wire.from_subject(made.subject.replace('"/x"', '"/x/../y"'))
