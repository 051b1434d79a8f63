"""Staging as a service: real PostgreSQL, real mutual TLS, real de-identification in worker processes, fake PACS and keystores."""

import functools
import io
import os
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import grpc
import psycopg
import pydicom
import pytest
from mdm.srm.v1 import srm_pb2, srm_pb2_grpc, transfer_pb2, transfer_pb2_grpc
from mdm_crypto import stream
from mdm_deid import Deidentifier, Profile, Pseudonymiser
from mdm_dicom_srm.config import SpoolSettings
from mdm_dicom_srm.pacs.port import InstanceLocator, Located
from mdm_dicom_srm.site_secret import RecordSealer
from mdm_dicom_srm.stage import sealing
from mdm_dicom_srm.stage.composition import Place, Stores, build_stage
from mdm_dicom_srm.stage.rules.port import Registrations, Sources
from mdm_dicom_srm.stage.store.instance import PostgresInstances
from mdm_dicom_srm.stage.store.request import PostgresRequestStore
from mdm_dicom_srm.stage.store.site import PostgresSiteStore
from mdm_service import database as databases
from mdm_testing import server as testing
from mdm_testing.process import eventually
from psycopg_pool import ConnectionPool
from pydicom.data import get_testdata_file

pytestmark = pytest.mark.integration
SECRET = b"secret of the test site, 32 bytes"


class Site:
    """A staging service on a free port with the callers alice and bob; `restart` as after a crash or an upgrade."""

    def __init__(self, directory, database, pki, fakes, instance="srm-1", **settings):
        self.instance = instance
        self.pacs, self.keys, self.catalog = fakes
        self.locators = {}
        self.database, self.pki = database, pki
        self.settings = SpoolSettings(directory=directory, **({"processes": 1} | settings))
        databases.migrate(database.conninfo, ["mdm_dicom_srm.migrations"])
        self.identities = {name: pki.issue(pki.subject(name)) for name in ("srm", "alice", "bob")}
        self.start()

    def start(self):
        self.stack = ExitStack()
        pool = self.stack.enter_context(ConnectionPool(self.database.conninfo, min_size=1, open=True))
        make = functools.partial(Deidentifier, Profile.shipped("basic"), Pseudonymiser(SECRET))
        registrations = Registrations(
            locators_of=lambda guids: {guid: Located(self.locators[guid], None) for guid in guids if guid in self.locators},
            hold_back=lambda *_: False,
            note_size=lambda *_: None,
        )
        requests = PostgresRequestStore(pool, "hospital-a", self.instance, RecordSealer(SECRET), SECRET)
        self.stage = build_stage(
            self.settings,
            place=Place("hospital-a", "hospital-a", "/biomed/hospital-a", self.instance),
            stores=Stores(requests, PostgresSiteStore(pool, self.instance, requests.find), PostgresInstances(pool, self.instance, "here")),
            sources=Sources(self.pacs, self.keys, registrations),
            catalog=self.catalog,
            make_deidentifier=make,
        )
        self.stage.start()
        self.stack.callback(self.stage.stop)
        serving = testing.serve_in_process(
            self.identities["srm"], lambda server, _: self.stage.add_to(server.grpc), namespaces=(self.pki.namespace,)
        )
        address = self.stack.enter_context(serving).address
        self.channels = {name: self.stack.enter_context(testing.channel(address, self.identities[name])) for name in ("alice", "bob")}

    def stop(self):
        self.pacs.gate.set()
        self.stack.close()

    def srm(self, name="alice"):
        return srm_pb2_grpc.SrmServiceStub(self.channels[name])

    def read(self, turl, offset=0, name="alice"):
        stub = transfer_pb2_grpc.TransferServiceStub(self.channels[name])
        return list(stub.Read(transfer_pb2.ReadRequest(turl=turl, offset=offset), timeout=20))

    def images(self, count, size=512):
        return [self.image(size) for _ in range(count)]

    def image(self, size=512):
        dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
        dataset.Rows = dataset.Columns = size
        dataset.PixelData = os.urandom(size * size * 2)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        part10 = io.BytesIO()
        dataset.save_as(part10)
        guid = uuid4()
        self.locators[guid] = InstanceLocator(dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID)
        self.pacs.content[dataset.SOPInstanceUID] = part10.getvalue()
        return guid

    def prepare(self, guids, name="alice"):
        surls = [f"srm://hospital-a/{guid}" for guid in guids]
        return self.srm(name).PrepareToGet(srm_pb2.PrepareToGetRequest(surls=surls), timeout=20)

    def finished(self, token, name="alice"):
        """Watch to the end; return the last state of each file by GUID, and the state of the request."""
        files, status = {}, None
        for message in self.srm(name).WatchGetRequest(srm_pb2.WatchGetRequestRequest(token=token), timeout=60):
            files |= {file.guid: file for file in message.files}
            status = message.status
        return files, status


