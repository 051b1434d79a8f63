"""One stream for many files, as the client reads it: broken anywhere, malformed, abandoned in the middle of a file."""

import os
import random
from contextlib import closing

import pytest
from mdm.srm.v1 import transfer_pb2
from mdm_client.client import Client
from mdm_client.fetch.file_stream import FileStream
from mdm_client.fetch.waiting import Cancellation, Clock
from mdm_wire.errors import Cancelled, Corrupt, Unavailable
from mdm_wire.retry import RetryPolicy

from client.tests.fake_srm import CHUNK

STUDY = "/biomed/hospital-a/p1/study"
OTHER_GUID = "6cb95bf5-3c24-4c7b-b12b-2fac5e6e4b9a"


@pytest.fixture
def client(grid):
    with Client.load(grid.config(), RetryPolicy(call_seconds=5, retry_seconds=1)) as opened:
        yield opened


@pytest.fixture
def open_stream(grid, client):
    """Stage all files of the grid and return a stream of them; it counts what it receives in `counts`."""

    def opened(counts=None, cancellation=None, timeout=20.0) -> FileStream:
        site = client.srm("hospital-a")
        images = list(grid.catalog.images.values())
        token = site.prepare_to_get([image.surl for image in images]).token
        received = (counts if counts is not None else []).append
        return FileStream(site, token, [image.guid for image in images], Clock(timeout), cancellation or Cancellation(), received)

    return opened


def add(grid, *sizes, **changes):
    return [grid.add(f"{STUDY}/{number}.dcm", os.urandom(size), **changes) for number, size in enumerate(sizes)]


def read(stream):
    """Return what comes of each file, read in small parts."""
    found = {}
    for arrivals in stream.arrivals():
        for arrival in arrivals:
            if arrival.source is None:
                found[arrival.guid] = arrival.error or arrival.status
                continue
            content = b"".join(iter(lambda source=arrival.source: bytes(source.read(10_000)), b""))
            assert len(content) == arrival.source.size
            found[arrival.guid] = content
    return found


@pytest.mark.parametrize("seed", range(5))
def test_a_stream_that_breaks_at_any_offset_brings_each_byte_once(seed, grid, open_stream):
    chance = random.Random(seed)
    images = add(grid, *[chance.choice([10, 5_000, 100_000, 400_000, 900_000]) for _ in range(8)])
    for image in images:
        image.breaks = sorted(chance.randrange(len(image.ciphertext)) for _ in range(chance.randrange(3)))
    counts = []
    stream = open_stream(counts)
    assert read(stream) == {image.guid: image.ciphertext for image in images}
    assert sum(counts) == sum(len(image.ciphertext) for image in images)
    assert stream.left == {}


def test_a_stream_that_breaks_again_and_again_is_given_up_and_says_what_is_left(grid, open_stream):
    _, two = add(grid, 10, 20)
    two.breaks = [0] * 100
    stream = open_stream()
    with pytest.raises(Unavailable):
        read(stream)
    assert stream.left == {two.guid: 0}


def test_a_large_file_that_is_not_read_to_its_end_is_dropped_and_the_others_come(grid, open_stream):
    large, small = add(grid, 3_000_000, 10)
    counts = []
    with closing(open_stream(counts).arrivals()) as arrivals:
        [[first], [second]] = arrivals
    assert (first.guid, second.guid, bytes(second.source.read_all())) == (large.guid, small.guid, small.ciphertext)
    assert sum(counts) < 1_000_000


def test_a_file_can_be_read_again_from_its_beginning(grid, open_stream):
    images = add(grid, 300_000, 10)
    for arrivals in open_stream().arrivals():
        [arrival] = arrivals
        image = next(image for image in images if image.guid == arrival.guid)
        assert bytes(arrival.source.read(10)) == image.ciphertext[:10]
        assert bytes(arrival.source.again().read_all()) == image.ciphertext


def part(image, offset=0, length=None, size=None, guid=None):
    length = len(image.ciphertext) if length is None else length
    size = len(image.ciphertext) if size is None else size
    return transfer_pb2.FilePart(guid=guid or str(image.guid), offset=offset, length=length, size=size)


@pytest.mark.parametrize(
    "changes",
    [{"offset": 1}, {"length": 10**6}, {"length": -1}, {"size": 5}, {"guid": OTHER_GUID}, {"guid": "x"}, {"length": 0, "size": 9}],
    ids=str,
)
def test_a_stream_that_is_not_what_was_asked_for_is_refused(changes, grid, open_stream):
    [image] = add(grid, 50)
    answer = transfer_pb2.ReadFilesResponse(parts=[part(image, **changes)] * 2, data=image.ciphertext * 2)
    grid.srm.stream = lambda _: iter([answer])
    with pytest.raises(Corrupt) as caught:
        read(open_stream())
    assert caught.value.reason == "STREAM_MALFORMED"


def test_another_file_between_the_pieces_of_one_is_refused(grid, open_stream):
    large, small = add(grid, 3 * CHUNK, 10)

    def between(request):
        yield transfer_pb2.ReadFilesResponse(parts=[part(large, length=CHUNK)], data=large.ciphertext[:CHUNK])
        yield transfer_pb2.ReadFilesResponse(parts=[part(small)], data=small.ciphertext)

    grid.srm.stream = between
    with pytest.raises(Corrupt):
        read(open_stream())


def test_a_stream_that_ends_early_without_an_error_is_opened_again(grid, open_stream):
    images, calls = add(grid, 10, 20, 30), []

    def one_at_a_time(request):
        calls.append([position.guid for position in request.files])
        image = images[len(calls) - 1]
        yield transfer_pb2.ReadFilesResponse(parts=[part(image)], data=image.ciphertext)

    grid.srm.stream = one_at_a_time
    assert read(open_stream()) == {image.guid: image.ciphertext for image in images}
    assert [len(call) for call in calls] == [3, 2, 1]


def test_cancellation_ends_a_stream_that_waits(grid, open_stream):
    add(grid, 10, held=True)
    cancellation = Cancellation()
    stream = open_stream(cancellation=cancellation)
    cancellation.stop()
    with pytest.raises(Cancelled):
        read(stream)
    assert len(stream.left) == 1
