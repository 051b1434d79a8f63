"""The commands of keystores' operators and auditors, on keystores that only pretend."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from mdm.keystore.v1 import admin_pb2, admin_pb2_grpc
from mdm_crypto.audit import AuditEntry, ChainedEntry, HeadSigner, SignedHead, WitnessedHead, chain
from mdm_service.policy import OPERATOR
from mdm_testing.server import serve_in_process
from mdm_wire import dn
from mdm_wire.errors import Conflict, NotFound

from client.tests.test_cli import UNREACHABLE, mdm, rows

RUNNING, DONE, CANCELLED = admin_pb2.RESHARING_STATE_RUNNING, admin_pb2.RESHARING_STATE_DONE, admin_pb2.RESHARING_STATE_CANCELLED
KEY = UUID("11111111-2222-4333-8444-555555555555")


class FakeAdmin(admin_pb2_grpc.KeystoreAdminServiceServicer):
    """A keystore whose jobs go one step each time somebody looks, and whose audit is whatever a test puts there."""

    def __init__(self, index: int) -> None:
        self.signer = HeadSigner(os.urandom(32), index)
        self.chain_id = uuid4()
        self.job = admin_pb2.Resharing()
        self.begun: list[admin_pb2.BeginResharingRequest] = []
        self.ending = admin_pb2.Resharing(state=DONE, keys_done=7)
        self.waits = ""
        self.to_rewrap = [4, 2]
        entries = [AuditEntry(datetime(2026, 1, 2, 3, 4, n, tzinfo=UTC), "CN=alice", "release", KEY, "OK") for n in range(3)]
        self.entries: list[ChainedEntry] = list(chain(entries, 0, bytes(32)))
        self.witnessed: list[WitnessedHead] = []

    @property
    def head(self) -> SignedHead:
        last = self.entries[-1]
        return self.signer.sign(self.chain_id, last.seq, last.hash, datetime(2026, 1, 2, tzinfo=UTC))

    def BeginResharing(self, request, context):
        if self.job.state == RUNNING and self.job.id != request.id:
            raise Conflict("RESHARING_RUNNING", "Another one is under way.")
        self.begun.append(request)
        self.job = admin_pb2.Resharing(id=request.id, kind=request.kind, state=RUNNING, begun_by="CN=operator", message=self.waits)
        return admin_pb2.BeginResharingResponse(resharing=self.job)

    def GetResharing(self, request, context):
        if not self.job.id or request.id not in ("", self.job.id):
            raise NotFound("RESHARING_NOT_FOUND", "No such job.")
        seen = admin_pb2.Resharing()
        seen.CopyFrom(self.job)
        self.job.MergeFrom(self.ending)
        self.job.message = ""
        return admin_pb2.GetResharingResponse(resharing=seen)

    def CancelResharing(self, request, context):
        self.job.state = CANCELLED
        return admin_pb2.CancelResharingResponse(resharing=self.job)

    def RewrapShares(self, request, context):
        done = self.to_rewrap.pop(0)
        return admin_pb2.RewrapSharesResponse(rewrapped=done, remaining=sum(self.to_rewrap))

    def ListAuditEntries(self, request, context):
        page = admin_pb2.ListAuditEntriesResponse(head=_head(self.head))
        for item in self.entries[request.after_seq : request.after_seq + 2]:
            entry = item.entry
            message = page.entries.add(
                seq=item.seq, who=entry.who, action=entry.action, guid=str(entry.guid), outcome=entry.outcome, hash=item.hash
            )
            message.time.FromDatetime(entry.time)
        return page

    def ListWitnessedHeads(self, request, context):
        page = admin_pb2.ListWitnessedHeadsResponse()
        for item in self.witnessed:
            page.heads.add(head=_head(item.head), witness_index=item.witness, signature=item.signature, signing_key=item.signing_key)
        return page


def _head(head: SignedHead) -> admin_pb2.SignedHead:
    message = admin_pb2.SignedHead(share_index=head.index, chain_id=str(head.chain_id), seq=head.seq, hash=head.hash)
    message.signature, message.signing_key = head.signature, head.signing_key
    message.time.FromDatetime(head.time)
    return message


class Keystores:
    """Three of them, and a configuration of their operator."""

    def __init__(self, pki, folder: Path) -> None:
        self.pki, self.folder = pki, folder
        self.admins = {name: FakeAdmin(index) for index, name in enumerate("abc", 1)}
        self.addresses: dict[str, str] = {}
        for admin in self.admins.values():
            admin.witnessed = [admin.signer.countersign(other.head) for other in self.admins.values() if other is not admin]

    def serve(self, stack: ExitStack) -> None:
        identity = self.pki.issue(self.pki.subject("fake-server"))
        operators = {OPERATOR: (dn.canonical(self.pki.subject("operator")),)}
        for name, admin in self.admins.items():
            served = serve_in_process(
                identity,
                lambda server, _, admin=admin: admin_pb2_grpc.add_KeystoreAdminServiceServicer_to_server(admin, server.grpc),
                namespaces=(self.pki.namespace,),
                roles=operators,
            )
            self.addresses[name] = stack.enter_context(served).address

    def config(self, user: str = "operator") -> Path:
        tls = self.pki.issue(self.pki.subject(user))
        tables = [
            f'[[keystores]]\nname = "{name}"\nindex = {n}\naddresses = ["{self.addresses[name]}"]\n' for n, name in enumerate("abc", 1)
        ]
        file = self.folder / f"{user}.toml"
        file.write_text(
            f'certificate = "{tls.certificate}"\nkey = "{tls.key}"\nca = "{tls.ca}"\ncatalog = ["{UNREACHABLE}"]\n'
            f'metadata = ["{UNREACHABLE}"]\nthreshold = 2\n{"".join(tables)}'
        )
        return file


@pytest.fixture
def keystores(pki, tmp_path) -> Iterator[Keystores]:
    made = Keystores(pki, tmp_path)
    with ExitStack() as stack:
        made.serve(stack)
        yield made


def test_a_refresh_is_begun_at_one_keystore_and_watched_to_its_end(keystores):
    config = keystores.config()
    result = mdm(config, "key", "refresh")
    assert result.exit_code == 0, result.output
    assert "refresh done: 7 keys have new shares, 0 failed" in result.stdout
    assert len(keystores.admins["a"].begun) == 1
    assert keystores.admins["a"].job.id in result.stdout
    (facts,) = rows(mdm(config, "--json", "key", "job", "a").stdout)
    assert (facts["kind"], facts["state"], facts["keys_done"]) == ("refresh", "done", 7)


def test_a_repair_names_what_is_lost_and_is_driven_by_a_sound_keystore(keystores):
    assert mdm(keystores.config(), "key", "repair", "a").exit_code == 0
    (request,) = keystores.admins["b"].begun
    assert (request.kind, list(request.lost)) == (admin_pb2.RESHARING_KIND_REPAIR, [1])
    assert mdm(keystores.config(), "key", "repair", "a", "b", "c").exit_code == 2


def test_another_threshold_is_asked_for_as_it_is_given(keystores):
    assert mdm(keystores.config(), "key", "reshare", "3", "3", "--by", "c").exit_code == 0
    (request,) = keystores.admins["c"].begun
    assert (request.kind, request.threshold, request.total) == (admin_pb2.RESHARING_KIND_RESHARE, 3, 3)


def test_keys_that_failed_are_named_and_the_code_says_so(keystores):
    failure = admin_pb2.ResharingFailure(guid=str(KEY), reason="SHARES_TOO_FEW")
    keystores.admins["a"].ending = admin_pb2.Resharing(state=DONE, keys_done=6, keys_failed=1, failures=[failure])
    result = mdm(keystores.config(), "key", "refresh")
    assert result.exit_code == 1
    assert f"{KEY}  SHARES_TOO_FEW" in result.stdout
    assert "run it again" in result.stderr


def test_what_a_job_waits_for_is_said_once(keystores):
    keystores.admins["a"].waits = "keystore-b cannot be reached"
    result = mdm(keystores.config(), "--json", "key", "refresh")
    assert result.exit_code == 0
    assert [row["message"] for row in rows(result.stderr)] == ["waiting: keystore-b cannot be reached"]


def test_a_job_can_be_left_to_itself_repeated_and_cancelled(keystores):
    config, job_id = keystores.config(), str(uuid4())
    for _ in range(2):
        (begun,) = rows(mdm(config, "--json", "key", "refresh", "--no-wait", "--id", job_id).stdout)
        assert (begun["id"], begun["state"]) == (job_id, "running")
    other = mdm(config, "key", "refresh", "--no-wait")
    assert (other.exit_code, "under way" in other.stderr) == (1, True)
    assert "cancelled" in mdm(config, "key", "cancel", "a", job_id).stdout
    assert mdm(config, "key", "job", "a", str(uuid4())).exit_code == 3


def test_shares_are_sealed_anew_until_none_is_left(keystores):
    result = mdm(keystores.config(), "key", "rewrap", "b")
    assert (result.exit_code, result.stdout) == (0, "keystore b  6 shares sealed anew, 0 left, 0 cannot be opened\n")


@pytest.mark.parametrize(
    "arguments", [["refresh"], ["repair", "a"], ["reshare", "2", "3"], ["rewrap", "a"], ["job", "a"], ["audit", "show", "a"]]
)
def test_operators_commands_are_for_operators(arguments, keystores):
    result = mdm(keystores.config("alice"), "key", *arguments)
    assert (result.exit_code, len(result.stderr.splitlines())) == (3, 1), result.output


@pytest.mark.parametrize("arguments", [["repair"], ["repair", "d"], ["reshare", "3", "2"], ["reshare", "1", "3"], ["audit", "verify", "d"]])
def test_wrong_usage_is_one_line_and_exit_code_2(arguments, keystores):
    result = mdm(keystores.config(), "key", *arguments)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.output


def test_a_whole_audit_is_proven_and_shown(keystores):
    config = keystores.config()
    verified = mdm(config, "key", "audit", "verify")
    assert verified.exit_code == 0, verified.output
    assert "keystore a  intact: 3 entries, witnessed by b to entry 3, c to entry 3" in verified.stdout
    shown = rows(mdm(config, "--json", "key", "audit", "show", "a", "--after", "1", "--id", str(KEY)).stdout)
    assert [row["seq"] for row in shown] == [2, 3]
    assert (shown[0]["who"], shown[0]["action"], shown[0]["outcome"]) == ("CN=alice", "release", "OK")
    assert "release" in mdm(config, "key", "audit", "show", "a").stdout
    assert mdm(config, "key", "audit", "show", "a", "--id", str(uuid4())).stdout == ""


def test_an_edited_and_a_shortened_audit_are_found_and_the_keystore_is_named(keystores):
    edited, cut = keystores.admins["a"], keystores.admins["c"]
    edited.entries[1] = replace(edited.entries[1], entry=replace(edited.entries[1].entry, who="CN=nobody"))
    del cut.entries[2:]
    result = mdm(keystores.config(), "key", "audit", "verify")
    assert result.exit_code == 1
    assert "keystore a  NOT PROVEN" in result.stdout
    assert "cut: the chain ends at entry 2, but entry 3 was witnessed" in result.stdout
    assert "keystore b  intact" in result.stdout
    told = rows(mdm(keystores.config(), "--json", "key", "audit", "verify", "a").stdout)
    assert [finding["kind"] for finding in told[0]["findings"]] == ["broken"]
