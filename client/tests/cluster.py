"""Three real keystores, which can be told to hang, to lie and to fail, and clients of them."""

import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import grpc
import psycopg
from mdm.acl.v1 import acl_pb2
from mdm.keystore.v1 import keystore_pb2
from mdm_client.acl import AclClient
from mdm_client.keystore.client import KeystoreClient, KeystoreServer
from mdm_client.service import Service
from mdm_keystore.rpc.servicer import KeystoreServicer
from mdm_keystore.rules.seal import Sealer
from mdm_service.policy import OPERATOR
from mdm_testing.keystore import RunningKeystore, serve_keystore
from mdm_wire.channel import open_channel
from mdm_wire.errors import MdmError
from mdm_wire.retry import RetryPolicy

READ = 4


class Mischief:
    """What one keystore does wrong at present."""

    def __init__(self) -> None:
        self.hung = threading.Event()
        self.released = threading.Event()
        self.alter: Callable[[keystore_pb2.GetSharesResponse], None] | None = None
        self.fail: dict[str, grpc.StatusCode] = {}

    def end(self) -> None:
        self.released.set()
        self.hung, self.released = threading.Event(), threading.Event()
        self.alter = None
        self.fail = {}


class MischievousServicer(KeystoreServicer):
    """A keystore that hangs, lies or fails when told to."""

    def __init__(self, service: Any, mischief: Mischief) -> None:
        super().__init__(service)
        self._mischief = mischief

    def _before(self, method: str, context: grpc.ServicerContext) -> None:
        if self._mischief.hung.is_set():
            self._mischief.released.wait(20)
        if method in self._mischief.fail:
            context.abort(self._mischief.fail[method], "down")

    def CreateKeys(self, request, context):
        self._before("CreateKeys", context)
        return super().CreateKeys(request, context)

    def ConfirmKeys(self, request, context):
        self._before("ConfirmKeys", context)
        return super().ConfirmKeys(request, context)

    def GetShares(self, request, context):
        self._before("GetShares", context)
        response = super().GetShares(request, context)
        if self._mischief.alter:
            self._mischief.alter(response)
        return response


class Cluster:
    """Three keystores with three databases and three key-encryption keys, and clients of them."""

    def __init__(self, pki: Any, conninfos: list[str]) -> None:
        self.pki = pki
        self.mischief = [Mischief() for _ in conninfos]
        self.channels: list[grpc.Channel] = []
        self._conninfos = conninfos
        self._identity = pki.issue(pki.subject("keystore"))
        self._sealers = [Sealer([os.urandom(32)]) for _ in conninfos]
        self._stacks = [ExitStack() for _ in conninfos]
        self.keystores = [self._started(position) for position in range(3)]

    def _started(self, position: int) -> RunningKeystore:
        mischief = self.mischief[position]
        served = serve_keystore(
            self._conninfos[position],
            self._identity,
            position + 1,
            namespace=self.pki.namespace,
            sealer=self._sealers[position],
            roles={OPERATOR: (self.pki.subject("operator"),)},
            servicer=lambda service: MischievousServicer(service, mischief),
        )
        return self._stacks[position].enter_context(served)

    def stop(self, position: int) -> None:
        self._stacks[position].close()
        self._stacks[position] = ExitStack()
        self.keystores[position] = replace(self.keystores[position], running=False)

    def start(self, position: int) -> None:
        self.keystores[position] = self._started(position)

    def tidy(self) -> None:
        """Close channels, end all mischief, run what was stopped, forget all keys."""
        for channel in self.channels:
            channel.close()
        self.channels.clear()
        for position, mischief in enumerate(self.mischief):
            mischief.end()
            if not self.keystores[position].running:
                self.start(position)
            self.sql(position, "DELETE FROM key_share")

    def close(self) -> None:
        for stack in self._stacks:
            stack.close()

    def client(self, name: str = "srm", indexes: tuple[int, ...] = (1, 2, 3), **options: Any) -> KeystoreClient:
        return KeystoreClient(self._servers(name, indexes), 2, **options)

    def acls(self, name: str) -> list[AclClient]:
        """The access lists at each keystore."""
        return [AclClient(Service(server.place, server.channel, RetryPolicy())) for server in self._servers(name, (1, 2, 3))]

    def _servers(self, name: str, indexes: tuple[int, ...]) -> list[KeystoreServer]:
        tls = self.pki.issue(self.pki.subject(name))
        servers = []
        for letter, index, keystore in zip("abc", indexes, self.keystores, strict=True):
            channel = open_channel([keystore.address], tls)
            self.channels.append(channel)
            servers.append(KeystoreServer(letter, index, channel))
        return servers

    def acl(self, client: KeystoreClient, *entries: tuple[str, int]) -> UUID:
        acl_id = uuid4()
        listed = [acl_pb2.AclEntry(principal=principal, permissions=bits) for principal, bits in entries]
        outcomes = client.create_acls([acl_pb2.Acl(id=str(acl_id), entries=listed)])
        assert outcomes == {letter: {acl_id: None} for letter in "abc"}
        return acl_id

    def sql(self, position: int, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.keystores[position].conninfo, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def states(self, guid: UUID) -> list[int | None]:
        found = [self.sql(i, "SELECT state FROM key_share WHERE guid = %s", guid) for i in range(3)]
        return [rows[0][0] if rows else None for rows in found]


def guids(count: int) -> list[UUID]:
    return [uuid4() for _ in range(count)]


def all_created(outcomes: dict[UUID, MdmError | None]) -> bool:
    return set(outcomes.values()) == {None}


def only_keys(results: dict[UUID, bytes | MdmError]) -> dict[UUID, bytes]:
    assert all(isinstance(key, bytes) and len(key) == 32 for key in results.values()), results
    return results  # type: ignore[return-value]
