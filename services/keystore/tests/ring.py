"""A ring of keystores in one process, each on a database and a plain connection of its own, that a test can crash at every step."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import combinations
from typing import Any
from uuid import UUID, uuid4

import psycopg
from mdm_crypto import shamir
from mdm_crypto.shamir import Share
from mdm_keystore.peer.client import LocalPeer
from mdm_keystore.rules.model import KeyRef, NewKey, Released
from mdm_keystore.rules.resharing.driver import Driver
from mdm_keystore.rules.resharing.job import JobControl
from mdm_keystore.rules.resharing.model import Deal, Job, JobState, Kind, RoundTerms, Shareholders, Unprepared
from mdm_keystore.rules.resharing.participant import Participant
from mdm_keystore.rules.resharing.port import PeerUnavailable
from mdm_keystore.rules.seal import Sealer
from mdm_keystore.rules.service import KeystoreService
from mdm_keystore.store.job import PostgresJobs
from mdm_keystore.store.key import PostgresKeys
from mdm_keystore.store.sharing import PostgresParts, PostgresSharings
from mdm_service.access import store as acl_store
from mdm_service.access.acl import Acl, AclEntry
from mdm_service.identity.caller import Caller
from mdm_service.policy import OPERATOR
from mdm_wire.permission import Permission

from services.keystore.tests.trail import assert_whole, read_chain

SRM = Caller("CN=dicom-srm,O=MDM Test")
ALICE = Caller("CN=alice,O=MDM Test")
MALLORY = Caller("CN=mallory,O=MDM Test")
ADMIN = Caller("CN=operator,O=MDM Test", roles=frozenset({OPERATOR}))
ACL = UUID("0190a5a0-0000-7000-8000-0000000000aa")
TABLES = ("resharing_failure", "resharing_round", "resharing", "share_part", "share_prepared", "key_share", "acl")


class Crash(BaseException):
    """The process that drives has been killed."""


#: Calls that change something. A crash after another one is a crash after the last of these.
CHANGES = ("deal", "take", "prepare", "commit", "retire", "discard", "replace", "open_page", "set_state")


class Interruption:
    """Does something after the nth change, once; knows whether it came to that."""

    def __init__(self, number: int, action: Callable[[], None]) -> None:
        self.left, self.action, self.step = number, action, ""

    def __call__(self, step: str) -> None:
        if step.startswith("after") and step.endswith(CHANGES):
            self.left -= 1
            if self.left == 0:
                self.step = step
                self.action()


def crash() -> None:
    raise Crash


class PlainPool:
    """One connection that is given out as a pool gives one: a transaction a block."""

    def __init__(self, connection: psycopg.Connection, conninfo: str) -> None:
        self._connection, self.conninfo = connection, conninfo

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection]:
        with self._connection.transaction():
            yield self._connection


class Watched:
    """An object whose every call tells the ring, before and after."""

    def __init__(self, target: Any, told: Callable[[str], None], name: str) -> None:
        self._target, self._told, self._name = target, told, name

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self._told(f"before {self._name}.{name}")
            result = found(*args, **kwargs)
            self._told(f"after {self._name}.{name}")
            return result

        return call


class Node:
    """One keystore."""

    def __init__(self, index: int, conninfo: str, subjects: dict[int, str], told: Callable[[str], None]) -> None:
        self.index = index
        self.up = True
        self.batch = 2
        self.connection = psycopg.connect(conninfo, autocommit=True)
        self.pool: Any = PlainPool(self.connection, conninfo)
        self.sealer = Sealer([bytes([index]) * 32])
        self.subjects = subjects
        self._told = told
        self.keys = PostgresKeys(self.pool)
        self.service = KeystoreService(self.keys, self.sealer, name=str(index), index=index, pending_ttl=timedelta(hours=1))
        self.restart()

    def restart(self, minimum_threshold: int = 2) -> None:
        """Lose what is in memory, and in tables that do not outlive a crash of PostgreSQL."""
        self.sql("DELETE FROM share_part")
        before = getattr(self, "participant", None)
        jobs: Any = Watched(PostgresJobs(self.pool), self._told, f"jobs{self.index}")
        self.participant = Participant(
            PostgresSharings(self.pool),
            jobs,
            PostgresParts(self.pool, self.sealer),
            self.sealer,
            Shareholders(self.index, self.subjects, minimum_threshold),
        )
        self.participant.peers = before.peers if before else {}
        self.driver = Driver(jobs, self.participant, batch=self.batch, pause=0)
        self.job_control = JobControl(jobs, Shareholders(self.index, self.subjects), lambda: None)

    def sql(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        cursor = self.connection.execute(statement.encode(), parameters)
        return cursor.fetchall() if cursor.description else []


class Ring:
    """Keystores 1 to n. `watch` sees every call between them and of every step a driver writes down."""

    def __init__(self, conninfos: Sequence[str]) -> None:
        self.watch: Callable[[str], None] = lambda _: None
        subjects = {x: f"CN=keystore-{x},O=MDM Test" for x in range(1, len(conninfos) + 1)}
        self.nodes = {x: Node(x, conninfo, subjects, lambda step: self.watch(step)) for x, conninfo in enumerate(conninfos, 1)}
        for caller in self.nodes.values():
            peers = {x: self._peer(caller.index, x) for x in self.nodes}
            caller.participant.peers = peers  # type: ignore[assignment]

    def _peer(self, caller: int, x: int) -> Any:
        ring = self

        class Peer:
            def __getattr__(self, name: str) -> Any:
                def call(*args: Any) -> Any:
                    node = ring.nodes[x]
                    if not node.up:
                        raise PeerUnavailable(x, "down")
                    peer = LocalPeer(node.participant, node.subjects[caller])
                    return getattr(Watched(peer, ring.watch, f"peer{x}"), name)(*args)

                return call

        return Peer()

    def tidy(self, batch: int = 2) -> None:
        self.watch = lambda _: None
        for node in self.nodes.values():
            node.up, node.batch = True, batch
            for table in TABLES:
                node.sql(f"DELETE FROM {table}")
            acl_store.insert(node.connection, Acl(ACL, SRM.dn, (AclEntry(f"dn:{ALICE.dn}", Permission.READ),)))
            node.restart()

    def close(self) -> None:
        for node in self.nodes.values():
            node.connection.close()

    def create(self, threshold: int = 2, total: int = 3, guid: UUID | None = None) -> tuple[UUID, bytes]:
        """Create a key on the first servers; return its GUID and scalar."""
        shares = shamir.split(None, threshold, total, guid or uuid4())
        for share in shares:
            self.store(share)
        return shares[0].guid, shamir.combine(shares)

    def store(self, share: Share) -> None:
        service = self.nodes[share.x].service
        assert service.create_keys(SRM, [NewKey(share, ACL)]) == [None]
        assert service.confirm_keys(SRM, [KeyRef(share.guid, share.epoch, share.public_key)]) == [None]

    def begin(self, driver: int, kind: Kind, threshold: int = 0, total: int = 0, lost: Sequence[int] = ()) -> UUID:
        job_id = uuid4()
        assert self.nodes[driver].job_control.begin(ADMIN, job_id, kind, threshold, total, lost).id == job_id
        return job_id

    def run(self, driver: int, limit: int = 60) -> Job:
        """Let a keystore drive its job to the end."""
        for _ in range(limit):
            self.nodes[driver].driver.step()
            job = self.nodes[driver].job_control.get(None)[0]
            if job.state in (JobState.DONE, JobState.CANCELLED):
                return job
        raise AssertionError(f"the job does not end: {job}")

    def given(self, guid: UUID, x: int) -> list[Share]:
        """Return what a reader gets from one keystore."""
        (released,) = self.nodes[x].service.release_shares(ALICE, [guid])
        if not isinstance(released, Released):
            return []
        return [released.share] if released.previous is None else [released.share, released.previous]

    def reads(self, guid: UUID, servers: Sequence[int]) -> bytes | None:
        """Return the scalar that a reader gets from these keystores alone."""
        groups: dict[Any, list[Share]] = {}
        for x in servers:
            for share in self.given(guid, x):
                groups.setdefault((share.version, share.commitments, share.threshold), []).append(share)
        scalars = {shamir.combine(group) for (_, _, threshold), group in groups.items() if len(group) >= threshold}
        assert len(scalars) <= 1
        return scalars.pop() if scalars else None

    def assert_readable(self, keys: dict[UUID, bytes], threshold: int = 2, servers: Sequence[int] = (1, 2, 3)) -> None:
        for guid, scalar in keys.items():
            for chosen in combinations(servers, threshold):
                assert self.reads(guid, chosen) == scalar, (guid, chosen)

    def assert_settled(self, keys: dict[UUID, bytes], version: int | None = None, servers: Sequence[int] = (1, 2, 3)) -> None:
        """One sharing of each key everywhere, and nothing left of any other."""
        for x in servers:
            node = self.nodes[x]
            assert node.sql("SELECT count(*) FROM share_previous") == [(0,)]
            assert node.sql("SELECT count(*) FROM share_prepared") == [(0,)]
        for guid in keys:
            shares = [self.given(guid, x) for x in servers]
            assert all(len(given) == 1 for given in shares), shares
            assert len({given[0].commitments for given in shares}) == 1
            assert version is None or {given[0].version for given in shares} == {version}

    def audits(self) -> None:
        for node in self.nodes.values():
            assert_whole(read_chain(node.pool))


def empty(ring: Ring, x: int) -> None:
    ring.nodes[x].sql("TRUNCATE acl CASCADE")


def prepared_by(ring: Ring, guid: UUID, coordinator: int, version: int = 1) -> UUID:
    """Have one keystore deal and prepare a key everywhere, without deciding."""
    held = ring.nodes[1].participant.held_keys([guid])[0]
    terms = RoundTerms(uuid4(), (1, 2), 2, 3)
    peers = ring.nodes[coordinator].participant.peers
    for helper in (1, 2):
        assert peers[helper].deal(terms, [Deal(guid, held.current.sharing, version)]) == [None]
    for x in (1, 2, 3):
        (result,) = peers[x].prepare(terms.id, coordinator, (1, 2), [guid])
        assert not isinstance(result, Unprepared), result
    return terms.id
