"""The commands of keys and encrypted files, on three real keystores."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from click.testing import Result
from mdm_keystore.rules.seal import Sealer
from mdm_service.policy import OPERATOR
from mdm_testing.keystore import RunningKeystore, serve_keystore
from mdm_testing.process import eventually
from mdm_wire.retry import RetryPolicy

from client.tests.test_cli import UNREACHABLE, mdm, rows

pytestmark = pytest.mark.integration

ABSENT = str(uuid4())


class Keystores:
    """Three keystores of three databases, and configurations of their users."""

    def __init__(self, pki: Any, postgres: Any, folder: Path) -> None:
        self.pki, self.postgres, self.folder = pki, postgres, folder
        self.running: dict[str, RunningKeystore] = {}
        self._stacks: dict[str, ExitStack] = {}
        self._databases = {name: f"keystore_{uuid4().hex[:12]}" for name in "abc"}
        self._conninfos = {name: postgres.create_database(database) for name, database in self._databases.items()}
        self._sealers = {name: Sealer([os.urandom(32)]) for name in "abc"}
        self._identity = pki.issue(pki.subject("keystore"))
        for name in "abc":
            self.start(name)

    def start(self, name: str) -> None:
        self._stacks[name] = ExitStack()
        served = serve_keystore(
            self._conninfos[name],
            self._identity,
            "abc".index(name) + 1,
            namespace=self.pki.namespace,
            sealer=self._sealers[name],
            roles={OPERATOR: (self.pki.subject("operator"),)},
        )
        self.running[name] = self._stacks[name].enter_context(served)

    def stop(self, name: str) -> None:
        self._stacks[name].close()

    def close(self) -> None:
        for stack in self._stacks.values():
            stack.close()
        for database in self._databases.values():
            self.postgres.drop_database(database)

    def config(self, user: str) -> Path:
        """Write a client configuration of a user; there is no other service than the keystores."""
        tls = self.pki.issue(self.pki.subject(user))
        keystores = "".join(
            f'[[keystores]]\nname = "{name}"\nindex = {index}\naddresses = ["{self.running[name].address}"]\n'
            for index, name in enumerate("abc", 1)
        )
        file = self.folder / f"{user}-{uuid4().hex[:6]}.toml"
        file.write_text(
            f'certificate = "{tls.certificate}"\nkey = "{tls.key}"\nca = "{tls.ca}"\n'
            f'catalog = ["{UNREACHABLE}"]\nmetadata = ["{UNREACHABLE}"]\nthreshold = 2\n{keystores}'
        )
        return file

    def sql(self, name: str, statement: str, *parameters: Any) -> None:
        with psycopg.connect(self._conninfos[name], autocommit=True) as connection:
            connection.execute(statement.encode(), parameters)


@pytest.fixture(scope="module")
def keystores(pki, postgres, tmp_path_factory) -> Iterator[Keystores]:
    made = Keystores(pki, postgres, tmp_path_factory.mktemp("keystores"))
    yield made
    made.close()


@pytest.fixture
def alice(keystores) -> Path:
    return keystores.config("alice")


@pytest.fixture
def bob(keystores) -> Path:
    return keystores.config("bob")


def done(config: Path, *arguments: str) -> list[dict]:
    """Run a command that must succeed and return its JSON lines."""
    result = mdm(config, "--json", *arguments)
    assert result.exit_code == 0, result.output
    return rows(result.stdout)


def registered(config: Path, *arguments: str) -> str:
    (facts,) = done(config, "key", "register", *arguments)
    return str(facts["guid"])


def can_use(config: Path, key: str, folder: Path) -> bool:
    (folder / "probe").write_bytes(b"probe")
    return mdm(config, "encrypt", key, str(folder / "probe"), str(folder / "probe.mdm")).exit_code == 0


def test_a_registered_key_is_on_every_keystore_and_is_shown_alike(alice):
    key = registered(alice)
    (facts,) = done(alice, "key", "stat", key)
    assert facts["whole"] is True
    assert [part["share"] for part in facts["keystores"].values()] == [1, 2, 3]
    shown = mdm(alice, "key", "stat", key).stdout
    assert "2 of 3" in shown
    assert "DIFFERENT" not in shown
    assert key in mdm(alice, "key", "list").stdout


def test_registering_again_is_safe_and_somebody_elses_key_stays_as_it_is(alice, bob):
    key = str(uuid4())
    first = done(alice, "key", "register", key, "--grant", "authenticated", "g")
    assert done(alice, "key", "register", key, "--grant", "authenticated", "g") == first
    before = done(alice, "key", "stat", key)
    refused = mdm(bob, "key", "register", key)
    assert (refused.exit_code, len(refused.stderr.splitlines())) == (1, 1), refused.stderr
    assert done(alice, "key", "stat", key) == before


def test_keys_registered_together_share_an_access_list_and_one_can_join_it_later(alice, bob, tmp_path):
    one, two = (
        facts["guid"] for facts in done(alice, "key", "register", str(uuid4()), str(uuid4()), "--grant", "dn:CN=bob,O=MDM Test", "r")
    )
    acl_id = done(alice, "key", "stat", one)[0]["keystores"]["a"]["acl_id"]
    three = registered(alice, "--acl", acl_id)
    assert all(can_use(bob, key, tmp_path) for key in (one, two, three))
    assert mdm(alice, "key", "acl", "revoke", one, "dn:CN=bob,O=MDM Test").exit_code == 2, "the list guards other keys too"
    assert mdm(alice, "key", "acl", "revoke", one, "dn:CN=bob,O=MDM Test", "--shared").exit_code == 0
    assert not any(can_use(bob, key, tmp_path) for key in (one, two, three))


def test_a_list_that_changed_since_is_used_again_only_on_request(alice):
    key = registered(alice)
    assert mdm(alice, "key", "acl", "grant", key, "authenticated", "r").exit_code == 0
    refused = mdm(alice, "key", "register", key)
    assert (refused.exit_code, "--acl" in refused.stderr) == (1, True)
    acl_id = done(alice, "key", "stat", key)[0]["keystores"]["a"]["acl_id"]
    assert registered(alice, key, "--acl", acl_id) == key


def test_access_to_a_key_is_granted_set_taken_back_and_moved(alice, bob, tmp_path):
    key, other = registered(alice), registered(alice, str(uuid4()), "--grant", "dn:CN=bob,O=MDM Test", "r")
    assert not can_use(bob, key, tmp_path)
    done(alice, "key", "acl", "grant", key, "/O=MDM Test/CN=bob", "rg")
    assert can_use(bob, key, tmp_path)
    assert "rg " in mdm(alice, "key", "acl", "get", key).stdout
    done(alice, "key", "acl", "set", key, "dn:CN=bob,O=MDM Test", "g")
    assert not can_use(bob, key, tmp_path)
    done(alice, "key", "acl", "revoke", key, "dn:CN=bob,O=MDM Test")
    assert mdm(bob, "key", "stat", key).exit_code == 3
    acl_id = done(alice, "key", "stat", other)[0]["keystores"]["a"]["acl_id"]
    done(alice, "key", "acl", "assign", key, acl_id)
    assert can_use(bob, key, tmp_path)
    assert mdm(bob, "key", "acl", "assign", key, acl_id).exit_code == 3


def test_a_key_is_given_to_another_owner(alice, bob, keystores, tmp_path):
    key = registered(alice)
    assert mdm(bob, "key", "acl", "chown", key, "/O=MDM Test/CN=bob").exit_code == 3
    assert mdm(alice, "key", "acl", "chown", key, "authenticated").exit_code == 2
    keystores.stop("c")
    partial = mdm(alice, "key", "acl", "chown", key, "/O=MDM Test/CN=bob")
    keystores.start("c")
    alice, bob = keystores.config("alice"), keystores.config("bob")
    assert (partial.exit_code, "keystore c  NOT given away" in partial.stdout) == (1, True), partial.output
    assert mdm(alice, "key", "acl", "chown", key, "/O=MDM Test/CN=bob", "--shared").exit_code == 0
    assert can_use(bob, key, tmp_path)
    assert not can_use(alice, key, tmp_path)
    assert "owner CN=bob,O=MDM Test" in mdm(bob, "key", "acl", "get", key).stdout
    again = mdm(alice, "key", "register", key)
    assert (again.exit_code, "somebody else" in again.stderr) == (1, True)


def test_a_change_that_reaches_two_keystores_says_so_and_is_completed_by_running_it_again(alice, keystores):
    key = registered(alice)
    keystores.stop("b")
    partial = mdm(alice, "key", "acl", "grant", key, "authenticated", "r")
    keystores.start("b")
    config = keystores.config("alice")
    assert (partial.exit_code, "keystore b" in partial.stderr, "run it again" in partial.stderr) == (1, True, True)
    differing = mdm(config, "key", "acl", "get", key)
    assert (differing.exit_code, "DIFFERENT" in differing.stdout) == (1, True)
    assert mdm(config, "key", "acl", "grant", key, "authenticated", "r").exit_code == 0
    assert mdm(config, "key", "acl", "get", key).exit_code == 0


def test_an_unregistered_key_opens_nothing_any_more(alice, tmp_path):
    (tmp_path / "plain").write_bytes(b"pixels")
    key = registered(alice)
    done(alice, "encrypt", key, str(tmp_path / "plain"), str(tmp_path / "cipher"))
    (gone,) = done(alice, "key", "unregister", key)
    assert (gone["done"], {part["ok"] for part in gone["keystores"].values()}) == (True, {True})
    refused = mdm(alice, "decrypt", str(tmp_path / "cipher"), str(tmp_path / "out"))
    assert (refused.exit_code, len(refused.stderr.splitlines())) == (3, 1)
    assert not (tmp_path / "out").exists()
    assert mdm(alice, "key", "unregister", key).exit_code == 3


def test_unregistering_with_a_keystore_away_tells_which_and_is_completed_later(alice, keystores):
    key = registered(alice)
    keystores.stop("c")
    partial = mdm(alice, "key", "unregister", key)
    keystores.start("c")
    config = keystores.config("alice")
    assert partial.exit_code == 1, partial.output
    assert "keystore c  NOT destroyed" in partial.stdout
    assert "run it again" in partial.stderr
    (left,) = rows(mdm(config, "--json", "key", "stat", key).stdout)
    assert [part["ok"] for part in left["keystores"].values()] == [False, False, True]
    completed = mdm(config, "key", "unregister", key)
    assert (completed.exit_code, "keystore a  was not there" in completed.stdout) == (0, True)


def test_only_who_may_destroys_a_key(alice, bob, keystores):
    key = registered(alice, str(uuid4()), "--grant", "authenticated", "rg")
    refused = mdm(bob, "key", "unregister", key)
    assert (refused.exit_code, "may not" in refused.stderr) == (3, True)
    assert done(alice, "key", "stat", key)[0]["whole"] is True
    assert mdm(keystores.config("operator"), "key", "unregister", key).exit_code == 0


def test_what_keystores_tell_otherwise_is_flagged(alice, keystores):
    missing, different = registered(alice), registered(alice)
    keystores.sql("b", "DELETE FROM key_share WHERE guid = %s", missing)
    keystores.sql("c", "UPDATE key_share SET epoch = 7 WHERE guid = %s", different)
    one, two = mdm(alice, "key", "stat", missing), mdm(alice, "key", "stat", different)
    assert (one.exit_code, "keystore b  MISSING" in one.stdout) == (1, True)
    assert (two.exit_code, "DIFFERENT: 2 of 3  epoch 7" in two.stdout) == (1, True)
    listed = mdm(keystores.config("operator"), "--json", "key", "list", "--damaged")
    assert listed.exit_code == 1
    assert {missing, different} <= {row["guid"] for row in rows(listed.stdout)}
    assert {row["whole"] for row in rows(listed.stdout)} == {False}


def test_listing_goes_on_without_a_keystore_that_is_away(alice, keystores, monkeypatch):
    key = registered(alice)
    monkeypatch.setattr("mdm_client.keystore.manager.POLICY", RetryPolicy(10, retry_seconds=0.2))
    keystores.stop("a")
    listed = mdm(alice, "key", "list")
    keystores.start("a")
    assert listed.exit_code == 1
    assert any(line.startswith(key) and "UNKNOWN in a" in line for line in listed.stdout.splitlines())
    assert "keystore a" in listed.stderr


def test_encrypt_registers_the_key_only_on_request_and_only_for_a_file_that_is_there(alice, tmp_path):
    key = str(uuid4())
    source, cipher = tmp_path / "plain", tmp_path / "cipher"
    assert mdm(alice, "encrypt", key, str(source), str(cipher), "--register").exit_code == 1
    assert mdm(alice, "key", "stat", key).exit_code == 3
    source.write_bytes(b"report" * 1000)
    assert mdm(alice, "encrypt", key, str(source), str(cipher)).exit_code == 3
    (facts,) = done(alice, "encrypt", key, str(source), str(cipher), "--register", "--grant", "group:/biomed/neuro", "r")
    assert (facts["guid"], facts["size"]) == (key, 6000)
    (facts,) = done(alice, "decrypt", str(cipher), str(tmp_path / "out"))
    assert facts["guid"] == key
    assert (tmp_path / "out").read_bytes() == source.read_bytes()


def test_one_keystore_may_be_away_for_encrypting_and_decrypting(alice, keystores, tmp_path):
    (tmp_path / "plain").write_bytes(b"x")
    key = registered(alice)
    keystores.stop("a")
    encrypted: Result = mdm(alice, "encrypt", key, str(tmp_path / "plain"), str(tmp_path / "cipher"))
    decrypted = mdm(alice, "decrypt", key, str(tmp_path / "cipher"), str(tmp_path / "out"))
    keystores.start("a")
    assert (encrypted.exit_code, decrypted.exit_code) == (0, 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ["decrypt", "only-one"],
        ["decrypt", ABSENT, ABSENT, "in", "out"],
        ["decrypt", "relative", "in", "out"],
        ["encrypt", "relative", "in", "out"],
        ["encrypt", ABSENT, "in", "out", "--grant", "authenticated", "r"],
        ["key", "frobnicate"],
        ["key", "register", "relative"],
        ["key", "register", "--acl", "no-uuid"],
        ["key", "register", "--acl", ABSENT, "--grant", "authenticated", "r"],
        ["key", "register", "--grant", "nobody", "r"],
        ["key", "stat"],
        ["key", "acl", "grant", ABSENT, "authenticated", "q"],
        ["key", "acl", "assign", ABSENT, "no-uuid"],
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments, alice):
    result = mdm(alice, *arguments)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.output
    told = mdm(alice, "--json", *arguments)
    assert (told.exit_code, bool(rows(told.stderr)[0]["reason"])) == (2, True)


@pytest.mark.parametrize(
    "action", [["stat", ABSENT], ["unregister", ABSENT], ["acl", "get", ABSENT], ["acl", "grant", ABSENT, "authenticated", "r"]]
)
def test_a_key_that_is_not_there_is_not_found(action, alice):
    result = mdm(alice, "key", *action)
    assert (result.exit_code, len(result.stderr.splitlines()), result.stdout) == (3, 1, "")


def piped(config: Path, *arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "mdm_client.cli", "--config", str(config), *arguments]
    return subprocess.run(command, input=given, capture_output=True, timeout=60, check=False)


def test_pipes_go_through_in_both_directions(alice):
    key, plaintext = registered(alice), os.urandom(2_500_000)
    encrypted = piped(alice, "encrypt", key, "-", "-", given=plaintext)
    assert (encrypted.returncode, encrypted.stderr) == (0, b"")
    decrypted = piped(alice, "--json", "decrypt", "-", "-", given=encrypted.stdout)
    assert (decrypted.returncode, decrypted.stdout == plaintext) == (0, True)
    assert rows(decrypted.stderr.decode())[0]["guid"] == key


def test_a_damaged_file_gives_a_pipe_nothing_and_a_damaged_pipe_only_what_is_authentic(alice, tmp_path):
    key, plaintext = registered(alice), os.urandom(2_500_000)
    cut = piped(alice, "encrypt", key, "-", "-", given=plaintext).stdout[:-1]
    (tmp_path / "cut").write_bytes(cut)
    of_file = piped(alice, "decrypt", str(tmp_path / "cut"), "-")
    assert (of_file.returncode, of_file.stdout) == (1, b"")
    of_pipe = piped(alice, "decrypt", "-", "-", given=cut)
    assert of_pipe.returncode == 1
    assert b"discard" in of_pipe.stderr
    assert 0 < len(of_pipe.stdout) < len(plaintext)
    assert plaintext.startswith(of_pipe.stdout)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("command", ["encrypt", "decrypt"])
def test_an_interrupted_command_leaves_the_destination_as_it_was(command, sent, code, alice, tmp_path):
    key, out = registered(alice), tmp_path / "out"
    out.write_bytes(b"mine")
    cipher = piped(alice, "encrypt", key, "-", "-", given=bytes(2_500_000)).stdout
    # A process started in the background by a shell ignores SIGINT, and so would its children.
    start = ["env", "--default-signal=INT", sys.executable, "-m", "mdm_client.cli", "--config", str(alice), command, key, "-", str(out)]
    with subprocess.Popen(start, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        with contextlib.suppress(BrokenPipeError):  # if it has ended already, what it told is shown below
            process.stdin.write(cipher)
            process.stdin.flush()
        eventually(lambda: list(tmp_path.glob("out.*.part")), interval=0.02)
        process.send_signal(sent)
        told = process.stderr.read()
        assert process.wait(20) == code, told
    assert len(told.splitlines()) == 1, told
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert out.read_bytes() == b"mine"


def test_memory_stays_constant_however_long_the_pipe(alice):
    key = registered(alice)
    # Not ru_maxrss, which begins with what the process that started this one has.
    program = (
        "import atexit, pathlib, sys; from mdm_client.cli import main\n"
        "peak = lambda: pathlib.Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]\n"
        "atexit.register(lambda: print(peak(), file=sys.stderr)); main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", program, "--config", str(alice), "encrypt", key, "-", "-"]
    with subprocess.Popen(["head", "-c", "400M", "/dev/zero"], stdout=subprocess.PIPE) as feeder:
        encrypted = subprocess.run(command, stdin=feeder.stdout, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=60, check=True)
    assert int(encrypted.stderr) < 200 * 1024, "kilobytes"
