"""The audit chain: every alteration is found."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from mdm_crypto.audit import GENESIS, AuditEntry, audit_hash, chain, first_break

GUID = UUID("0190a5a0-0000-7000-8000-000000000001")
NOON = datetime(2026, 1, 2, 12, 0, 0, 123456, tzinfo=UTC)


def entries(count: int) -> list[AuditEntry]:
    return [AuditEntry(NOON + timedelta(seconds=i), "CN=alice,O=MDM Test", "release", GUID, "OK") for i in range(count)]


def test_the_hash_covers_the_published_encoding():
    encoded = (
        GENESIS
        + (1).to_bytes(8, "big")
        + (1767355200 * 1_000_000 + 123456).to_bytes(8, "big")
        + GUID.bytes
        + b"\x00\x00\x00\x13CN=alice,O=MDM Test"
        + b"\x00\x00\x00\x07release"
        + b"\x00\x00\x00\x02OK"
    )
    assert audit_hash(GENESIS, 1, entries(1)[0]) == hashlib.sha256(encoded).digest()


def test_a_whole_chain_has_no_break_and_continues_where_it_ended():
    first = list(chain(entries(3), 0, GENESIS))
    second = list(chain(entries(2), first[-1].seq, first[-1].hash))
    assert first_break([*first, *second]) is None
    assert first_break([]) is None


@pytest.mark.parametrize(
    "change",
    [
        {"who": "CN=mallory,O=MDM Test"},
        {"action": "delete"},
        {"outcome": "KEY_NOT_FOUND"},
        {"guid": UUID(int=1)},
        {"time": NOON},
    ],
)
def test_an_altered_entry_is_found(change):
    chained = list(chain(entries(4), 0, GENESIS))
    chained[2] = replace(chained[2], entry=replace(chained[2].entry, **change))
    assert first_break(chained) == 3


def test_missing_swapped_and_inserted_entries_are_found():
    chained = list(chain(entries(4), 0, GENESIS))
    assert first_break(chained[1:]) == 1
    assert first_break([chained[0], *chained[2:]]) == 2
    assert first_break([chained[0], chained[2], chained[1], chained[3]]) == 2
    assert first_break([chained[0], chained[0], *chained[1:]]) == 2


def test_moving_text_between_fields_changes_the_hash():
    entry = entries(1)[0]
    moved = replace(entry, who=entry.who + "r", action=entry.action[1:])
    assert audit_hash(GENESIS, 1, entry) != audit_hash(GENESIS, 1, moved)
