"""Parts of the door alone: scopes of a credential, what is remembered of copies, where another instance's files are."""

import io
from dataclasses import replace
from types import SimpleNamespace
from uuid import uuid4

import pytest
from mdm_crypto import file, stream
from mdm_dicom_srm.door.http.address import address_of_holder
from mdm_dicom_srm.door.http.authentication import Activity, CertificateAuthentication, Peer, Scope
from mdm_dicom_srm.door.rules.copy import Copy, Known
from mdm_dicom_srm.door.store.known import PostgresKnownCopies
from mdm_service import database as databases
from mdm_service.identity.caller import Caller
from mdm_wire.errors import FailedPrecondition, Forbidden
from psycopg_pool import ConnectionPool

STUDY = "/biomed/hospital-a/study"
USER = Caller("CN=alice", roles=frozenset({"user"}))


def test_a_scope_covers_its_path_and_what_is_below():
    peer = Peer(USER, [Scope(Activity.READ, STUDY)])
    peer.check(Activity.READ, [STUDY, f"{STUDY}/1"])
    for activity, lfn in ((Activity.READ, f"{STUDY}2"), (Activity.READ, "/biomed"), (Activity.STAGE, f"{STUDY}/1")):
        with pytest.raises(Forbidden):
            peer.check(activity, [f"{STUDY}/1", lfn])
    Peer(USER).check(Activity.STAGE, ["/anything"])
    with pytest.raises(Forbidden, match="role"):
        Peer(Caller("CN=mona", roles=frozenset({"monitor"}))).check(Activity.LOOK)


def test_a_credential_for_a_path_opens_nothing_else(door, monkeypatch):
    guid, token = door.staged(f"{STUDY}/1")
    other, second = door.staged("/biomed/hospital-a/other/1")
    whole = CertificateAuthentication.authenticate
    scopes = [Scope(activity, STUDY) for activity in (Activity.READ, Activity.LOOK)]
    monkeypatch.setattr(CertificateAuthentication, "authenticate", lambda self, request: replace(whole(self, request), scopes=scopes))
    assert door.ask("GET", f"{STUDY}/1").status == 200
    assert door.ask("GET", f"/turl/{token}/{guid}").status == 200
    assert door.ask("GET", f"/ga4gh/drs/v1/objects/{guid}").status == 200
    assert door.ask("GET", "/biomed/hospital-a/other/1").status == 403
    assert door.ask("GET", f"/turl/{second}/{other}").status == 403
    assert door.ask("GET", f"/ga4gh/drs/v1/objects/{other}").status == 403
    assert door.ask("PROPFIND", "/biomed/hospital-a", headers={"Depth": "1"}).status == 403
    door.put(f"{STUDY}/2")
    assert door.ask("GET", f"{STUDY}/2").status == 403  # staging needs a scope of its own


@pytest.mark.integration
def test_copies_are_remembered_until_they_change(database):
    databases.migrate(database.conninfo, ["mdm_dicom_srm.migrations"])
    known = Known(uuid4(), "ab", 5, b"s" * 32, b"m" * 16, 2**32 - 1)
    with ConnectionPool(database.conninfo, min_size=1, open=True) as pool:
        copies = PostgresKnownCopies(pool, "one")
        copies.add(replace(known, etag="before"))
        copies.add(known)
        assert copies.find([known.guid, uuid4()]) == {known.guid: known}
        assert PostgresKnownCopies(pool, "other").find([known.guid]) == {}
        copies.forget([known.guid])
        assert copies.find([known.guid]) == copies.find([]) == {}


def test_the_etag_is_salt_and_prefix_also_of_files_that_name_their_key(tmp_path):
    guid, plain, named = uuid4(), tmp_path / "plain", tmp_path / "named"
    plain.write_bytes(stream.encrypt(b"k" * 32, guid.bytes, [b"pixels"]))
    with named.open("wb") as target:
        file.encrypt_file(b"k" * 32, guid, io.BytesIO(b"pixels"), target)
    for path, start in ((plain, 1), (named, 25)):
        content = path.read_bytes()
        with Copy(guid, len(content), path.open("rb", buffering=0), lambda: None) as copy:
            assert copy.etag == content[start : start + 39].hex()


def test_the_holder_of_a_file_is_found():
    door = SimpleNamespace(instances={"srm-2": "https://two"})
    assert address_of_holder(door, FailedPrecondition("OTHER_INSTANCE", "The file is staged at srm-2: read it there.")) == "https://two"
    assert address_of_holder(door, FailedPrecondition("OTHER_INSTANCE", "The file is staged at srm-3: read it there.")) is None
    assert address_of_holder(door, FailedPrecondition("CATALOG_REFUSES", "staged at srm-2")) is None