@pytest.fixture
def fakes(make_world):
    world = make_world()
    return world.pacs, world.keys, world.catalog


@pytest.fixture
def site(tmp_path, database, pki, fakes):
    site = Site(tmp_path / "site-spool", database, pki, fakes)
    yield site
    site.stop()


def test_an_image_is_fetched_deidentified_over_mutual_tls(site):
    guid = site.image()
    prepared = site.prepare([guid])
    assert prepared.status in (srm_pb2.STATUS_CODE_REQUEST_QUEUED, srm_pb2.STATUS_CODE_REQUEST_INPROGRESS)
    files, status = site.finished(prepared.token)
    assert status == srm_pb2.STATUS_CODE_SUCCESS
    file = files[str(guid)]
    assert file.turl == f"mdm+grpc://hospital-a/{prepared.token}/{guid}"
    assert file.pin_expire_time.seconds > time.time()
    chunks = [message.data for message in site.read(file.turl)]
    ciphertext = b"".join(chunks)
    assert len(ciphertext) == file.size and max(map(len, chunks)) <= 384 * 1024
    released = pydicom.dcmread(io.BytesIO(stream.decrypt(guid.bytes * 2, guid.bytes, ciphertext)))
    original = pydicom.dcmread(io.BytesIO(site.pacs.content[site.locators[guid].sop_uid]))
    assert released.PixelData == original.PixelData
    assert released.PatientName != original.PatientName and released.SOPInstanceUID != original.SOPInstanceUID


def test_reading_resumes_at_an_offset_and_refuses_one_outside(site):
    guid = site.image()
    file = site.finished(site.prepare([guid]).token)[0][str(guid)]
    whole = b"".join(message.data for message in site.read(file.turl))
    for offset in (0, 1, 300_000, file.size - 1, file.size):
        assert b"".join(message.data for message in site.read(file.turl, offset)) == whole[offset:]
    for offset in (-1, file.size + 1):
        with pytest.raises(grpc.RpcError) as caught:
            site.read(file.turl, offset)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_another_user_can_neither_watch_nor_read_nor_release_a_request(site):
    guid = site.image()
    token = site.prepare([guid]).token
    file = site.finished(token)[0][str(guid)]
    bob = site.srm("bob")
    calls = [
        lambda: site.read(file.turl, name="bob"),
        lambda: site.finished(token, "bob"),
        lambda: bob.StatusOfGetRequest(srm_pb2.StatusOfGetRequestRequest(token=token)),
        lambda: bob.ReleaseFiles(srm_pb2.ReleaseFilesRequest(token=token)),
        lambda: bob.AbortRequest(srm_pb2.AbortRequestRequest(token=token)),
        lambda: site.read(file.turl.replace(token, "A" * 43)),
    ]
    for call in calls:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert site.read(file.turl)


