"""A door on staging with fake ports, over real TLS on a free port; callers with real certificates."""

import http.client
import ssl
from collections.abc import Iterator, Sequence
from uuid import UUID

import pytest
from mdm_dicom_srm.door.composition import Opening, Staging, build_door
from mdm_dicom_srm.door.http.listener import Limits
from mdm_dicom_srm.door.rules.copy import Known
from mdm_dicom_srm.stage.composition import Place
from mdm_dicom_srm.stage.rpc.servicer import SrmRules
from mdm_dicom_srm.stage.rules.space import Spaces
from mdm_service.identity.caller import Authenticator, Membership
from mdm_service.identity.trust import Authority, TrustStore
from mdm_service.settings import Address, TlsSettings

ROOT = "/biomed/hospital-a"


class MemoryKnownCopies:
    def __init__(self) -> None:
        self.known: dict[UUID, Known] = {}

    def find(self, guids: Sequence[UUID]) -> dict[UUID, Known]:
        return {guid: self.known[guid] for guid in guids if guid in self.known}

    def add(self, known: Known) -> None:
        self.known[known.guid] = known


class Answer:
    """An answer of the door, read to its end."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = response.status, response.headers, response.read()


class RunningDoor:
    """A door, and what is behind it."""

    def __init__(self, world, pki, directory, opening=None):
        self.world, self.pki = world, pki
        self.copies = MemoryKnownCopies()
        identity = pki.issue(pki.subject("srm"))
        pki.revoke([])
        self.bans = directory / "bans"
        self.bans.write_text("")
        self.trust = TrustStore((Authority.load(identity.ca, (pki.namespace,), pki.crl_file),), self.bans)
        self.authenticator = authenticator = Authenticator(self.trust, Membership(None), {"monitor": [pki.subject("olga")]})
        rules = SrmRules(world.service, world.control, world.listing, Spaces(dict, None))
        staging = Staging(rules, lambda guids: world.spool.sizes(guids))
        place = Place("hospital-a", "hospital-a", ROOT, "srm-1")
        tls = TlsSettings(certificate=identity.certificate, key=identity.key, ca=identity.ca)
        self.listener = build_door(opening or Opening(Address(port=0)), tls, authenticator, staging, place, self.copies)
        self.listener.start()
        self.port = self.listener.port
        self.identities = {}

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def identity(self, name="alice"):
        if name not in self.identities:
            self.identities[name] = self.pki.issue(self.pki.subject(name))
        return self.identities[name]

    def context(self, identity=None) -> ssl.SSLContext:
        found = identity or self.identity()
        context = ssl.create_default_context(cafile=str(found.ca))
        context.load_cert_chain(found.certificate, found.key)
        return context

    def connection(self, identity=None, timeout=20):
        return http.client.HTTPSConnection("localhost", self.port, context=self.context(identity), timeout=timeout)

    def ask(self, method, path, body=None, headers=None, name="alice") -> Answer:
        connection = self.connection(self.identity(name))
        try:
            connection.request(method, path, body=body, headers=headers or {})
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def put(self, lfn, content=b"PATIENTDOE pixels" * 40):
        """Put an image into the PACS and the catalog."""
        guid = self.world.image(content=content)
        self.world.catalog.put(lfn, guid)
        return guid

    def staged(self, lfn, content=b"PATIENTDOE pixels" * 40, name="alice"):
        """Put an image as `put`, and have it staged."""
        guid = self.put(lfn, content)
        token = self.world.get([guid], self.subject(name))
        self.world.settled(self.subject(name), token)
        return guid, token

    def subject(self, name="alice"):
        return self.trust.subject_of(self.identity(name).certificate.read_bytes())

    def evict(self, guid, name="alice"):
        """Release the pins of a file, and have the spool lose it."""
        self.world.control.release(self.subject(name), "", [f"srm://hospital-a/{guid}"])
        self.world.forget([guid])

    def stop(self):
        self.listener.stop()


@pytest.fixture
def door(world, pki, tmp_path) -> Iterator[RunningDoor]:
    running = RunningDoor(world, pki, tmp_path)
    yield running
    running.stop()


@pytest.fixture
def make_door(world, pki, tmp_path):
    running = []

    def make(**settings):
        limits = Limits(**{key: settings.pop(key) for key in ("threads", "requests_per_caller") if key in settings})
        running.append(RunningDoor(world, pki, tmp_path, Opening(Address(port=0), limits=limits, **settings)))
        return running[-1]

    yield make
    for one in running:
        one.stop()
