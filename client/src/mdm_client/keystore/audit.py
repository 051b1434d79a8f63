"""Verification of keystores' audits: each chain against itself, and against its heads that other keystores witnessed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp
from mdm.keystore.v1 import admin_pb2
from mdm_crypto.audit import GENESIS, AuditEntry, SignedHead, WitnessedHead, audit_hash
from mdm_wire.errors import MdmError

from mdm_client.keystore.calls import uuid_of
from mdm_client.keystore.operator import KeystoreOperator

#: The kinds of findings.
BROKEN = "broken"  # an entry does not fit the one before it: it was edited, or others were removed before it
CUT = "cut"  # the chain ends before an entry that another keystore has witnessed
REWRITTEN = "rewritten"  # it has another entry at a number that was witnessed
REPLACED = "replaced"  # it was begun anew: the database was emptied or replaced
FORGED = "forged"  # a signature is wrong, or made with a key that is not the keystore's
UNREACHABLE = "unreachable"  # the keystore cannot be asked


@dataclass(frozen=True)
class Finding:
    """A fault of a keystore's audit: its kind, the entry (0: none in particular), and a line for a person."""

    kind: str
    seq: int
    message: str


@dataclass
class AuditReport:
    """The result of verifying one keystore's audit."""

    name: str
    index: int
    entries: int = 0
    last_time: datetime | None = None
    witnessed: dict[str, int] = field(default_factory=dict)  # the last entry that each witness, by name, has witnessed
    findings: list[Finding] = field(default_factory=list)

    @property
    def intact(self) -> bool:
        return not self.findings


def verify_audit(operator: KeystoreOperator, names: Sequence[str] = ()) -> list[AuditReport]:
    """Read and verify the whole audit of the named keystores (none: of all); return a report of each with all faults.

    An entry that was edited or removed, a tail that was cut off and a chain that was begun anew are all found as far as the others have
    witnessed: for entries after the last witnessed head (`AuditReport.witnessed`) there is only that keystore's word.
    """
    witnesses = {name: _heads(operator, name) for name in operator.names}
    return [_verify(operator, name, witnesses) for name in names or operator.names]


def _verify(operator: KeystoreOperator, name: str, witnesses: dict[str, list[WitnessedHead] | MdmError]) -> AuditReport:
    report = AuditReport(name, operator.index_of(name))
    heads = _heads_of(report, witnesses)
    wanted = {head.head.seq for head in heads}
    hashes: dict[int, bytes] = {0: GENESIS}
    try:
        head = _read(operator, report, wanted, hashes)
    except MdmError as error:
        report.findings.append(Finding(UNREACHABLE, report.entries, error.message))
        return report
    if not head.is_authentic() or head.index != report.index:
        report.findings.append(Finding(FORGED, head.seq, "the signature of its own head is wrong"))
    for witnessed in heads:
        _compare(report, witnessed, head, hashes)
    return report


def _read(operator: KeystoreOperator, report: AuditReport, wanted: set[int], hashes: dict[int, bytes]) -> SignedHead:
    """Follow the chain to its end, keep the hashes of witnessed entries, and return the last signed head."""
    previous = GENESIS
    broken = False
    for page in operator.audit_pages(report.name):
        for message in page.entries:
            seq = report.entries + 1
            entry = _entry(message)
            if not broken and (message.seq != seq or message.hash != audit_hash(previous, seq, entry)):
                report.findings.append(Finding(BROKEN, seq, f"entry {seq} does not fit the ones before it"))
                broken = True
            report.entries, report.last_time, previous = message.seq, entry.time, message.hash
            if message.seq in wanted:
                hashes[message.seq] = message.hash
        head = _head(page.head)
        if not page.entries and (head.seq, head.hash) != (report.entries, previous):
            report.findings.append(Finding(CUT, head.seq, "its head is not the end of its chain"))
    return head


def _heads_of(report: AuditReport, witnesses: dict[str, list[WitnessedHead] | MdmError]) -> list[WitnessedHead]:
    heads = []
    for witness, found in witnesses.items():
        if witness == report.name:
            continue
        if isinstance(found, MdmError):
            report.findings.append(Finding(UNREACHABLE, 0, f"its witness cannot be asked: {found.message}"))
            continue
        mine = [head for head in found if head.head.index == report.index]
        heads += mine
        report.witnessed[witness] = mine[-1].head.seq if mine else 0
    return heads


def _compare(report: AuditReport, witnessed: WitnessedHead, present: SignedHead, hashes: dict[int, bytes]) -> None:
    """Compare one witnessed head with the chain; report each kind of fault only once."""
    head = witnessed.head
    if witnessed.is_authentic() and head.chain_id != present.chain_id:
        finding = Finding(REPLACED, 0, f"the chain was begun anew; an earlier one of {head.seq} entries or more is missing")
    elif not witnessed.is_authentic() or head.signing_key != present.signing_key:
        finding = Finding(FORGED, head.seq, f"a head witnessed by keystore {witnessed.witness} is not signed with this keystore's key")
    elif head.seq > report.entries:
        finding = Finding(CUT, report.entries, f"the chain ends at entry {report.entries}, but entry {head.seq} was witnessed")
    elif hashes.get(head.seq) != head.hash:
        finding = Finding(REWRITTEN, head.seq, f"entry {head.seq} is not the one that keystore {witnessed.witness} witnessed")
    else:
        return
    if finding.kind not in {earlier.kind for earlier in report.findings}:
        report.findings.append(finding)


def _heads(operator: KeystoreOperator, name: str) -> list[WitnessedHead] | MdmError:
    try:
        return [
            WitnessedHead(_head(message.head), message.witness_index, message.signature, message.signing_key)
            for message in operator.witnessed_heads(name)
        ]
    except MdmError as error:
        return error


def _head(message: admin_pb2.SignedHead) -> SignedHead:
    return SignedHead(
        message.share_index,
        uuid_of(message.chain_id),
        message.seq,
        message.hash,
        _time(message.time),
        message.signature,
        message.signing_key,
    )


def _entry(message: admin_pb2.AuditEntry) -> AuditEntry:
    return AuditEntry(_time(message.time), message.who, message.action, uuid_of(message.guid), message.outcome)


def _time(stamp: Timestamp) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(seconds=stamp.seconds, microseconds=stamp.nanos // 1000)
