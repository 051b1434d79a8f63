"""Any sequence of creations, deletions, refreshes, repairs and re-shares, interrupted anywhere, leaves every key readable and no other."""

from itertools import combinations
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from mdm_keystore.__main__ import MIGRATIONS
from mdm_keystore.rules.resharing.model import Kind
from mdm_service.database import migrate
from mdm_testing.postgres import fresh_databases

from services.keystore.tests.ring import ADMIN, Crash, Interruption, Ring, crash

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

NODES = st.sampled_from((1, 2, 3))
#: After how many changes the driver is killed; large: it is not.
MOMENTS = st.one_of(st.integers(1, 30), st.just(10_000))


class Resharings(RuleBasedStateMachine):
    """Three keystores, what their keys must be, which jobs are unfinished, and which keystore was emptied and not yet repaired."""

    ring: Ring

    def __init__(self) -> None:
        super().__init__()
        self.ring.tidy()
        self.keys: dict[UUID, bytes] = {}
        self.deleted: set[UUID] = set()
        self.unfinished: set[int] = set()
        self.lost: int | None = None

    @precondition(lambda self: self.lost is None and len(self.keys) < 5)
    @rule(threshold=st.sampled_from((2, 2, 3)))
    def create(self, threshold: int) -> None:
        guid, scalar = self.ring.create(threshold)
        self.keys[guid] = scalar

    @precondition(lambda self: self.keys and self.lost is None)
    @rule(data=st.data())
    def delete(self, data) -> None:
        guid = data.draw(st.sampled_from(sorted(self.keys)))
        for node in self.ring.nodes.values():
            node.service.delete_keys(ADMIN, [guid])
        del self.keys[guid]
        self.deleted.add(guid)

    @precondition(lambda self: self.lost is None)
    @rule(driver=NODES, moment=MOMENTS)
    def refresh(self, driver: int, moment: int) -> None:
        self.work(driver, moment, Kind.REFRESH)

    @precondition(lambda self: self.lost is None)
    @rule(driver=NODES, threshold=st.sampled_from((2, 3)), moment=MOMENTS)
    def reshare(self, driver: int, threshold: int, moment: int) -> None:
        self.work(driver, moment, Kind.RESHARE, threshold, 3)

    @precondition(lambda self: self.lost is None and not self.unfinished and self.keys and self.thresholds() == {2})
    @rule(lost=NODES, driver=NODES, moment=MOMENTS)
    def empty_and_repair(self, lost: int, driver: int, moment: int) -> None:
        self.ring.nodes[lost].sql("TRUNCATE acl CASCADE")
        self.lost = lost
        self.work(driver, moment, Kind.REPAIR)

    @precondition(lambda self: self.unfinished)
    @rule(data=st.data(), moment=MOMENTS)
    def resume(self, data, moment: int) -> None:
        self.work(data.draw(st.sampled_from(sorted(self.unfinished))), moment, Kind.REFRESH)

    def work(self, driver: int, moment: int, kind: Kind, threshold: int = 0, total: int = 0) -> None:
        """Begin a job, or go on with the one that is unfinished, until it ends or its driver is killed."""
        if driver not in self.unfinished:
            lost = [self.lost] if kind is Kind.REPAIR and self.lost else []
            self.ring.begin(driver, kind, threshold, total, lost)
        self.unfinished.add(driver)
        self.ring.watch = Interruption(moment, crash)
        try:
            self.ring.run(driver)
        except Crash:
            self.ring.nodes[driver].restart()
        else:
            self.unfinished.discard(driver)
            if not self.unfinished:
                self.lost = None
        self.ring.watch = lambda _: None

    def thresholds(self) -> set[int]:
        return {row[0] for node in self.ring.nodes.values() for row in node.sql("SELECT threshold FROM key_share")}

    @invariant()
    def every_key_is_readable_and_no_deleted_one(self) -> None:
        for guid, scalar in self.keys.items():
            assert self.ring.reads(guid, (1, 2, 3)) == scalar
        for guid in self.deleted:
            assert self.ring.reads(guid, (1, 2, 3)) is None

    @invariant()
    def any_two_suffice_where_two_should(self) -> None:
        if self.lost is None and not self.unfinished and self.thresholds() == {2}:
            self.ring.assert_readable(self.keys)

    def teardown(self) -> None:
        for driver in sorted(self.unfinished):
            self.ring.run(driver)
        self.ring.begin(1, Kind.RESHARE, 2, 3)
        assert self.ring.run(1).keys_failed == 0
        self.ring.assert_settled(self.keys)
        for guid, scalar in self.keys.items():
            assert all(self.ring.reads(guid, pair) == scalar for pair in combinations((1, 2, 3), 2))
        self.ring.audits()


def test_any_interrupted_sequence_leaves_every_key_readable(postgres):
    with fresh_databases(postgres, "machine", 3) as conninfos:
        for conninfo in conninfos:
            migrate(conninfo, MIGRATIONS)
        Resharings.ring = Ring(conninfos)
        try:
            checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
            chosen = settings(max_examples=12, stateful_step_count=12, deadline=None, suppress_health_check=checks)
            run_state_machine_as_test(Resharings, settings=chosen)
        finally:
            Resharings.ring.close()
