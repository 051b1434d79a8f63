"""Settings: strict, frozen, relative to their file, overridable by the environment."""

from pathlib import Path

import pytest
from mdm_service import settings
from mdm_service.process.main import check
from mdm_service.settings import ConfigurationError
from pydantic import ValidationError

BASE = """
[listen]
port = 7001
[tls]
certificate = "server.crt"
key = "server.key"
ca = "ca.crt"
[[trust.ca]]
certificate = "ca.crt"
namespaces = ["O=MDM Test"]
crl = "ca.crl"
"""


def load(path: Path, text: str) -> settings.ServiceSettings:
    file = path / "service.toml"
    file.write_text(text)
    return settings.load(settings.ServiceSettings, "catalog", file)


def test_relative_paths_are_relative_to_the_file(tmp_path):
    loaded = load(tmp_path, BASE)
    assert loaded.tls.certificate == tmp_path / "server.crt"
    assert loaded.trust.ca[0].crl == tmp_path / "ca.crl"


def test_the_environment_overrides_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("MDM_CATALOG__LISTEN__PORT", "7999")
    monkeypatch.setenv("MDM_METADATA__LISTEN__PORT", "1")
    assert load(tmp_path, BASE).listen.port == 7999


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BASE + "[listen2]\nport = 1\n", "listen2"),
        (BASE.replace("port = 7001", "port = 7001\nprot = 1"), "listen.prot"),
        (BASE.replace("port = 7001", "port = 70001"), "listen.port"),
        (BASE + "[roles]\nadmin = []\n", "unknown role admin"),
        (BASE + "[log]\nlevel = 'LOUD'\n", "log.level"),
        ("[listen", "service.toml"),
    ],
)
def test_mistakes_are_named_by_their_key(tmp_path, text, message):
    with pytest.raises(ConfigurationError, match=message):
        load(tmp_path, text)


def test_settings_cannot_be_changed(tmp_path):
    with pytest.raises(ValidationError):
        load(tmp_path, BASE).threads = 3


def test_check_names_the_file_that_is_missing(tmp_path):
    with pytest.raises(ConfigurationError, match=r"ca\.crt"):
        check(load(tmp_path, BASE))