@pytest.mark.parametrize("turl", ["", "mdm+grpc://hospital-a/", "mdm+grpc://elsewhere/{t}/{g}", "mdm+grpc://hospital-a/{t}/../{g}"])
def test_a_turl_that_is_not_ours_is_refused(site, turl):
    with pytest.raises(grpc.RpcError) as caught:
        site.read(turl.format(t="A" * 43, g=uuid4()))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_released_file_cannot_be_read_but_one_being_read_can_be_read_to_its_end(site):
    guid = site.image(1024)
    token = site.prepare([guid]).token
    file = site.finished(token)[0][str(guid)]
    reading = transfer_pb2_grpc.TransferServiceStub(site.channels["alice"]).Read(transfer_pb2.ReadRequest(turl=file.turl))
    size = len(next(reading).data)
    released = site.srm().ReleaseFiles(srm_pb2.ReleaseFilesRequest(token=token))
    assert [f.status for f in released.files] == [srm_pb2.STATUS_CODE_RELEASED]
    site.stage.forget([guid])
    assert size + sum(len(message.data) for message in reading) == file.size
    with pytest.raises(grpc.RpcError) as caught:
        site.read(file.turl)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_reader_that_goes_away_frees_the_file_and_its_thread(site):
    guid = site.image(4096)
    file = site.finished(site.prepare([guid]).token)[0][str(guid)]
    path = site.settings.directory / str(guid)
    for _ in range(10):
        reading = transfer_pb2_grpc.TransferServiceStub(site.channels["alice"]).Read(transfer_pb2.ReadRequest(turl=file.turl))
        next(reading)
        reading.cancel()
    links = Path("/proc/self/fd")
    eventually(lambda: not [link for link in links.iterdir() if link.exists() and link.readlink() == path])
    assert sum(len(message.data) for message in site.read(file.turl)) == file.size


def test_many_files_are_reported_as_they_come(site):
    guids = site.images(30, size=64)
    files, status = site.finished(site.prepare(guids).token)
    assert status == srm_pb2.STATUS_CODE_SUCCESS
    assert files.keys() == {str(guid) for guid in guids}
    assert len(site.pacs.retrievals) == 1


def test_a_client_that_goes_away_frees_its_watch(site):
    site.pacs.gate.clear()
    token = site.prepare([site.image()]).token
    for _ in range(3):
        watch = site.srm().WatchGetRequest(srm_pb2.WatchGetRequestRequest(token=token))
        next(watch)
        watch.cancel()
        eventually(lambda: site.stage.rules.service._watches._value == 8)


def test_requests_and_staged_files_survive_a_restart(site):
    guids = site.images(3, size=64)
    token = site.prepare(guids).token
    site.finished(token)
    site.srm().ReleaseFiles(srm_pb2.ReleaseFilesRequest(token=token, surls=[f"srm://hospital-a/{guids[0]}"]))
    bad = site.srm().PrepareToGet(srm_pb2.PrepareToGetRequest(surls=["srm://hospital-a/DOE^JOHN", f"srm://hospital-a/{guids[1]}"]))
    site.stop()
    with psycopg.connect(site.database.conninfo) as connection:
        kept = repr([connection.execute(f"SELECT * FROM {table}").fetchall() for table in ("stage_request", "stage_file")])
    assert "DOE" not in kept and token not in kept
    site.start()
    status = site.srm().StatusOfGetRequest(srm_pb2.StatusOfGetRequestRequest(token=token))
    names = [srm_pb2.StatusCode.Name(file.status) for file in status.files]
    assert names == ["STATUS_CODE_RELEASED", "STATUS_CODE_FILE_PINNED", "STATUS_CODE_FILE_PINNED"]
    assert site.read(status.files[1].turl)
    assert len(site.pacs.retrievals) == 1
    again = site.srm().StatusOfGetRequest(srm_pb2.StatusOfGetRequestRequest(token=bad.token))
    assert [file.surl for file in again.files] == ["", f"srm://hospital-a/{guids[1]}"]


