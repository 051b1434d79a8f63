"""`check-config --connect`: each target is tried for itself, says one line, and costs the others nothing."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from mdm_service.process.target import Target, report, service_target, try_all
from mdm_service.settings import ConfigurationError
from mdm_site.pki import DevelopmentCa
from mdm_testing.server import serve_in_process
from mdm_wire.errors import Unavailable

PROGRAM = [sys.executable, str(Path(__file__).parent / "worker_program.py")]


def failing(error: Exception) -> Target:
    def ask() -> str:
        raise error

    return Target(type(error).__name__, ask)


def test_every_kind_of_answer_is_one_line_and_nothing_unforeseen_is_quoted() -> None:
    targets = [
        Target("good", lambda: "serving"),
        failing(Unavailable("PACS_AWAY", "The PACS is away; start it.")),
        failing(ConfigurationError("database: no such file")),
        failing(RuntimeError("password=geheim")),
    ]
    lines = report(try_all(targets, 5))
    assert [line.split()[1] for line in lines] == ["ok", "FAILED", "FAILED", "FAILED"]
    assert [line.partition(" ms  ")[2] for line in lines] == [
        "serving",
        "PACS_AWAY: The PACS is away; start it.",
        "CONFIGURATION: database: no such file",
        "INTERNAL: RuntimeError",
    ]


def test_a_target_that_hangs_is_given_up_and_holds_up_no_other() -> None:
    release = threading.Event()

    def hang() -> str:
        release.wait(30)
        return "late"

    began = time.monotonic()
    answers = try_all([Target("hung", hang), Target("hung too", hang), Target("good", lambda: "serving")], 0.5)
    assert time.monotonic() - began < 5
    release.set()
    assert [answer.ok for answer in answers] == [False, False, True]
    assert answers[0].text.startswith("NO_ANSWER")


def test_another_service_is_asked_over_mutual_tls(pki, tmp_path) -> None:
    ours = pki.issue(pki.subject("asker"))
    stranger = DevelopmentCa(tmp_path).issue("/O=MDM Test/CN=asker")
    with serve_in_process(pki.issue(pki.subject("asked")), lambda server, _: None, namespaces=(pki.namespace,)) as served:
        targets = [
            service_target("peer", served.address, ours, 5),
            service_target("peer", served.address, stranger, 5),
            service_target("peer", "localhost:1", ours, 5),
        ]
        answers = try_all(targets, 10)
    assert [(answer.ok, answer.text.partition(":")[0]) for answer in answers] == [
        (True, "serving"),
        (False, "UNAVAILABLE"),
        (False, "UNAVAILABLE"),
    ]


def check(configuration: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, "check-config", "--config", str(configuration), "--connect", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def configured(folder: Path, pki, more: str) -> Path:
    files = pki.issue(pki.subject("checked"))
    tls = f'certificate = "{files.certificate}"\nkey = "{files.key}"\nca = "{files.ca}"'
    trust = f'[[trust.ca]]\ncertificate = "{files.ca}"\nnamespaces = ["{pki.namespace}"]'
    (folder / "service.toml").write_text(f"[listen]\nport = 0\n[tls]\n{tls}\n{trust}\n{more}")
    return folder / "service.toml"


@pytest.mark.integration
def test_the_database_says_its_version_and_the_exit_code_whether_all_is_well(database, pki, tmp_path) -> None:
    done = check(configured(tmp_path, pki, f'[database]\nconninfo = "{database.conninfo}"'))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\n") == 1 and done.stdout.startswith("database  ok") and "PostgreSQL 1" in done.stdout


@pytest.mark.integration
def test_a_database_that_is_away_is_one_line_without_the_password(pki, tmp_path) -> None:
    (tmp_path / "password").write_text("geheim-77")
    more = f'[database]\nconninfo = "host=127.0.0.1 port=1 user=x dbname=y"\npassword_file = "{tmp_path / "password"}"'
    done = check(configured(tmp_path, pki, more), "--timeout", "5")
    assert done.returncode == 1
    assert done.stdout.count("\n") == 1 and "FAILED" in done.stdout and "DATABASE_UNAVAILABLE" in done.stdout
    assert "geheim" not in done.stdout + done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "soon", "1e9"])
def test_a_time_that_makes_no_sense_is_refused(seconds, pki, tmp_path) -> None:
    assert check(configured(tmp_path, pki, ""), "--timeout", seconds).returncode == 2
