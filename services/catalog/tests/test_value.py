"""Limits on what the catalog takes."""

import pytest
from mdm_catalog.rules import model, value
from mdm_wire.errors import Invalid
from mdm_wire.url import check_surl


@pytest.mark.parametrize(
    ("surl", "host"),
    [
        ("srm://hospital-a/0190", "hospital-a"),
        ("srm://host.example:8443/mdm/x", "host.example"),
        ("srm://[2001:db8::1]:8443/x", "[2001:db8::1]"),
        ("mdm+grpc://h/", "h"),
    ],
)
def test_a_replicas_host_is_taken_from_its_surl(surl, host):
    assert value.parse_replica(surl, model.ReplicaStatus.AVAILABLE, "").host == host
    assert value.parse_replica(surl, model.ReplicaStatus.AVAILABLE, "given").host == "given"


@pytest.mark.parametrize(
    "surl", ["", "host/path", "srm:///path", "srm://host", "srm://host/a b", "srm://h/\x00", "srm://h/\n", "srm://h/" + "x" * 1100]
)
def test_a_bad_surl_is_refused(surl):
    with pytest.raises(Invalid, match="surl"):
        check_surl(surl)


@pytest.mark.parametrize(
    "text",
    ["", "x", "0190AAAA-0000-7000-8000-000000000000", "{01900000-0000-7000-8000-000000000000}", "0190000000007000800000000000000000"],
)
def test_a_guid_is_canonical_text(text):
    with pytest.raises(Invalid) as caught:
        value.parse_uuid(text, "guid")
    assert caught.value.reason == "GUID_INVALID"


def test_sizes_digests_comments_and_counts_have_limits():
    replica = model.Replica("srm://h/x", model.ReplicaStatus.AVAILABLE, "h")
    for call in (
        lambda: value.check_size(-1),
        lambda: value.check_sha256(b"short"),
        lambda: value.check_comment("é" * 128),
        lambda: value.check_comment("two\nlines"),
        lambda: value.check_replicas([replica, replica]),
        lambda: value.check_replicas([model.Replica(f"srm://h/{number}", replica.status, "h") for number in range(101)]),
        lambda: value.parse_replica("srm://h/x", replica.status, "a host"),
    ):
        with pytest.raises(Invalid):
            call()
    assert value.check_comment("é" * 127) == "é" * 127
