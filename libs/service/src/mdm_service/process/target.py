"""The targets that a service connects to, and how `check-config --connect` tries them."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc
import psycopg
from mdm_wire.errors import MdmError, Unavailable
from mdm_wire.tls import Identity
from psycopg import conninfo

from mdm_service import database
from mdm_service.server import probe
from mdm_service.settings import ConfigurationError, DatabaseSettings


@dataclass(frozen=True, slots=True)
class Target:
    """Something that a service connects to. `ask` returns its answer in a few words, or raises MdmError with the remedy."""

    name: str
    ask: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a target, or why there is none."""

    name: str
    ok: bool
    text: str
    seconds: float


def try_all(targets: Sequence[Target], seconds: float) -> list[Answer]:
    """Ask all targets at the same time, each for at most `seconds`; return the answers in order. One that hangs delays no other."""
    answers: dict[int, Answer] = {}

    def ask(number: int, target: Target) -> None:
        began = time.monotonic()
        ok, text = _ask(target)
        answers[number] = Answer(target.name, ok, text, time.monotonic() - began)

    threads = [threading.Thread(target=ask, args=item, daemon=True) for item in enumerate(targets)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    late = f"NO_ANSWER: nothing came in {seconds:g} s; check the address and the network between"
    return [answers.get(number) or Answer(target.name, False, late, seconds) for number, target in enumerate(targets)]


def report(answers: Sequence[Answer]) -> list[str]:
    """Return one line for each answer."""
    width = max((len(answer.name) for answer in answers), default=0)
    verdicts = {True: "ok", False: "FAILED"}
    return [f"{item.name:<{width}}  {verdicts[item.ok]:<6}  {item.seconds * 1000:6.0f} ms  {item.text}" for item in answers]


def database_target(settings: DatabaseSettings, migrations: Sequence[str], seconds: float) -> Target:
    """Return a target for the service's database: it must accept a connection and be at this program's version."""

    def ask() -> str:
        limited = conninfo.make_conninfo(settings.full_conninfo(), connect_timeout=max(2, round(seconds)))
        try:
            with psycopg.connect(limited) as connection:
                version = connection.info.parameter_status("server_version") or "of unknown version"
                database.check_schema(connection, migrations)
        except psycopg.Error as error:
            lines = str(error).splitlines() or [type(error).__name__]
            raise Unavailable("DATABASE_UNAVAILABLE", f"{lines[0]}; check [database] and that PostgreSQL runs") from None
        return f"PostgreSQL {version}, schema up to date"

    return Target("database", ask)


def service_target(name: str, address: str, tls: Identity, seconds: float) -> Target:
    """Return a target for another service at `host:port`: each side must trust the other, and the service must be healthy."""

    def ask() -> str:
        try:
            status = probe.ask(address, tls.certificate, tls.key, tls.ca, seconds)
        except grpc.RpcError as error:
            code = error.code().name if isinstance(error, grpc.Call) else "UNKNOWN"
            raise Unavailable(code, "check address, that it runs, and that each side trusts the other's certificate") from None
        if status != probe.SERVING:
            raise Unavailable(status, "it answers but is not serving; see its log")
        return "serving"

    return Target(f"{name} {address}", ask)


def _ask(target: Target) -> tuple[bool, str]:
    try:
        return True, target.ask()
    except ConfigurationError as error:
        return False, f"CONFIGURATION: {error}"
    except MdmError as error:
        return False, f"{error.reason}: {error.message}"
    except Exception as error:
        # Its message may hold anything.
        return False, f"INTERNAL: {type(error).__name__}"
