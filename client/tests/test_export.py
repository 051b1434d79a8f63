"""`mdm get --crypt4gh`: what an archive gets, by the command, on a grid of fakes."""

import os
import subprocess

import pytest
from mdm_testing.process import BIN, require_program

from client.tests.mounting import mdm


@pytest.fixture
def recipient(tmp_path):
    """A pair of keys as `crypt4gh-keygen` makes them: the files of the private and the public one."""
    private, public = tmp_path / "archive.sec", tmp_path / "archive.pub"
    made = [str(BIN / "crypt4gh-keygen"), "--sk", str(private), "--pk", str(public), "--nocrypt", "-f"]
    subprocess.run(made, check=True, capture_output=True)
    return private, public


def opened(path, private) -> bytes:
    """Decrypt by the reference program."""
    with path.open("rb") as file:
        return subprocess.run([str(BIN / "crypt4gh"), "decrypt", "--sk", str(private)], stdin=file, capture_output=True, check=True).stdout


def test_files_are_for_the_recipient_and_their_digests_show_a_cut(grid, recipient, tmp_path):
    sha256sum = require_program("sha256sum", "coreutils")
    content = os.urandom(200_000)
    grid.add("/biomed/hospital-a/p/1.dcm", content)
    grid.add("/biomed/hospital-a/p/back\\slash.dcm", b"two")
    out = tmp_path / "out"
    done = mdm(grid.config(), "get", "/biomed/hospital-a/p", "-o", str(out), "--crypt4gh", "--recipient", str(recipient[1]))
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir()) == [
        "1.dcm.c4gh",
        "1.dcm.c4gh.sha256",
        "back\\slash.dcm.c4gh",
        "back\\slash.dcm.c4gh.sha256",
    ]
    assert {path.stat().st_mode & 0o777 for path in out.iterdir()} == {0o600}
    (out / "1.dcm").write_bytes(opened(out / "1.dcm.c4gh", recipient[0]))
    (out / "back\\slash.dcm").write_bytes(opened(out / "back\\slash.dcm.c4gh", recipient[0]))
    assert (out / "1.dcm").read_bytes() == content

    def check(name: str) -> int:
        return subprocess.run([sha256sum, "--check", "--strict", name], cwd=out, capture_output=True, check=False).returncode

    assert [check(f"{name}.c4gh.sha256") for name in ("1.dcm", "back\\slash.dcm")] == [0, 0]
    assert f"{(out / '1.dcm.c4gh').stat().st_size} bytes encrypted, 200000 bytes plain" in (out / "1.dcm.c4gh.sha256").read_text()
    whole = (out / "1.dcm.c4gh").read_bytes()
    (out / "1.dcm.c4gh").write_bytes(whole[: 124 + 2 * (65_536 + 28)])
    assert opened(out / "1.dcm.c4gh", recipient[0]) == content[: 2 * 65_536]
    assert check("1.dcm.c4gh.sha256") != 0


def test_a_file_of_two_names_is_written_for_both(grid, recipient, tmp_path):
    grid.add("/biomed/hospital-a/p/1.dcm", b"one")
    grid.catalog.links["/biomed/w"] = "/biomed/hospital-a/p"
    out = tmp_path / "out"
    arguments = ["get", "/biomed/hospital-a/p/", "/biomed/w/", "-o", str(out), "--crypt4gh", "--recipient", str(recipient[1])]
    assert mdm(grid.config(), *arguments).returncode == 0
    found = list(out.rglob("*.c4gh"))
    assert [opened(path, recipient[0]) for path in found] == [b"one", b"one"]
    assert all(path.with_name(path.name + ".sha256").read_text().count("1.dcm") == 2 for path in found)
    again = mdm(grid.config(), *arguments)
    assert again.returncode == 1 and "exists" in again.stderr


def test_what_cannot_be_exported_is_one_line(grid, recipient, tmp_path):
    grid.add("/biomed/hospital-a/p/1.dcm", b"one")
    private, public = map(str, recipient)
    for options, said in [
        (("--crypt4gh",), "go together"),
        (("--recipient", public), "go together"),
        (("--crypt4gh", "--recipient", public, "--nifti"), "does not go with"),
        (("--crypt4gh", "--recipient", private), "private key"),
        (("--crypt4gh", "--recipient", str(tmp_path / "none")), "No such file"),
    ]:
        refused = mdm(grid.config(), "get", "/biomed/hospital-a/p", "-o", str(tmp_path / "out"), *options)
        assert refused.returncode == 2 and said in refused.stderr
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())
