"""The spool's promises: quota, pins, order of eviction, nothing half-visible."""

import os
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule
from mdm_dicom_srm.stage.rules.port import NoSpace
from mdm_dicom_srm.stage.store.spool import LocalSpool
from mdm_service.settings import ConfigurationError

GUIDS = [UUID(int=n) for n in range(1, 7)]
QUOTA = 100


def put(spool, guid, size, holder="holder"):
    slot = spool.reserve(guid, size)
    slot.path.write_bytes(b"x" * size)
    spool.commit(slot, size, holder)


class SpoolMachine(RuleBasedStateMachine):
    """Compares a spool with a plain model: pinned files are always there, the quota always kept."""

    slots = Bundle("slots")

    @initialize(directory=st.uuids())
    def begin(self, directory):
        self.directory = Path(os.environ["SPOOL_TEST_DIRECTORY"]) / str(directory)
        self.spool = LocalSpool(self.directory, QUOTA)
        self.pins = {}
        self.open_slots = 0

    @rule(target=slots, guid=st.sampled_from(GUIDS), size=st.integers(0, 60))
    def reserve(self, guid, size):
        before = self.spool.usage()
        try:
            slot = self.spool.reserve(guid, size)
        except NoSpace:
            assert before.pinned + before.reserved + size > QUOTA
            return (None, 0)
        slot.path.write_bytes(b"x" * size)
        self.open_slots += 1
        return (slot, size)

    @rule(pair=consumes(slots), written=st.integers(0, 60), keep=st.booleans(), holder=st.sampled_from("ab"))
    def finish(self, pair, written, keep, holder):
        slot, size = pair
        if slot is None:
            return
        self.open_slots -= 1
        if keep:
            os.truncate(slot.path, min(written, size))
            self.spool.commit(slot, min(written, size), holder)
            self.pins.setdefault(slot.guid, set()).add(holder)
        else:
            self.spool.discard(slot)

    @rule(guid=st.sampled_from(GUIDS), holder=st.sampled_from("ab"))
    def pin(self, guid, holder):
        if self.spool.pin(guid, holder) is not None:
            self.pins.setdefault(guid, set()).add(holder)
        else:
            assert not self.pins.get(guid)

    @rule(guid=st.sampled_from(GUIDS), holder=st.sampled_from("ab"))
    def unpin(self, guid, holder):
        self.spool.unpin(guid, holder)
        self.pins.get(guid, set()).discard(holder)

    @rule()
    def restart(self):
        if not self.open_slots:
            self.spool.close()
            self.spool = LocalSpool(self.directory, QUOTA)
            for guid, holders in self.pins.items():
                for holder in holders:
                    assert self.spool.pin(guid, holder) is not None

    @rule(guid=st.sampled_from(GUIDS))
    def forget(self, guid):
        self.spool.forget([guid])
        self.pins.pop(guid, None)

    @invariant()
    def quota_is_kept_and_pinned_files_are_there(self):
        if not hasattr(self, "spool"):
            return
        usage = self.spool.usage()
        assert 0 <= usage.pinned <= usage.stored and usage.reserved >= 0
        assert usage.stored + usage.reserved <= QUOTA
        for guid, holders in self.pins.items():
            assert not holders or (self.directory / str(guid)).exists()

    def teardown(self):
        if hasattr(self, "spool"):
            self.spool.close()


def test_whatever_happens_the_quota_is_kept_and_no_pinned_file_is_evicted(tmp_path, monkeypatch):
    monkeypatch.setenv("SPOOL_TEST_DIRECTORY", str(tmp_path))
    machine = SpoolMachine.TestCase
    machine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
    machine().runTest()


def test_a_smaller_quota_evicts_the_oldest_files_at_the_start(tmp_path):
    spool = LocalSpool(tmp_path, QUOTA)
    for number, guid in enumerate(GUIDS[:3]):
        put(spool, guid, 30)
        os.utime(tmp_path / str(guid), (number, number))
    spool.close()
    again = LocalSpool(tmp_path, 60)
    assert [again.pin(guid, "a") for guid in GUIDS[:3]] == [None, 30, 30]
    assert again.usage().stored == 60


def test_parts_of_a_crashed_process_are_swept_and_whole_files_kept(tmp_path):
    spool = LocalSpool(tmp_path, QUOTA)
    put(spool, GUIDS[0], 10)
    spool.reserve(GUIDS[1], 10).path.write_bytes(b"half")
    spool.close()
    again = LocalSpool(tmp_path, QUOTA)
    assert not list(tmp_path.glob("*.part"))
    assert again.pin(GUIDS[0], "holder") == 10
    assert again.pin(GUIDS[1], "holder") is None
    again.close()


def test_files_made_under_other_rules_are_not_given_out(tmp_path):
    spool = LocalSpool(tmp_path, QUOTA, generation="basic-1")
    put(spool, GUIDS[0], 10)
    spool.close()
    again = LocalSpool(tmp_path, QUOTA, generation="basic-2")
    assert again.usage().files == 0
    assert not (tmp_path / str(GUIDS[0])).exists()
    again.close()


def test_files_written_before_the_machine_restarted_are_not_trusted(tmp_path):
    spool = LocalSpool(tmp_path, QUOTA)
    put(spool, GUIDS[0], 10)
    spool.close()
    (tmp_path / "GENERATION").write_text("2 another-boot ")
    again = LocalSpool(tmp_path, QUOTA)
    assert again.usage().files == 0
    again.close()


def test_two_processes_do_not_share_a_spool(tmp_path):
    spool = LocalSpool(tmp_path, QUOTA)
    with pytest.raises(ConfigurationError, match="another process"):
        LocalSpool(tmp_path, QUOTA)
    spool.close()
    LocalSpool(tmp_path, QUOTA).close()


def test_a_directory_that_cannot_be_used_is_a_configuration_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="writable directory"):
        LocalSpool(tmp_path / "file" / "spool", QUOTA)


def test_space_that_must_stay_free_on_the_disk_is_kept_free(tmp_path):
    free = 100
    spool = LocalSpool(tmp_path, 1000, keep_free=50, disk_free=lambda _: free)
    slot = spool.reserve(GUIDS[0], 50)
    with pytest.raises(NoSpace):
        spool.reserve(GUIDS[1], 1)
    spool.discard(slot)
    spool.reserve(GUIDS[1], 50)
    spool.close()


def test_what_of_a_part_is_written_already_is_not_counted_twice(tmp_path):
    free = [100]
    spool = LocalSpool(tmp_path, 1000, disk_free=lambda _: free[0])
    slot = spool.reserve(GUIDS[0], 50)
    slot.path.write_bytes(bytes(40))
    free[0] -= 40
    with pytest.raises(NoSpace):
        spool.reserve(GUIDS[1], 51)
    spool.discard(spool.reserve(GUIDS[1], 50))
    spool.close()


def test_the_disk_is_not_measured_for_each_file(tmp_path):
    asked = []
    spool = LocalSpool(tmp_path, 1000, disk_free=lambda path: asked.append(path) or 10_000)
    for guid in GUIDS * 5:
        put(spool, guid, 10)
        spool.unpin(guid, "holder")
    spool.close()
    assert len(asked) < 5


def test_a_commit_without_its_part_changes_nothing(tmp_path):
    spool = LocalSpool(tmp_path, QUOTA)
    slot = spool.reserve(GUIDS[0], 10)
    with pytest.raises(OSError, match="No such file"):
        spool.commit(slot, 10, "holder")
    spool.discard(slot)
    assert spool.usage() == (spool.usage().__class__)(QUOTA, 0, 0, 0, 0)
    spool.close()