def test_an_aborted_request_stays_aborted_after_a_restart(site):
    site.pacs.gate.clear()
    token = site.prepare(site.images(2, size=64)).token
    assert site.srm().AbortRequest(srm_pb2.AbortRequestRequest(token=token)).status == srm_pb2.STATUS_CODE_ABORTED
    site.stop()
    site.start()
    status = site.srm().StatusOfGetRequest(srm_pb2.StatusOfGetRequestRequest(token=token))
    assert status.status == srm_pb2.STATUS_CODE_ABORTED
    assert {file.status for file in status.files} == {srm_pb2.STATUS_CODE_ABORTED}


def test_a_killed_worker_costs_one_image_at_most_and_is_replaced(site):
    site.finished(site.prepare([site.image(64)]).token)
    workers = subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", sealing.__name__], capture_output=True, text=True, check=True)
    for pid in workers.stdout.split():
        os.kill(int(pid), signal.SIGKILL)
    guids = site.images(5, size=64)
    files, _ = site.finished(site.prepare(guids).token)
    good = [file for file in files.values() if file.status == srm_pb2.STATUS_CODE_FILE_PINNED]
    assert len(good) >= 4
    files, status = site.finished(site.prepare(guids).token)
    assert status == srm_pb2.STATUS_CODE_SUCCESS


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root; the quota test covers the same states")
def test_a_full_disk_refuses_and_leaves_nothing_half_written(tmp_path, database, pki, fakes):
    mount = tmp_path / "disk"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", mount], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    site = None
    try:
        site = Site(mount / "spool", database, pki, fakes)
        guids = site.images(6)
        token = site.prepare(guids).token
        files, status = site.finished(token)
        states = sorted(srm_pb2.StatusCode.Name(file.status) for file in files.values())
        assert states == ["STATUS_CODE_FILE_PINNED"] * 3 + ["STATUS_CODE_NO_FREE_SPACE"] * 3
        assert status == srm_pb2.STATUS_CODE_PARTIAL_SUCCESS
        assert not list((mount / "spool").glob("*.part"))
        site.srm().ReleaseFiles(srm_pb2.ReleaseFilesRequest(token=token))
        missing = [guid for guid in guids if files[str(guid)].status == srm_pb2.STATUS_CODE_NO_FREE_SPACE]
        _, status = site.finished(site.prepare(missing).token)
        assert status == srm_pb2.STATUS_CODE_SUCCESS
    finally:
        if site is not None:
            site.stop()
        subprocess.run(["umount", "--lazy", mount], check=True)


@pytest.fixture
def strict(tmp_path, database, pki, fakes):
    """A site that asks for rights again each second."""
    site = Site(tmp_path / "site-spool", database, pki, fakes, recheck_seconds=1)
    yield site
    site.stop()


def test_a_stream_under_way_stops_when_the_right_is_taken_away(strict):
    site = strict
    guid = site.image(4096)
    file = site.finished(site.prepare([guid]).token)[0][str(guid)]
    reading = transfer_pb2_grpc.TransferServiceStub(site.channels["alice"]).Read(transfer_pb2.ReadRequest(turl=file.turl))
    size = len(next(reading).data)
    site.catalog.forbidden.add(guid)
    time.sleep(1.1)
    with pytest.raises(grpc.RpcError) as caught:
        size += sum(len(message.data) for message in reading)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert size < file.size


