"""The ciphertext of a local file while it is sent: the same bytes at every offset, digests of both, and clear failures."""

import hashlib
import os
from uuid import uuid4

import pytest
from mdm_client.result.ciphertext import Ciphertext
from mdm_crypto.stream import decrypt
from mdm_wire.errors import Conflict

KEY = b"k" * 32


@pytest.mark.parametrize("size", [0, 1, 1 << 20, 3_500_000])
def test_it_decrypts_and_can_be_read_again_from_any_offset(tmp_path, size):
    content, guid = os.urandom(size), uuid4()
    (tmp_path / "file").write_bytes(content)
    with Ciphertext(str(tmp_path / "file"), KEY, guid, size) as ciphertext:
        whole = b"".join(ciphertext.parts(0))
        assert len(whole) == ciphertext.size
        assert decrypt(KEY, guid.bytes, whole) == content
        for offset in (1, len(whole) // 2, len(whole) - 1, len(whole)):
            assert b"".join(ciphertext.parts(offset)) == whole[offset:]
        assert ciphertext.digests() == (hashlib.sha256(whole).digest(), hashlib.sha256(content).digest())


@pytest.mark.parametrize("written", [9, 11])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, written):
    (tmp_path / "file").write_bytes(b"x" * written)
    with Ciphertext(str(tmp_path / "file"), KEY, uuid4(), 10) as ciphertext, pytest.raises(Conflict, match="changed"):
        ciphertext.digests()


def test_leaving_early_ends_it_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (tmp_path / "file").write_bytes(os.urandom(5_000_000))
    with Ciphertext(str(tmp_path / "file"), KEY, uuid4(), 5_000_000) as ciphertext:
        next(ciphertext.parts(0))
    assert list((tmp_path / "temporary").iterdir()) == []
