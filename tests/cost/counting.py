"""Counts what a stack does meanwhile: RPCs by its services' metrics, SQL statements by PostgreSQL's log, system calls by strace."""

import http.client
import json
import re
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from mdm_local.layout import HOST, Layout
from mdm_local.stack import Stack
from mdm_local.state import State
from mdm_site.site import SERVICES
from mdm_testing.local_stack import LocalStack
from mdm_testing.process import free_port
from mdm_testing.supply import PUBLISHED
from mdm_testing.trace import traced
from mdm_testing.usage import tree

from tests.cost.judge import Count

_CALL = re.compile(r'^mdm_rpc_calls_total\{code="\w+",method="/?(?:[\w.]+/)?(\w+)"\} ([\d.e+]+)$', re.MULTILINE)
_STATEMENT = re.compile(r"^mdm_(\w+) LOG:  (?:statement|execute [^:]*): (.*(?:\n\t.*)?)$", re.MULTILINE)
_SETTINGS = {"log_statement": "all", "log_line_prefix": "%d ", "log_parameter_max_length": "0"}
_KEYSTORES = "keystores"


class MeteredStack(LocalStack):
    """A local stack whose services serve metrics, and whose PostgreSQL logs every statement, without parameters."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self._layout = Layout(data_dir)
        self._ports = {service.name: free_port() for service in SERVICES}

    def up(self) -> None:
        command = [sys.executable, "-m", "tests.cost.up", str(self._layout.root), self.name, json.dumps(self._ports)]
        subprocess.run(command, cwd=Path(__file__).parents[2], check=True, timeout=180)
        with psycopg.connect(self._postgres().conninfo(), autocommit=True) as connection:
            for name, value in _SETTINGS.items():
                connection.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
            connection.execute("SELECT pg_reload_conf()")

    def rpcs(self) -> dict[str, Counter[str]]:
        """Return how many calls each service has handled, by method."""
        return _joined({name: Counter({m: int(float(n)) for m, n in _CALL.findall(self._metrics(name))}) for name in self._ports})

    def statements(self, start: int) -> dict[str, Counter[str]]:
        """Return the statements that PostgreSQL has logged from a byte of its log on, by service and by their beginnings."""
        with self._postgres().log.open("rb") as log:
            log.seek(start)
            text = log.read().decode(errors="replace")
        found: dict[str, Counter[str]] = {service.name: Counter() for service in SERVICES}
        for database, statement in _STATEMENT.findall(text):
            if statement != PUBLISHED:  # what waits for the end of a registration asks it
                found[database.replace("_", "-")][" ".join(statement.split())[:60]] += 1
        return _joined(found)

    def log_size(self) -> int:
        """Return how many bytes PostgreSQL has logged."""
        return self._postgres().log.stat().st_size

    def pids_of(self, name: str) -> list[int]:
        """Return the processes of a service."""
        return tree(State.load(self._layout.state_file).processes[name].pid)

    def _postgres(self) -> Any:
        return Stack(self._layout).postgres

    def _metrics(self, name: str) -> str:
        context = ssl.create_default_context(cafile=str(self._layout.pki / "ca.crt"))
        context.load_cert_chain(self._layout.pki / "operator.crt", self._layout.pki / "operator.key")
        connection = http.client.HTTPSConnection(HOST, self._ports[name], context=context, timeout=30)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return text


@contextmanager
def counting(
    stack: MeteredStack, folder: Path, parts: Mapping[str, list[int]], images: int, image_bytes: int
) -> Iterator[dict[str, Count]]:
    """Count within a block; afterwards the dictionary has every count for each image. `parts` are the processes that are traced."""
    counts: dict[str, Count] = {}
    with traced(parts, folder) as calls:
        rpcs, log = stack.rpcs(), stack.log_size()
        yield counts
        later, statements = stack.rpcs(), stack.statements(log)
    for name, counter in later.items():
        counts[f"rpcs of {name}"] = Count.of(counter - rpcs[name], images)
        counts[f"statements of {name}"] = Count.of(statements[name], images)
    for name, found in calls.items():
        counts[f"system calls of {name}"] = Count.of(found.count, images)
        counts[f"bytes on files of {name} for a byte of an image"] = Count(found.file_bytes / images / image_bytes)
        counts[f"bytes on sockets of {name} for a byte of an image"] = Count(found.socket_bytes / images / image_bytes)


def _part(service: str) -> str:
    return _KEYSTORES if service.startswith("keystore-") else service


def _joined(counters: Mapping[str, Counter[str]]) -> dict[str, Counter[str]]:
    """Return counters by part: the three keystores are one."""
    found: dict[str, Counter[str]] = {}
    for name, counter in counters.items():
        found.setdefault(_part(name), Counter()).update(counter)
    return found
