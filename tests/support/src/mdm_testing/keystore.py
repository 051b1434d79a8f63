"""Keystores under test: one in this process over real mutual TLS and a real database, or three as processes of their own."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import psycopg
from mdm.acl.v1 import acl_pb2
from mdm.keystore.v1 import keystore_pb2_grpc
from mdm_client.keystore.client import KeystoreClient, KeystoreServer
from mdm_client.keystore.operator import KeystoreOperator
from mdm_keystore.__main__ import MIGRATIONS
from mdm_keystore.composition import compose
from mdm_keystore.config import KeystoreSection
from mdm_keystore.rpc.servicer import KeystoreServicer
from mdm_keystore.rules.seal import Sealer
from mdm_keystore.rules.service import KeystoreService
from mdm_keystore.store.key import PostgresKeys
from mdm_service import database
from mdm_service.identity.caller import Authenticator
from mdm_service.server.server import ServiceServer
from mdm_service.settings import DatabaseSettings, TlsSettings
from mdm_site.file import to_toml
from mdm_site.pki import DevelopmentCa
from mdm_wire.channel import open_channel
from mdm_wire.errors import MdmError
from mdm_wire.tls import Identity, TlsFiles

from mdm_testing.process import free_port, kill_process, start_process
from mdm_testing.server import answering, configuration, serve_in_process

NAMES = ("a", "b", "c")


@dataclass(frozen=True)
class RunningKeystore:
    """A running keystore: where it listens, and its parts for a test to look into."""

    address: str
    index: int
    service: KeystoreService
    keys: PostgresKeys
    conninfo: str
    running: bool = True


@contextmanager
def serve_keystore(
    conninfo: str,
    identity: Identity,
    index: int,
    *,
    namespace: str,
    sealer: Sealer,
    roles: dict[str, tuple[str, ...]] | None = None,
    servicer: Callable[[KeystoreService], keystore_pb2_grpc.KeystoreServiceServicer] = KeystoreServicer,
) -> Iterator[RunningKeystore]:
    """Migrate a database and serve a keystore without peers on a free port until the block ends.

    `servicer` may return one that lies or hangs.
    """
    database.migrate(conninfo, MIGRATIONS)
    pool = database.open_pool(DatabaseSettings(conninfo=conninfo, pool_min=1, pool_max=8))
    section = KeystoreSection(name=f"keystore-{index}", index=index, kek_file=Path("kek"))
    tls = TlsSettings(certificate=identity.certificate, key=identity.key, ca=identity.ca)
    keystore = compose(section, tls, pool, sealer)

    def register(server: ServiceServer, authenticator: Authenticator) -> None:
        for name in keystore.register(server.grpc, pool, authenticator, servicer):
            server.add_service(name)

    try:
        with serve_in_process(identity, register, namespaces=(namespace,), roles=roles) as running:
            yield RunningKeystore(running.address, index, keystore.service, PostgresKeys(pool), conninfo)
    finally:
        keystore.stop()
        pool.close()


class KeystoreProcesses:
    """Three keystores as processes of their own, each with a database, a certificate and a key-encryption key of its own."""

    def __init__(self, pki: DevelopmentCa, conninfos: list[str], folder: Path) -> None:
        self.pki, self.folder = pki, folder
        self.conninfos = dict(zip(NAMES, conninfos, strict=True))
        self.ports = {name: free_port() for name in NAMES}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._channels: list[grpc.Channel] = []
        self._identities: dict[str, TlsFiles] = {}
        for name in NAMES:
            self._configure(name)
            self._run(name, "migrate")
            self.start(name)

    def start(self, name: str) -> None:
        """Start a keystore and wait until it answers."""
        command = [sys.executable, "-m", "mdm_keystore", "serve", "--config", str(self._config(name))]
        answers = answering(f"127.0.0.1:{self.ports[name]}", self._identity(f"keystore-{name}"))
        self.running[name] = start_process(command, self.folder / f"{name}.log", answers)

    def kill(self, name: str) -> None:
        """End a keystore as a crash would."""
        kill_process(self.running[name])

    def freeze(self, name: str) -> None:
        """Let a keystore hang: it keeps its connections and answers nothing."""
        self.running[name].send_signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Let a frozen keystore continue."""
        self.running[name].send_signal(signal.SIGCONT)

    def kek(self, name: str) -> Path:
        """Return the file of a keystore's key-encryption keys."""
        return self.folder / f"{name}.kek"

    def sql(self, name: str, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements in a keystore's database, as its administrator; return the rows of the last one."""
        with psycopg.connect(self.conninfos[name], autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def servers(self, user: str) -> list[KeystoreServer]:
        """Return the keystores, on channels of a user."""
        channels = [open_channel([f"127.0.0.1:{self.ports[name]}"], self._identity(user)) for name in NAMES]
        self._channels += channels
        return [KeystoreServer(name, index, channel) for index, (name, channel) in enumerate(zip(NAMES, channels, strict=True), 1)]

    def client(self, user: str = "srm", **options: Any) -> KeystoreClient:
        """Return a client of the three."""
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
        """Start what does not run, close the channels of clients, delete all keys."""
        for channel in self._channels:
            channel.close()
        self._channels.clear()
        for name in NAMES:
            self.thaw(name)
            if self.running[name].poll() is not None:
                self.start(name)
            self.sql(name, "DELETE FROM key_share")

    def close(self) -> None:
        """End the three."""
        for process in self.running.values():
            kill_process(process)

    def _identity(self, user: str) -> TlsFiles:
        if user not in self._identities:
            self._identities[user] = self.pki.issue(self.pki.subject(user))
        return self._identities[user]

    def _configure(self, name: str) -> None:
        self.kek(name).write_text(os.urandom(32).hex())
        self.kek(name).chmod(0o600)
        peers = [
            {"index": index, "address": f"127.0.0.1:{self.ports[other]}", "subject": self.pki.subject(f"keystore-{other}")}
            for index, other in enumerate(NAMES, 1)
            if other != name
        ]
        section = {"name": name, "index": NAMES.index(name) + 1, "kek_file": self.kek(name), "witness_interval_seconds": 0.2}
        roles = {
            "operator": [self.pki.subject("operator")],
            "service.dicom-srm": [self.pki.subject("srm")],
            "peer.keystore": [self.pki.subject(f"keystore-{other}") for other in NAMES],
        }
        document = configuration(
            self.pki,
            f"keystore-{name}",
            self.conninfos[name],
            port=self.ports[name],
            keystore={**section, "peers": peers},
            roles=roles,
            database={"pool_min": 1, "pool_max": 8},
        )
        self._config(name).write_text(to_toml(document))

    def _config(self, name: str) -> Path:
        return self.folder / f"{name}.toml"

    def _run(self, name: str, command: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "mdm_keystore", command, "--config", self._config(name)], check=True, timeout=60, capture_output=True
        )
