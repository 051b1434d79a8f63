"""Client configurations: what is read, and what is refused with its key."""

from pathlib import Path

import pytest
from mdm_client.config import ClientConfig, KeystoreAddress
from mdm_wire.errors import Invalid

GOOD = """
certificate = "alice.crt"
key = "/keys/alice.key"
ca = "ca.crt"
catalog = ["127.0.0.1:7001", "localhost:7011"]
metadata = ["127.0.0.1:7002"]
threshold = 2
[[keystores]]
name = "a"
index = 1
addresses = ["127.0.0.1:7003"]
[[keystores]]
name = "b"
index = 2
addresses = ["[::1]:7004"]
[srm]
hospital-a = ["127.0.0.1:7006"]
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "client.toml"
    file.write_text(text)
    return file


def test_a_file_is_read_with_paths_relative_to_it(tmp_path):
    config = ClientConfig.load(write(tmp_path, GOOD))
    assert config.tls.certificate == tmp_path / "alice.crt"
    assert config.tls.key == Path("/keys/alice.key")
    assert config.catalog == ("127.0.0.1:7001", "localhost:7011")
    assert config.keystores[1] == KeystoreAddress("b", 2, ("[::1]:7004",))
    assert config.srm == {"hospital-a": ("127.0.0.1:7006",)}
    assert config.site_seconds == 2
    assert ClientConfig.load(write(tmp_path, f"site_seconds = 0.5\n{GOOD}")).site_seconds == 0.5


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("threshold = 2", "threshold = 1", "threshold"),
        ("threshold = 2", "threshold = 3", "threshold"),
        ("threshold = 2", 'threshold = "2"', "threshold"),
        ("threshold = 2", "threshold = true", "threshold"),
        ("threshold = 2", "threshold = 2\nthreshhold = 2", "threshhold"),
        ("threshold = 2", "threshold = 2\nsite_seconds = 0", "site_seconds"),
        ("threshold = 2", "threshold = 2\nsite_seconds = nan", "site_seconds"),
        ("threshold = 2", "threshold = 2\nsite_seconds = true", "site_seconds"),
        ("threshold = 2", 'threshold = 2\nsite_seconds = "2"', "site_seconds"),
        ('ca = "ca.crt"', "", "ca"),
        ("index = 2", "index = 1", "keystores"),
        ("index = 2", "index = 0", "keystores.index"),
        ('name = "b"', 'name = "a"', "keystores"),
        ('name = "b"', 'name = "b"\nport = 1', "keystores.port"),
        ('catalog = ["127.0.0.1:7001", "localhost:7011"]', "catalog = []", "catalog"),
        ('"127.0.0.1:7001"', '"127.0.0.1"', "catalog"),
        ('"127.0.0.1:7001"', '"127.0.0.1:70010"', "catalog"),
        ('"127.0.0.1:7001"', "7001", "catalog"),
        ('hospital-a = ["127.0.0.1:7006"]', 'hospital-a = "127.0.0.1:7006"', "srm.hospital-a"),
        ("[srm]", "[srm", "TOML"),
    ],
)
def test_a_mistake_is_refused_with_file_and_key(old, new, named, tmp_path):
    assert old in GOOD
    with pytest.raises(Invalid) as caught:
        ClientConfig.load(write(tmp_path, GOOD.replace(old, new, 1)))
    assert caught.value.reason == "CONFIG_INVALID"
    assert "client.toml" in caught.value.message
    assert named in caught.value.message


def test_a_missing_file_is_its_own_reason(tmp_path):
    with pytest.raises(Invalid) as caught:
        ClientConfig.load(tmp_path / "none.toml")
    assert caught.value.reason == "CONFIG_NOT_FOUND"


def test_a_curators_listener_is_read_and_a_wrong_one_refused(tmp_path):
    listener = '[curator]\nhospital-a = ["pacs-side:7010"]\n'
    assert ClientConfig.load(write(tmp_path, GOOD + listener)).curator == {"hospital-a": ("pacs-side:7010",)}
    assert ClientConfig.load(write(tmp_path, GOOD)).curator == {}
    for wrong in ('[curator]\nhospital-a = "pacs-side:7010"\n', '[curator]\nhospital-a = ["pacs-side"]\n'):
        with pytest.raises(Invalid, match="curator"):
            ClientConfig.load(write(tmp_path, GOOD + wrong))
