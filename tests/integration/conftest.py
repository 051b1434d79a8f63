"""Three keystores as processes of their own, each with a database, a certificate and a key-encryption key of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import psycopg
import pytest
from mdm.acl.v1 import acl_pb2
from mdm_client.keystore.client import KeystoreClient, KeystoreServer
from mdm_client.keystore.operator import KeystoreOperator
from mdm_site import toml
from mdm_testing import program
from mdm_testing.port import free_port
from mdm_testing.postgres import fresh_databases
from mdm_testing.server import answering
from mdm_wire.channel import open_channel
from mdm_wire.errors import MdmError
from mdm_wire.tls import TlsFiles

NAMES = ("a", "b", "c")


class Processes:
    """The three, and clients of them."""

    def __init__(self, pki: Any, conninfos: list[str], folder: Path) -> None:
        self.pki, self.folder = pki, folder
        self.conninfos = dict(zip(NAMES, conninfos, strict=True))
        self.ports = {name: free_port() for name in NAMES}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._channels: list[grpc.Channel] = []
        for name in NAMES:
            self._configure(name)
            self._run(name, "migrate")
            self.start(name)

    def start(self, name: str) -> None:
        """Start one and wait until it answers."""
        command = [sys.executable, "-m", "mdm_keystore", "serve", "--config", self._config(name)]
        answers = answering(f"127.0.0.1:{self.ports[name]}", self._identity(f"keystore-{name}"))
        self.running[name] = program.start(command, self.folder / f"{name}.log", answers)

    def kill(self, name: str) -> None:
        """End one as a crash would."""
        program.kill(self.running[name])

    def freeze(self, name: str) -> None:
        """Let one hang."""
        self.running[name].send_signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Let one go on."""
        self.running[name].send_signal(signal.SIGCONT)

    def kek(self, name: str) -> Path:
        """Return the file of one's key-encryption keys."""
        return self.folder / f"{name}.kek"

    def sql(self, name: str, *statements: str) -> list[tuple[Any, ...]]:
        """Do something in one's database, as its administrator."""
        with psycopg.connect(self.conninfos[name], autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def servers(self, user: str) -> list[KeystoreServer]:
        """Return the keystores as a user reaches them."""
        channels = [open_channel([f"127.0.0.1:{self.ports[name]}"], self._identity(user)) for name in NAMES]
        self._channels += channels
        return [KeystoreServer(name, index, channel) for index, (name, channel) in enumerate(zip(NAMES, channels, strict=True), 1)]

    def client(self, user: str = "srm", **options: Any) -> KeystoreClient:
        """Return a client of all."""
        return KeystoreClient(self.servers(user), 2, **options)

    def operator(self) -> KeystoreOperator:
        """Return an operator's client."""
        return KeystoreOperator(self.servers("operator"))

    def create(self, client: KeystoreClient, count: int) -> dict[UUID, bytes]:
        """Create keys; return them."""
        acl_id, guids = uuid4(), [uuid4() for _ in range(count)]
        assert client.create_acls([acl_pb2.Acl(id=str(acl_id))]) == {name: {acl_id: None} for name in NAMES}
        assert set(client.create_keys(guids, acl_id).values()) == {None}
        keys = client.get_keys(guids)
        assert not any(isinstance(key, MdmError) for key in keys.values())
        return keys  # type: ignore[return-value]

    def tidy(self) -> None:
        """Run all, and forget all keys."""
        for channel in self._channels:
            channel.close()
        self._channels.clear()
        for name in NAMES:
            self.thaw(name)
            if self.running[name].poll() is not None:
                self.start(name)
            self.sql(name, "DELETE FROM key_share")

    def close(self) -> None:
        """End all."""
        for process in self.running.values():
            program.kill(process)

    def _identity(self, user: str) -> TlsFiles:
        if not (self.pki.directory / f"{user}.crt").exists():
            self.pki.issue(self.pki.subject(user))
        return TlsFiles(self.pki.directory / f"{user}.crt", self.pki.directory / f"{user}.key", self.pki.certificate_file)

    def _configure(self, name: str) -> None:
        tls = self._identity(f"keystore-{name}")
        self.kek(name).write_text(os.urandom(32).hex())
        self.kek(name).chmod(0o600)
        peers = [
            {"index": index, "address": f"127.0.0.1:{self.ports[other]}", "subject": self.pki.subject(f"keystore-{other}")}
            for index, other in enumerate(NAMES, 1)
            if other != name
        ]
        section = {"name": name, "index": NAMES.index(name) + 1, "kek_file": self.kek(name), "witness_interval_seconds": 0.2}
        document = {
            "keystore": {**section, "peers": peers},
            "listen": {"host": "127.0.0.1", "port": self.ports[name]},
            "tls": {"certificate": tls.certificate, "key": tls.key, "ca": tls.ca},
            "trust": {"ca": [{"certificate": tls.ca, "namespaces": [self.pki.namespace]}]},
            "roles": {
                "operator": [self.pki.subject("operator")],
                "service.dicom-srm": [self.pki.subject("srm")],
                "peer.keystore": [self.pki.subject(f"keystore-{other}") for other in NAMES],
            },
            "database": {"conninfo": self.conninfos[name], "pool_min": 1, "pool_max": 8},
        }
        self._config(name).write_text(toml.dumps(document))

    def _config(self, name: str) -> Path:
        return self.folder / f"{name}.toml"

    def _run(self, name: str, command: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "mdm_keystore", command, "--config", self._config(name)], check=True, timeout=60, capture_output=True
        )


@pytest.fixture(scope="module")
def all_processes(postgres: Any, pki: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Three keystores for a module."""
    with fresh_databases(postgres, "keystore", 3) as conninfos:
        made = Processes(pki, conninfos, tmp_path_factory.mktemp("keystores"))
        yield made
        made.close()


@pytest.fixture
def keystores(all_processes: Processes) -> Iterator[Processes]:
    """Three running keystores without keys."""
    all_processes.tidy()
    yield all_processes
    all_processes.tidy()
