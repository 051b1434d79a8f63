"""What a stack remembers, its ports, its data directory, its TOML."""

import socket
import tomllib
from pathlib import Path

import pytest
from mdm_local.layout import Layout, default_root
from mdm_local.process import ProcessRecord, allocate_ports
from mdm_local.state import Coupling, State
from mdm_site.file import to_toml
from mdm_site.site import SiteError


def test_a_state_is_read_back_as_it_was_saved(tmp_path):
    file = tmp_path / "state.json"
    others = {"hospital-b": Coupling("/b", copied_here=True)}
    state = State({"catalog": 20001}, "orthanc", {"catalog": ProcessRecord(1, 2, "boot")}, "hospital-c", ["catalog"], others)
    state.save(file)
    assert State.load(file) == state


def test_without_a_file_the_state_is_empty(tmp_path):
    assert State.load(tmp_path / "state.json") == State()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 99}'])
def test_a_state_that_cannot_be_understood_is_an_error_that_says_what_to_do(content, tmp_path):
    file = tmp_path / "state.json"
    file.write_text(content)
    with pytest.raises(SiteError, match=str(file)):
        State.load(file)


def test_ports_are_kept_while_they_are_free():
    first = allocate_ports(["a", "b"], {}, ())
    assert allocate_ports(["a", "b"], first, ()) == first
    assert len(set(first.values())) == 2


def test_a_port_taken_by_somebody_else_is_replaced_and_one_of_a_running_component_is_kept():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        assert allocate_ports(["a"], {"a": number}, ())["a"] != number
        assert allocate_ports(["a"], {"a": number}, ("a",))["a"] == number


def test_the_data_directory_is_in_the_checkout_or_else_in_the_state_directory(tmp_path, monkeypatch):
    mark = tmp_path / "checkout" / "deploy" / "local" / "pyproject.toml"
    mark.parent.mkdir(parents=True)
    mark.touch()
    assert default_root(mark.parent) == tmp_path / "checkout" / ".mdm-local"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert default_root(tmp_path) == tmp_path / "state" / "mdm-local"


def test_the_data_directory_is_its_owners_only(tmp_path):
    layout = Layout(tmp_path / "stack")
    layout.make()
    assert {path.stat().st_mode & 0o077 for path in (layout.root, *layout.root.iterdir())} == {0}


def test_toml_is_read_back_as_it_was_written():
    document = {
        "text": 'quote " backslash \\ line\nend é',
        "flag": True,
        "ratio": 0.5,
        "path": Path("/a/b c"),
        "roles": {"service.dicom-srm": ["CN=x,O=y"], "empty": [], "deep": [{"a-b": 1, "c d": {"e": "f"}}]},
    }
    assert tomllib.loads(to_toml(document)) == {**document, "path": "/a/b c"}
