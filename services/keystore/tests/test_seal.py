"""Shares at rest open only with the right key, in the right place."""

from uuid import UUID

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from mdm_keystore.rules.seal import SealBroken, Sealer
from mdm_service.settings import ConfigurationError

GUID = UUID("0190a5a0-0000-7000-8000-000000000001")
VALUE = bytes(range(32))
OLD, NEW = b"\x01" * 32, b"\x02" * 32


def test_a_sealed_share_opens_in_its_own_place():
    sealer = Sealer([NEW])
    sealed, kek_id = sealer.seal(VALUE, GUID, 3, 2, 1)
    assert kek_id == sealer.current
    assert sealer.open(sealed, kek_id, GUID, 3, 2, 1) == VALUE
    assert VALUE not in sealed
    assert sealer.seal(VALUE, GUID, 3, 2, 1)[0] != sealed


@pytest.mark.parametrize(("guid", "epoch", "x", "version"), [(UUID(int=1), 3, 2, 1), (GUID, 4, 2, 1), (GUID, 3, 1, 1), (GUID, 3, 2, 0)])
def test_a_sealed_share_moved_to_another_place_does_not_open(guid, epoch, x, version):
    sealer = Sealer([NEW])
    sealed, kek_id = sealer.seal(VALUE, GUID, 3, 2, 1)
    with pytest.raises(SealBroken):
        sealer.open(sealed, kek_id, guid, epoch, x, version)


def test_a_share_sealed_before_there_were_versions_opens_as_version_0():
    nonce, place = bytes(12), GUID.bytes + bytes([0, 0, 0, 3, 2])
    sealed = nonce + AESGCM(NEW).encrypt(nonce, VALUE, place)
    sealer = Sealer([NEW])
    assert sealer.open(sealed, sealer.current, GUID, 3, 2, 0) == VALUE


def test_an_altered_share_does_not_open():
    sealer = Sealer([NEW])
    sealed = bytearray(sealer.seal(VALUE, GUID, 3, 2)[0])
    sealed[20] ^= 1
    with pytest.raises(SealBroken):
        sealer.open(bytes(sealed), sealer.current, GUID, 3, 2)


def test_after_rotation_old_shares_open_and_new_ones_need_the_new_key():
    before, after = Sealer([OLD]), Sealer([NEW, OLD])
    sealed, _ = before.seal(VALUE, GUID, 0, 1)
    assert after.open(sealed, before.current, GUID, 0, 1) == VALUE
    assert after.current != before.current
    with pytest.raises(SealBroken, match="not in kek_file"):
        before.open(after.seal(VALUE, GUID, 0, 1)[0], after.current, GUID, 0, 1)


def test_keys_are_read_from_a_file_first_line_first(tmp_path):
    file = tmp_path / "kek"
    file.write_text(f"{NEW.hex()}\n{OLD.hex().upper()}\n")
    assert Sealer.from_file(file).current == Sealer([NEW]).current


def test_a_changed_file_is_used_at_once_and_one_that_cannot_be_read_is_not(tmp_path, caplog):
    file = tmp_path / "kek"
    file.write_text(OLD.hex())
    sealer = Sealer.from_file(file)
    sealed, kek_id = sealer.seal(VALUE, GUID, 0, 1)
    file.write_text(f"{NEW.hex()}\n{OLD.hex()}\n")
    assert sealer.current == Sealer([NEW]).current
    assert sealer.open(sealed, kek_id, GUID, 0, 1) == VALUE
    file.write_text("nonsense")
    assert sealer.current == Sealer([NEW]).current
    assert "kek_file cannot be used" in caplog.text
    file.unlink()
    assert sealer.open(sealed, kek_id, GUID, 0, 1) == VALUE


@pytest.mark.parametrize(("mode", "warned"), [(0o644, True), (0o600, False)])
def test_a_key_file_that_everybody_may_read_is_warned_about(tmp_path, caplog, mode, warned):
    file = tmp_path / "kek"
    file.write_text(NEW.hex())
    file.chmod(mode)
    Sealer.from_file(file)
    assert ("chmod 600" in caplog.text) is warned
    assert NEW.hex() not in caplog.text


@pytest.mark.parametrize("content", ["", "\n", "abc", "00" * 31, "zz" * 32, "00" * 32 + "\nnonsense", "ключ"])
def test_a_file_that_is_no_key_file_is_refused_without_showing_it(tmp_path, content):
    file = tmp_path / "kek"
    file.write_text(content)
    with pytest.raises(ConfigurationError) as error:
        Sealer.from_file(file)
    assert "kek_file" in str(error.value)
    assert not content.strip() or content.strip() not in str(error.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="kek_file"):
        Sealer.from_file(tmp_path / "absent")
