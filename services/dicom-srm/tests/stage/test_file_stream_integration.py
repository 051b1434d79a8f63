"""One stream for many files over mutual TLS, and downloads by it: several instances, a slow reader, revoked rights, strangers."""

import itertools
import time
from pathlib import Path
from uuid import uuid4

import grpc
import pytest
from mdm.srm.v1 import transfer_pb2 as pb
from mdm.srm.v1 import transfer_pb2_grpc
from mdm_client.catalog.model import Location
from mdm_client.fetch.download import Download, FetchOptions
from mdm_client.fetch.plan import PlannedFile
from mdm_client.fetch.srm import SrmClient
from mdm_crypto import stream
from mdm_testing.process import eventually
from mdm_wire.channel import RotatingChannel

from .test_instances import sites
from .test_stage_integration import fakes, site, strict

__all__ = ["fakes", "site", "sites", "strict"]
pytestmark = pytest.mark.integration


def read_files(site, token, *files, name="alice"):
    """Return the running call, as the generated code makes it."""
    stub = transfer_pb2_grpc.TransferServiceStub(site.channels[name])
    return stub.ReadFiles(pb.ReadFilesRequest(token=token, files=files), timeout=60)


def download(client, site, guids, directory, **options):
    """Fetch files by the SDK; return results by GUID."""
    files = [PlannedFile(Location(f"/{guid}", guid, (f"srm://hospital-a/{guid}",), None), f"{guid}.dcm") for guid in guids]
    fetched = Download(files, directory, lambda _name: client, site.keys, FetchOptions(timeout=30, **options))
    return {result.guid: result for result in fetched.results()}


def plaintexts(guids, *some):
    """Return what is to be fetched, out of the spool that has each."""
    found = {}
    for guid, instance in itertools.product(guids, some):
        path = instance.settings.directory / str(guid)
        if path.exists():
            found[guid] = stream.decrypt(guid.bytes * 2, guid.bytes, path.read_bytes())
    return found


def test_the_sdk_fetches_by_one_stream_what_is_staged_meanwhile(site, tmp_path, monkeypatch):
    guids = [*site.images(20, size=64), site.image(1600)]
    site.pacs.content[site.locators[guids[3]].sop_uid] = b"no DICOM file"
    client = SrmClient("hospital-a", site.channels["alice"])
    monkeypatch.setattr(client, "read", None)  # no file is read alone
    monkeypatch.setattr(client, "watch", None)
    results = download(client, site, guids, tmp_path / "out")
    assert [result.guid for result in results.values() if result.error] == [guids[3]]
    good = [guid for guid in guids if guid != guids[3]]
    assert {guid: results[guid].path.read_bytes() for guid in good} == plaintexts(good, site)
    eventually(lambda: site.stage.spool.usage().pinned == 0)


def test_each_instance_of_a_site_streams_the_files_that_it_holds(sites, tmp_path, monkeypatch):
    one, two = sites
    shared, own = one.images(3, size=64), two.images(3, size=64)
    one.finished(one.prepare(shared).token)
    two.finished(two.prepare(own).token)
    monkeypatch.setattr(SrmClient, "read", None)
    client = SrmClient("hospital-a", RotatingChannel([one.channels["bob"], two.channels["bob"]]))
    results = download(client, one, [*shared, *own], tmp_path / "out")
    assert {guid: result.path.read_bytes() for guid, result in results.items() if not result.error} == plaintexts([*shared, *own], one, two)
    assert len(results) == 6


def test_what_another_instance_holds_is_said_at_once_with_where_it_is(sites):
    one, two = sites
    one.pacs.gate.clear()
    guid = one.image(64)
    one.prepare([guid])
    token = two.prepare([guid], "bob").token
    [response] = read_files(two, token, name="bob")
    [part] = response.parts
    assert part.status.turl == f"mdm+grpc://hospital-a/srm-1-{token[-43:]}/{guid}"
    waiting = read_files(one, part.status.turl.split("/")[3], name="bob")
    one.pacs.gate.set()
    [response] = waiting
    assert (response.parts[0].guid, len(response.data)) == (str(guid), response.parts[0].size)


def test_a_right_that_is_taken_away_in_the_middle_ends_that_file_soon_and_no_other(strict):
    guids = [strict.image(4096), strict.image(64)]
    token = strict.prepare(guids).token
    strict.finished(token)
    reading = read_files(strict, token)
    came = len(next(reading).data)
    strict.catalog.forbidden.add(guids[0])
    time.sleep(1.1)
    parts = [part for response in reading for part in response.parts]
    assert [part.error.reason for part in parts if part.HasField("error")] == ["READ_REVOKED"]
    assert came + sum(part.length for part in parts if part.guid == str(guids[0])) < 4096 * 4096 * 2
    assert [part.length for part in parts if part.guid == str(guids[1])] == [parts[-1].size]


def test_nobody_else_streams_a_request_and_what_is_no_list_of_files_is_refused(site):
    guid = site.image(64)
    token = site.prepare([guid]).token
    site.finished(token)
    position = pb.FilePosition(guid=str(guid))
    refused = [
        (read_files(site, token, name="bob"), grpc.StatusCode.NOT_FOUND),
        (read_files(site, str(uuid4())), grpc.StatusCode.NOT_FOUND),
        (read_files(site, ""), grpc.StatusCode.NOT_FOUND),
        (read_files(site, token, position, position), grpc.StatusCode.INVALID_ARGUMENT),
        (read_files(site, token, pb.FilePosition(guid="../x")), grpc.StatusCode.INVALID_ARGUMENT),
        (read_files(site, token, *[pb.FilePosition(guid=str(uuid4())) for _ in range(10_001)]), grpc.StatusCode.INVALID_ARGUMENT),
    ]
    for call, code in refused:
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        assert caught.value.code() is code
    assert [part.guid for response in read_files(site, token) for part in response.parts] == [str(guid)]


def test_a_reader_that_takes_its_time_or_goes_away_holds_neither_memory_nor_files_nor_threads(site, monkeypatch):
    guids = site.images(60)
    token = site.prepare(guids).token
    site.finished(token)
    opened, really = [], site.stage.spool.open
    monkeypatch.setattr(site.stage.spool, "open", lambda guid: opened.append(guid) or really(guid))
    slow = read_files(site, token)
    next(slow)
    time.sleep(0.5)
    assert len(opened) < 30, "no more than what the connection takes in advance"
    slow.cancel()
    for _ in range(10):
        call = read_files(site, token)
        next(call)
        call.cancel()
    spooled = {site.settings.directory / str(guid) for guid in guids}
    links = Path("/proc/self/fd")
    eventually(lambda: not [link for link in links.iterdir() if link.exists() and link.readlink() in spooled])
    assert sum(len(response.parts) for response in read_files(site, token)) == 60


def test_streams_that_wait_leave_threads_for_other_calls(site):
    site.pacs.gate.clear()
    token = site.prepare([site.image(64)]).token
    calls = [read_files(site, token) for _ in range(12)]
    eventually(lambda: sum(call.done() for call in calls) >= 4)
    assert {call.code() for call in calls if call.done()} == {grpc.StatusCode.OK}
    assert site.stage.rules.service._watches._value == 0
    for call in calls:
        call.cancel()
    eventually(lambda: site.stage.rules.service._watches._value == 8)