def test_every_call_of_the_protocol_answers_over_mutual_tls(site):
    guids, srm, bob = site.images(3, size=64), site.srm(), site.srm("bob")
    root = "/biomed/hospital-a/P/S"
    for number, guid in enumerate(guids):
        site.catalog.put(f"{root}/{number}.dcm", guid)
    brought = srm.BringOnline(srm_pb2.BringOnlineRequest(surls=[f"srm://hospital-a{root}"], description="cohort 7"))
    token = brought.token
    files, _ = site.finished(token)
    assert {file.turl for file in files.values()} == {""} and len(files) == 3
    status = srm.StatusOfGetRequest(srm_pb2.StatusOfGetRequestRequest(token=token))
    assert (status.kind, status.status, status.pin_seconds) == (srm_pb2.REQUEST_KIND_BRING_ONLINE, srm_pb2.STATUS_CODE_SUCCESS, 259_200)
    assert 259_100 < status.files[0].remaining_pin_seconds <= 259_200 and not status.HasField("estimated_wait_seconds")
    extended = srm.ExtendFileLifeTime(srm_pb2.ExtendFileLifeTimeRequest(token=token, pin_seconds=50))
    assert {file.remaining_pin_seconds for file in extended.files} == {50}
    assert [item.token for item in srm.GetRequestTokens(srm_pb2.GetRequestTokensRequest(description="cohort 7")).tokens] == [token]
    assert not srm.GetRequestTokens(srm_pb2.GetRequestTokensRequest(description="cohort")).tokens
    assert not bob.GetRequestTokens(srm_pb2.GetRequestTokensRequest()).tokens
    mine, none = srm.GetRequestSummary(srm_pb2.GetRequestSummaryRequest(tokens=[token, "A" * 43])).summaries
    assert (mine.description, mine.files, mine.pinned, mine.status) == ("cohort 7", 3, 3, srm_pb2.STATUS_CODE_SUCCESS)
    assert none.status == srm_pb2.STATUS_CODE_INVALID_REQUEST
    surls = [f"srm://hospital-a{root}"]
    listed = [entry for message in srm.Ls(srm_pb2.LsRequest(surls=surls, levels=1, full=True)) for entry in message.entries]
    assert {entry.locality for entry in listed} == {srm_pb2.FILE_LOCALITY_ONLINE_AND_NEARLINE}
    assert all(entry.pin_expire_time.seconds for entry in listed)
    first, last = list(srm.Ls(srm_pb2.LsRequest(surls=surls, levels=1, count=2)))
    assert (len(first.entries), last.status, last.next_offset) == (2, srm_pb2.STATUS_CODE_TOO_MANY_RESULTS, 2)
    allowed = srm.CheckPermission(srm_pb2.CheckPermissionRequest(surls=[*surls, "srm://hospital-a/none"])).permissions
    assert [item.status for item in allowed] == [srm_pb2.STATUS_CODE_SUCCESS, srm_pb2.STATUS_CODE_INVALID_PATH]
    assert list(srm.GetSpaceTokens(srm_pb2.GetSpaceTokensRequest()).tokens) == ["srm-1"]
    space, absent = srm.GetSpaceMetaData(srm_pb2.GetSpaceMetaDataRequest(tokens=["srm-1", "x"])).spaces
    assert (space.files, space.pinned_bytes) == (3, space.stored_bytes) and absent.status == srm_pb2.STATUS_CODE_INVALID_REQUEST
    aborted = srm.AbortFiles(srm_pb2.AbortFilesRequest(token=token, surls=[listed[0].surl])).files
    assert [file.status for file in aborted] == [srm_pb2.STATUS_CODE_ABORTED]
    site.pacs.gate.clear()
    deferred = srm.BringOnline(srm_pb2.BringOnlineRequest(surls=[f"srm://hospital-a/{site.image(64)}"], deferred_seconds=500)).token
    assert srm.SuspendRequest(srm_pb2.SuspendRequestRequest(token=deferred)).status == srm_pb2.STATUS_CODE_REQUEST_SUSPENDED
    assert srm.ResumeRequest(srm_pb2.ResumeRequestRequest(token=deferred)).status == srm_pb2.STATUS_CODE_REQUEST_QUEUED
    assert srm.Ping(srm_pb2.PingRequest()).instance == "srm-1"
