"""Who types AMGA's commands: users of one service, and of two."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mdm.metadata.v1 import metadata_pb2 as pb

from ..commandline import Mdm, configuration
from ..test_replication import Site
from . import table

ALL = 255
NAMES = ("alice", "bob", "mallory", "operator")


@dataclass
class Users:
    """The command of each user. `alice` may do everything below `/vo`, the others nothing; alice and bob are in group `/biomed/neuro`."""

    alice: Mdm
    bob: Mdm
    mallory: Mdm
    operator: Mdm


@pytest.fixture
def typed(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """What a scenario types; at its end that has to be all that its row says."""
    commands: list[str] = []
    yield commands
    row = table.rows()[table.SCENARIOS[request.function.__name__]]
    assert table.untyped(row.commands, commands) == []


@pytest.fixture
def users(service: Any, pki: Any, tmp_path: Path, typed: list[str]) -> Users:
    """The users of one service."""
    port = int(service.address.rpartition(":")[2])
    loader = service.client("loader")
    mine = loader.acl({f"dn:{pki.subject('alice')}": ALL})
    loader.create(pb.Collection(path="/vo", acl_id=mine, default_acl_id=mine))
    return Users(*(Mdm(configuration(pki, name, port, tmp_path), pki.subject(name), typed) for name in NAMES))


@dataclass
class Grid:
    """Two services: `here`, whose subtree `/vo/shared` the other, `there`, copies; and the users' commands at each."""

    here: Users
    there: Users
    origin: Site


@pytest.fixture
def grid(postgres: Any, pki: Any, tmp_path: Path, typed: list[str]) -> Iterator[Grid]:
    """Two services with `/vo`, of alice's, at both; nothing is in it."""
    with ExitStack() as stack:
        feed = {"subscribers": [{"subject": pki.subject("metadata-b"), "subtrees": ["/vo/shared"]}]}
        here = Site("a", postgres, pki, stack, feed=feed)
        replicas = [{"origin": "a", "addresses": [f"127.0.0.1:{here.port}"], "subtrees": ["/vo/shared"]}]
        there = Site("b", postgres, pki, stack, replicas=replicas)
        sites = {"here": here.port, "there": there.port}
        users = []
        for site in (here, there):
            loader = site.client("loader")
            mine = loader.acl({f"dn:{pki.subject('alice')}": ALL})
            loader.create(pb.Collection(path="/vo", acl_id=mine, default_acl_id=mine))
            users.append(Users(*(Mdm(configuration(pki, name, site.port, tmp_path, sites), pki.subject(name), typed) for name in NAMES)))
        yield Grid(users[0], users[1], here)
