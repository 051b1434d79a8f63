"""Local files encrypted and decrypted: what appears, what does not, and what is said."""

import os
import stat
from uuid import UUID, uuid4

import pytest
from mdm_client.keystore import file_cipher
from mdm_client.local_file import AtomicFile, InputFile, output_file
from mdm_crypto import stream
from mdm_wire.errors import Corrupt, Invalid, MdmError, NotFound

ONE, OTHER, FORBIDDEN = uuid4(), uuid4(), uuid4()


class Keys:
    """Two keys, and a third that is not for the caller."""

    def get_keys(self, guids):
        given = {ONE: bytes(range(32)), OTHER: bytes(32)}
        return {guid: given.get(guid) or NotFound("KEY_NOT_FOUND", "no such key, or you may not use it") for guid in guids}


@pytest.fixture
def folder(tmp_path):
    plain = tmp_path / "plain"
    plain.write_bytes(os.urandom(3_000_000))
    file_cipher.encrypt(Keys(), ONE, str(plain), str(tmp_path / "cipher"))
    return tmp_path


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def decrypt(folder, guid: UUID | None = None, source: str = "cipher", destination: str = "out"):
    return file_cipher.decrypt(Keys(), guid, str(folder / source), str(folder / destination))


def test_a_file_comes_back_and_only_its_owner_may_read_it(folder):
    assert decrypt(folder) == (ONE, 3_000_000)
    assert (folder / "out").read_bytes() == (folder / "plain").read_bytes()
    assert stat.S_IMODE((folder / "out").stat().st_mode) == 0o600


def test_an_empty_file_comes_back(tmp_path):
    (tmp_path / "plain").touch()
    assert file_cipher.encrypt(Keys(), ONE, str(tmp_path / "plain"), str(tmp_path / "cipher")) == 0
    assert decrypt(tmp_path, ONE) == (ONE, 0)
    assert (tmp_path / "out").read_bytes() == b""


def test_a_file_may_replace_itself_and_what_a_link_leads_to(folder):
    (folder / "link").symlink_to(folder / "cipher")
    plaintext = (folder / "plain").read_bytes()
    decrypt(folder, source="link", destination="link")
    assert (folder / "link").is_symlink()
    assert (folder / "cipher").read_bytes() == plaintext


def test_bytes_read_are_told_as_they_are_read(folder):
    counts: list[int] = []
    file_cipher.encrypt(Keys(), ONE, str(folder / "plain"), str(folder / "again"), received=counts.append)
    assert sum(counts) == 3_000_000
    assert len(counts) > 2


def damaged(kind: str, content: bytes, other: bytes) -> bytes:
    """Return a file that is not what was encrypted."""
    segment = stream.SEGMENT_SIZE
    start, first = content[:24], content[24 : 24 + segment]
    second, third = content[24 + segment : 24 + 2 * segment], content[24 + 2 * segment :]
    return {
        "cut in the last segment": content[:-1],
        "cut between segments": start + first + second,
        "reordered": start + second + first + third,
        "spliced": start + first + other[24 + segment : 24 + 2 * segment] + third,
        "renamed": content[:8] + OTHER.bytes + content[24:],
        "flipped bit": content[:2_000_000] + bytes([content[2_000_000] ^ 1]) + content[2_000_001:],
        "longer": content + b"\0",
        "header taken off": content[24:],
    }[kind]


KINDS = [
    "cut in the last segment",
    "cut between segments",
    "reordered",
    "spliced",
    "renamed",
    "flipped bit",
    "longer",
    "header taken off",
]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_whole_and_authentic_leaves_the_destination_as_it_was(kind, folder):
    file_cipher.encrypt(Keys(), ONE, str(folder / "plain"), str(folder / "second"))
    wrong = damaged(kind, (folder / "cipher").read_bytes(), (folder / "second").read_bytes())
    (folder / "cipher").write_bytes(wrong)
    (folder / "out").write_bytes(b"mine")
    before = names(folder)
    with pytest.raises(Corrupt) as refused:
        decrypt(folder, ONE if kind == "header taken off" else None)
    assert refused.value.reason == "CIPHERTEXT_NOT_AUTHENTIC"
    assert "nothing was kept" in refused.value.message
    assert names(folder) == before
    assert (folder / "out").read_bytes() == b"mine"


def test_a_file_of_another_key_than_asked_for_is_refused_before_a_key_is(folder):
    with pytest.raises(Corrupt, match=str(ONE)) as refused:
        decrypt(folder, OTHER)
    assert refused.value.reason == "KEY_ID_DIFFERS"


def test_a_staged_file_needs_its_id(folder):
    (folder / "staged").write_bytes(stream.encrypt(bytes(range(32)), ONE.bytes, [b"pixels"]))
    with pytest.raises(Invalid, match="give its ID"):
        decrypt(folder, source="staged")
    assert decrypt(folder, ONE, "staged") == (ONE, 6)
    with pytest.raises(Corrupt):
        decrypt(folder, OTHER, "staged")


@pytest.mark.parametrize(
    ("source", "destination", "reason"),
    [
        ("none", "out", "LOCAL_FILE"),
        (".", "out", "LOCAL_FILE"),
        ("plain", "out", "NOT_ENCRYPTED"),
        ("cipher", ".", "LOCAL_FILE"),
        ("cipher", "none/out", "LOCAL_FILE"),
        ("cipher", "pipe", "LOCAL_FILE"),
    ],
)
def test_local_files_that_will_not_do_are_named(source, destination, reason, folder):
    os.mkfifo(folder / "pipe")
    before = names(folder)
    with pytest.raises(MdmError, match=str(folder)) as refused:
        decrypt(folder, source=source, destination=destination)
    assert refused.value.reason == reason
    assert names(folder) == before


def test_without_the_key_nothing_is_written(folder):
    with pytest.raises(NotFound, match=str(FORBIDDEN)):
        file_cipher.encrypt(Keys(), FORBIDDEN, str(folder / "plain"), str(folder / "out"))
    assert names(folder) == {"plain", "cipher"}


def test_a_full_disk_is_told_as_that_and_nothing_remains(folder, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mdm_client.local_file.os.write", full)
    with pytest.raises(MdmError) as failed:
        decrypt(folder)
    assert failed.value.reason == "LOCAL_DISK_FULL"
    assert names(folder) == {"plain", "cipher"}


def test_input_tells_its_size_only_where_it_is_known(folder):
    with InputFile(str(folder / "plain")) as file:
        assert file.size == 3_000_000
        assert len(file.read(10)) == 10
        file.rewind()
        assert file.read(3) == (folder / "plain").read_bytes()[:3]
    with InputFile("/dev/zero") as device:
        assert device.size is None
    assert isinstance(output_file(str(folder / "new")), AtomicFile)
