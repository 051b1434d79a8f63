"""One stream for many files: what is packed, what comes in pieces, what is waited for, and what is said of the rest."""

import threading
from uuid import uuid4

import pytest
from mdm.srm.v1 import srm_pb2
from mdm_dicom_srm.stage.rpc.file_stream import PACKED_BYTES, PIECE_BYTES, FileStream
from mdm_dicom_srm.stage.rpc.message import Messages
from mdm_testing.process import eventually
from mdm_wire.errors import NotFound, Unavailable
from mdm_wire.frame import decode

from .conftest import AUTHORITY, RECHECK_SECONDS

ALICE = "CN=alice"


def pinned(world, *sizes):
    """Return the token of a request with files of about these sizes, all pinned, and their GUIDs."""
    guids = [world.image(content=b"PATIENTDOE" + bytes(size)) for size in sizes]
    token = world.get(guids)
    assert world.settled(ALICE, token) == ["FILE_PINNED"] * len(guids)
    return token, guids


def messages(world, token, offsets=None, disconnected=None):
    """Yield the messages of a stream, decoded."""
    reading = world.service.reading(ALICE, token)
    stream = FileStream(reading, Messages(AUTHORITY), token, offsets or {})
    yield from map(decode, stream.unknown())
    for now, files in world.service.follow(reading, offsets or {}, disconnected or threading.Event()):
        yield from map(decode, stream.messages(files, now))


def contents(received):
    """Return what came of each file: its bytes, or the reason why not; parts must follow each other."""
    found, last = {}, ""
    for response, data in received:
        start = 0
        for part in response.parts:
            assert part.guid == last or part.guid not in found
            last = part.guid
            if part.HasField("error"):
                found[part.guid] = part.error.reason
            elif part.HasField("status"):
                found[part.guid] = srm_pb2.StatusCode.Name(part.status.status)
            else:
                before = found.setdefault(part.guid, b"")
                assert part.offset == len(before) and start + part.length <= len(data)
                found[part.guid] = before + bytes(data[start : start + part.length])
                start += part.length
        assert start == len(data)
    return found


def spooled(world, guids):
    return {str(guid): (world.directory / str(guid)).read_bytes() for guid in guids}


def test_small_files_are_packed_and_large_ones_come_in_pieces_that_end_with_a_segment(world):
    token, guids = pinned(world, 1_000, 200_000, 400_000, 2_500_000, 10, 700_000)
    received = list(messages(world, token))
    assert contents(received) == spooled(world, guids)
    sizes = [[(part.offset, part.length) for part in response.parts] for response, _ in received]
    assert [len(parts) for parts in sizes] == [3, 1, 1, 1, 2]
    assert [parts[0] for parts in sizes[1:3]] == [(0, PIECE_BYTES), (PIECE_BYTES, PIECE_BYTES)]
    assert max(len(data) for _, data in received) <= PIECE_BYTES and len(received[0][1]) >= PACKED_BYTES


def test_a_stream_goes_on_where_it_broke(world):
    token, guids = pinned(world, 300_000, 2_500_000, 5_000)
    whole = spooled(world, guids)
    for offset in (0, 1, PIECE_BYTES, 1_500_000, len(whole[str(guids[1])])):
        [found] = [part for response, _ in messages(world, token, {guids[1]: offset}) for part in response.parts][:1]
        assert found.offset == offset
        data = b"".join(bytes(data) for _, data in messages(world, token, {guids[1]: offset}))
        assert data == whole[str(guids[1])][offset:]


@pytest.mark.parametrize("offset", [-1, 10_000])
def test_what_cannot_be_read_is_said_of_that_file_and_the_others_come(world, offset):
    token, guids = pinned(world, 100, 200, 300, 400)
    stranger = uuid4()
    world.requests.end(world.requests.find(ALICE, token), [1], "RELEASED")
    world.spool.forget([guids[2]])
    found = contents(messages(world, token, {guids[0]: offset, guids[1]: 0, guids[2]: 0, guids[3]: 0, stranger: 0}))
    assert found.pop(str(guids[3])) == spooled(world, guids[3:])[str(guids[3])]
    assert found == {
        str(guids[0]): "BAD_OFFSET",
        str(guids[1]): "STATUS_CODE_RELEASED",
        str(guids[2]): "STAGED_FILE_GONE",
        str(stranger): "NOT_PINNED",
    }


def test_a_right_that_is_taken_away_in_the_middle_ends_that_file_and_the_others_go_on(world):
    token, guids = pinned(world, 100, 5_000_000, 200)
    stream = messages(world, token)
    received = [next(stream), next(stream)]
    assert received[1][0].parts[0].guid == str(guids[1])
    world.catalog.forbidden.add(guids[1])
    world.now += RECHECK_SECONDS
    received += stream
    came = sum(part.length for response, _ in received for part in response.parts if part.guid == str(guids[1]))
    found = contents(received)
    assert found[str(guids[1])] == "READ_REVOKED" and came < 2 * PIECE_BYTES
    assert found[str(guids[0])] == spooled(world, guids)[str(guids[0])] and found[str(guids[2])] == spooled(world, guids)[str(guids[2])]


def test_nothing_is_read_while_the_catalog_cannot_be_asked(world):
    token, guids = pinned(world, 100)
    world.catalog.away = True
    world.now += RECHECK_SECONDS
    assert contents(messages(world, token)) == {str(guids[0]): "CATALOG_UNAVAILABLE"}


def test_another_callers_request_looks_like_none(world):
    token, _ = pinned(world, 100)
    with pytest.raises(NotFound):
        world.service.reading("CN=mallory", token)


def test_each_file_comes_when_it_is_ready_and_the_stream_ends_with_the_last(world):
    token, guids = pinned(world, 100)
    world.pacs.gate.clear()
    waiting = world.image()
    world.pacs.content.pop(world.locators[gone := world.image()].sop_uid)
    token = world.get([guids[0], waiting, gone])
    stream = messages(world, token)
    assert [part.guid for part in next(stream)[0].parts] == [str(guids[0])]
    world.pacs.gate.set()
    rest = contents(stream)
    assert rest == {str(waiting): spooled(world, [waiting])[str(waiting)], str(gone): "STATUS_CODE_FILE_LOST"}


def test_who_waits_takes_one_of_the_places_for_that_and_gives_it_back(world):
    world.pacs.gate.clear()
    token, places = world.get(world.images(2)), world.service._watches
    disconnected = threading.Event()
    threads = [threading.Thread(target=lambda: list(messages(world, token, disconnected=disconnected))) for _ in range(2)]
    for thread in threads:
        thread.start()
    eventually(lambda: places._value == 0)
    assert list(messages(world, token)) == [], "ends at once: ask again later"
    disconnected.set()
    world.pacs.gate.set()
    for thread in threads:
        thread.join()
    assert places._value == 2
    assert len(contents(messages(world, token))) == 2


def test_a_stream_that_waits_ends_with_the_service(world):
    world.pacs.gate.clear()
    token = world.get(world.images(1))
    world.service.stop()
    with pytest.raises(Unavailable, match="being stopped"):
        list(messages(world, token))


def test_nothing_is_read_ahead_of_a_slow_reader(world, monkeypatch):
    token, guids = pinned(world, *[400_000] * 8)
    stream, opened = messages(world, token), []
    really = world.spool.open
    monkeypatch.setattr(world.spool, "open", lambda guid: opened.append(guid) or really(guid))
    for count in (2, 4):
        next(stream)
        assert opened == guids[:count]
