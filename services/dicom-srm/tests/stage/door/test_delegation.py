"""A job at the HTTPS door: the token of its user in a header, beside its own certificate; the catalog hears for whom it asks."""

import pytest
from mdm_service.identity.delegation import DelegationVerifier
from mdm_testing.delegation import token_for
from mdm_wire.delegation import ANY_AUDIENCE, METADATA_KEY, from_subject, is_subject

STUDY = "/biomed/hospital-a/study"
OWN, OTHER = f"{STUDY}/1", f"{STUDY}/11"


@pytest.fixture
def job(door, monkeypatch):
    """Return a function that asks as a job of alice's, for whom the catalog shows what her token covers."""
    door.authenticator.accept_delegations(DelegationVerifier(door.trust, [ANY_AUDIENCE], 86_400, lambda user, one: one == "R" * 24))
    whole = door.world.catalog.stat

    def stat(subject, targets):
        found = whole(subject, targets)
        seen = from_subject(subject).covers if is_subject(subject) else lambda lfn: True
        return [entry if entry is not None and seen(entry.lfn) else None for entry in found]

    monkeypatch.setattr(door.world.catalog, "stat", stat)
    door.put(OWN)
    door.put(OTHER)

    def ask(method, path, delegation_id="", name="job", **headers):
        token = token_for(door.identity("job"), door.identity("alice"), [OWN], [], delegation_id)
        return door.ask(method, path, headers={METADATA_KEY: token, **headers}, name=name)

    return ask


def test_a_job_reads_what_its_token_names_and_its_requests_are_its_own(door, job):
    assert job("HEAD", OWN).status == 200
    assert [job("HEAD", path).status for path in (OTHER, STUDY)] == [404, 404]
    assert job("GET", OWN).status in (200, 202)
    (owner,) = {request.owner for request in door.world.store.requests.values()}
    assert (from_subject(owner).user, from_subject(owner).job) == (door.subject("alice"), door.subject("job"))
    made = job("POST", "/api/v1/stage", **{"Content-Type": "application/json"})
    assert made.status == 400, "no files named: the job may ask, the request is empty"


def test_a_token_beside_another_certificate_or_revoked_or_given_twice_is_refused(door, job):
    assert job("HEAD", OWN, name="mallory").status == 401
    assert job("HEAD", OWN, "R" * 24).status == 401
    assert door.ask("HEAD", OWN, headers={METADATA_KEY: "none"}, name="job").status == 401
    assert door.ask("HEAD", OWN, headers={METADATA_KEY: ""}, name="job").status == 401


def test_a_job_writes_nothing(door, job):
    for method in ("PUT", "DELETE", "MKCOL"):
        assert job(method, OWN).status in (403, 405), method
