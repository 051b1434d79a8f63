"""A grid of fakes: the generated servicers over real mutual TLS."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import grpc
from mdm.acl.v1 import acl_pb2_grpc
from mdm.catalog.v1 import catalog_pb2_grpc
from mdm.keystore.v1 import keystore_pb2_grpc
from mdm.metadata.v1 import metadata_pb2_grpc
from mdm.srm.v1 import registration_pb2_grpc, srm_pb2_grpc, transfer_pb2_grpc
from mdm_crypto import shamir, stream
from mdm_service import policy
from mdm_testing.server import serve_in_process
from mdm_wire import dn

from client.tests.fake_catalog import SITE, FakeCatalog, Image
from client.tests.fake_services import FakeAcls, FakeKeystore, FakeMetadata
from client.tests.fake_srm import FakeRegistration, FakeSrm


class FakeGrid:
    """Everything a client talks to."""

    def __init__(self, pki, folder: Path) -> None:
        self.pki, self.folder = pki, folder
        self.catalog = FakeCatalog()
        self.srm = FakeSrm(self.catalog)
        self.registration = FakeRegistration()
        self.metadata = FakeMetadata()
        self.keystores = [FakeKeystore(name, index) for index, name in enumerate("abc", 1)]
        self.acls = {place: FakeAcls() for place in ("catalog", "metadata", "a", "b", "c")}
        self.catalog.acls = self.acls["catalog"]
        self.addresses: dict[str, str] = {}
        self.alice = pki.issue(pki.subject("alice"))

    def add(self, lfn: str, plaintext: bytes, **changes) -> Image:
        """Put an image everywhere; changes are applied last."""
        image = Image(lfn, plaintext)
        shares = shamir.split(None, 2, 3, image.guid)
        for keystore, share in zip(self.keystores, shares, strict=True):
            keystore.shares[str(image.guid)] = share
        key = shamir.file_key(shamir.combine(shares[:2]), image.guid, shares[0].epoch)
        image.ciphertext = stream.encrypt(key, image.guid.bytes, [plaintext])
        image.surl = f"srm://{SITE}/{image.guid}"
        for name, value in changes.items():
            setattr(image, name, value)
        self.catalog.images[lfn] = image
        return image

    def config(self, identity=None, **changes: str) -> Path:
        """Write a client configuration and return its path."""
        tls = identity or self.alice
        addresses = {"srm": f'"{self.addresses["catalog"]}"', **self.addresses, **changes}
        keystores = "".join(
            f'[[keystores]]\nname = "{name}"\nindex = {index}\naddresses = ["{addresses[name]}"]\n' for index, name in enumerate("abc", 1)
        )
        file = self.folder / f"client-{uuid4().hex[:6]}.toml"
        file.write_text(
            f'certificate = "{tls.certificate}"\nkey = "{tls.key}"\nca = "{changes.get("ca", tls.ca)}"\n'
            f'catalog = ["{addresses["catalog"]}"]\nmetadata = ["{addresses["metadata"]}"]\nthreshold = 2\n'
            f"{keystores}[srm]\n{SITE} = [{addresses['srm']}]\n"
        )
        return file

    @contextlib.contextmanager
    def serving(self) -> Iterator["FakeGrid"]:
        identity = self.pki.issue(self.pki.subject("fake-server"))
        with contextlib.ExitStack() as stack, ThreadPoolExecutor(1):
            for place in self.acls:
                running = stack.enter_context(
                    serve_in_process(
                        identity,
                        lambda server, _, place=place: self._register(server.grpc, place),
                        namespaces=(self.pki.namespace,),
                        roles={policy.OPERATOR: (dn.canonical(self.pki.subject("operator")),)},
                    )
                )
                self.addresses[place] = running.address
            yield self

    def _register(self, server: grpc.Server, place: str) -> None:
        acl_pb2_grpc.add_AclServiceServicer_to_server(self.acls[place], server)
        if place == "catalog":
            catalog_pb2_grpc.add_CatalogServiceServicer_to_server(self.catalog, server)
            srm_pb2_grpc.add_SrmServiceServicer_to_server(self.srm, server)
            transfer_pb2_grpc.add_TransferServiceServicer_to_server(self.srm, server)
            registration_pb2_grpc.add_RegistrationServiceServicer_to_server(self.registration, server)
        elif place == "metadata":
            metadata_pb2_grpc.add_MetadataServiceServicer_to_server(self.metadata, server)
        else:
            keystore = next(k for k in self.keystores if k.name == place)
            keystore_pb2_grpc.add_KeystoreServiceServicer_to_server(keystore, server)
