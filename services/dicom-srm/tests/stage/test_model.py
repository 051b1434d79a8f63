"""Names of files and states of requests."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mdm_dicom_srm.stage.rpc.message import code
from mdm_dicom_srm.stage.rules.model import FOLLOWS, GOOD, PENDING, Request, StagedFile, State, new_token, refused_file
from mdm_wire.errors import Invalid
from mdm_wire.url import guid_of_surl, parse_turl, surl, turl


@given(st.uuids())
def test_names_lead_back_to_their_guid(guid):
    token = new_token("srm-1")
    assert guid_of_surl("hospital-a", surl("hospital-a", guid)) == guid
    assert parse_turl("hospital-a", turl("hospital-a", token, guid)) == (token, guid)


@given(st.uuids(), st.data())
def test_only_the_canonical_name_is_a_surl(guid, data):
    name = surl("hospital-a", guid)
    position = data.draw(st.integers(0, len(name) - 1))
    changed = name[:position] + data.draw(st.characters(exclude_characters="0123456789abcdef" + name[position])) + name[position + 1 :]
    assert guid_of_surl("hospital-a", changed) is None
    assert guid_of_surl("hospital-a", name + data.draw(st.text(min_size=1))) is None


@given(st.text())
def test_whatever_is_no_turl_is_refused_as_invalid(text):
    with pytest.raises(Invalid):
        parse_turl("hospital-a", text)
    with pytest.raises(Invalid):
        parse_turl("hospital-a", f"mdm+grpc://hospital-a/{text}")


@given(st.lists(st.sampled_from(list(State)), min_size=1, max_size=8), st.data())
def test_a_request_moves_only_along_the_table_and_counts_what_is_pending(states, data):
    files = [StagedFile("", UUID(int=n), state) for n, state in enumerate(states)]
    request = Request(b"", "", 1, 0.0, files)
    for _ in range(10):
        position = data.draw(st.integers(0, len(files) - 1))
        state = data.draw(st.sampled_from(list(State)))
        before = files[position].state
        if state in FOLLOWS.get(before, ()):
            request.move(position, state, "REASON")
        else:
            with pytest.raises(ValueError, match="cannot follow"):
                request.move(position, state)
            assert files[position].state is before
        assert request.pending == sum(file.state in PENDING for file in files)
        assert request.over == all(file.state not in PENDING | {State.FILE_PINNED} for file in files)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (["REQUEST_QUEUED", "REQUEST_QUEUED"], "REQUEST_QUEUED"),
        (["REQUEST_QUEUED", "INVALID_PATH"], "REQUEST_INPROGRESS"),
        (["REQUEST_QUEUED", "FILE_PINNED"], "REQUEST_INPROGRESS"),
        (["REQUEST_INPROGRESS", "FILE_PINNED"], "REQUEST_INPROGRESS"),
        (["FILE_PINNED", "RELEASED"], "SUCCESS"),
        (["FILE_PINNED", "FILE_LOST"], "PARTIAL_SUCCESS"),
        (["RELEASED", "INVALID_PATH"], "PARTIAL_SUCCESS"),
        (["FILE_LOST", "NO_FREE_SPACE"], "FAILURE"),
        (["FILE_LIFETIME_EXPIRED"], "FAILURE"),
    ],
)
def test_the_state_of_a_request_follows_from_its_files(states, expected):
    request = Request(b"", "", 1, 0.0, [StagedFile("", None, State(state)) for state in states])
    assert request.state == expected


def test_no_state_is_left_that_is_final_and_good_only_by_omission():
    assert set(State) >= GOOD
    assert all(state in FOLLOWS for state in PENDING | {State.FILE_PINNED})
    assert not any(state in FOLLOWS for state in set(State) - PENDING - {State.FILE_PINNED})


@pytest.mark.parametrize("state", list(State))
def test_every_state_has_a_code_on_the_wire(state):
    assert code(state)


def test_of_a_surl_that_is_none_no_more_is_kept_than_a_surl_has() -> None:
    file = refused_file("x" * 3_000_000)
    assert (file.state, len(file.surl)) == (State.INVALID_PATH, 4_096)
