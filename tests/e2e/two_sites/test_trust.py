"""What a site lets another site's service, users and strangers do; the operators' procedures that couple two sites."""

import json
from pathlib import Path

import grpc
import pytest
from mdm.metadata.v1 import feed_pb2, feed_pb2_grpc
from mdm_client.config import ClientConfig
from mdm_site.pki import DevelopmentCa
from mdm_testing.compose_stack import ComposeStack
from mdm_testing.repository import EXECUTED, PROCEDURES, execute
from mdm_wire.channel import open_channel
from mdm_wire.tls import TlsFiles

from tests.e2e.two_sites.conftest import PATIENTS, SUBTREE, Site

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def subscribe(origin: Site, certificate: Path, key: Path, subtree: str) -> str:
    """Subscribe to a subtree; return the status of the first answer."""
    config = ClientConfig.load(origin.stack.client_config("operator"))
    with open_channel(config.metadata, TlsFiles(certificate, key, config.tls.ca)) as channel:
        request = feed_pb2.SubscribeRequest(subtree=subtree, position=feed_pb2.FeedPosition(copying=True))
        call = feed_pb2_grpc.MetadataFeedServiceStub(channel).Subscribe(request, timeout=15)
        try:
            next(call)
        except grpc.RpcError as error:
            return str(error.code().name)
        finally:
            call.cancel()
    return "OK"


def test_only_the_coupled_service_may_subscribe_and_to_nothing_sensitive(sites: tuple[Site, Site], tmp_path: Path):
    a, b = sites
    place = b.stack.authority.directory

    def asked(name: str, subtree: str) -> str:
        return subscribe(a, place / f"{name}.crt", place / f"{name}.key", subtree)

    assert asked("metadata", SUBTREE) == "OK"
    assert asked("metadata", PATIENTS) == "NOT_FOUND"
    assert asked("metadata", "/biomed") == "NOT_FOUND"
    assert asked("alice", SUBTREE) == "PERMISSION_DENIED"


def test_certificates_that_prove_nothing_are_refused(sites: tuple[Site, Site], tmp_path: Path):
    a, b = sites
    ours, theirs = a.stack.authority, b.stack.authority
    stranger = DevelopmentCa(tmp_path / "stranger", theirs.organisation).issue(theirs.subject("metadata"))
    assert subscribe(a, stranger.certificate, stranger.key, SUBTREE) == "UNAVAILABLE", "the handshake fails"
    posing = theirs.issue(ours.subject("operator"), name="posing")
    assert subscribe(a, posing.certificate, posing.key, SUBTREE) == "UNAUTHENTICATED"
    result = a.mdm("", "--json", "meta", "ls", config=a.configuration("posing", posing.certificate, posing.key))
    assert (result.code, json.loads(result.err)["reason"]) == (5, "SUBJECT_OUTSIDE_NAMESPACE")
    others = b.stack.client_config("alice")
    alice = ClientConfig.load(others).tls
    from_b = a.configuration("alice-of-b", alice.certificate, alice.key)
    assert a.mdm("", "meta", "ls", config=from_b).code == 0
    assert a.mdm("", "ls", "/", config=from_b).code in (4, 5), "the catalog has nothing to do with the other site's users"


@pytest.mark.compose
def test_a_user_whom_the_other_site_revoked_is_refused(sites: tuple[Site, Site], tmp_path: Path):
    a, b = sites
    assert isinstance(a.stack, ComposeStack)
    assert isinstance(b.stack, ComposeStack)
    b.stack.mdm_site("add-user", "leaver")
    own = b.stack.site / "client" / "leaver"
    leaver = a.configuration("leaver", own / "leaver.crt", own / "leaver.key")
    assert a.mdm("", "meta", "ls", config=leaver).code == 0
    b.stack.mdm_site("revoke", "leaver")
    execute("two-sites-give", SITE=b.stack.site, GIVEN=tmp_path)
    execute("two-sites-revocations", SITE=a.stack.site, RECEIVED=tmp_path)
    result = a.mdm("", "--json", "meta", "ls", config=leaver)
    assert (result.code, json.loads(result.err)["reason"]) == (5, "CERTIFICATE_REVOKED")


@pytest.mark.compose
def test_no_procedure_is_left_out(sites: tuple[Site, Site], tmp_path: Path):
    _, b = sites
    assert isinstance(b.stack, ComposeStack)
    execute("two-sites-init", SITE=tmp_path / "site")
    assert "0 changes" in execute("two-sites-look", SITE=b.stack.site)
    assert {name for name in PROCEDURES if name.startswith("two-sites-")} <= EXECUTED
