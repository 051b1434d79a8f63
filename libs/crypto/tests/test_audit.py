"""The audit chain: every alteration is found."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from mdm_crypto.audit import GENESIS, AuditEntry, audit_hash, chain

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


def test_a_chain_continues_where_it_ended():
    first = list(chain(entries(3), 0, GENESIS))
    second = list(chain(entries(5)[3:], first[-1].seq, first[-1].hash))
    assert [*first, *second] == list(chain(entries(5), 0, GENESIS))


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
def test_every_field_of_an_entry_changes_the_hash(change):
    entry = entries(3)[2]
    assert audit_hash(GENESIS, 1, replace(entry, **change)) != audit_hash(GENESIS, 1, entry)


def test_the_place_in_the_chain_changes_the_hash():
    entry = entries(1)[0]
    assert len({audit_hash(GENESIS, 1, entry), audit_hash(GENESIS, 2, entry), audit_hash(bytes([1]) * 32, 1, entry)}) == 3


def test_moving_text_between_fields_changes_the_hash():
    entry = entries(1)[0]
    moved = replace(entry, who=entry.who + "r", action=entry.action[1:])
    assert audit_hash(GENESIS, 1, entry) != audit_hash(GENESIS, 1, moved)
