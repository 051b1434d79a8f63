"""The relay before the Storage SCP lets no host hold all connections, and no more of them through than the Storage SCP takes."""

import re

from mdm_dicom_srm.register.rpc.storage_scp import MAX_CONNECTIONS
from mdm_testing.repository import ROOT


def sections() -> dict[str, list[str]]:
    """The lines of each section of the relay's configuration, without comments."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "deploy/relay/haproxy.cfg").read_text().splitlines():
        text = line.split("#")[0].rstrip()
        if text and not text[0].isspace():
            lines = found.setdefault(text, [])
        elif text:
            lines.append(text.strip())
    return found


def test_the_relay_passes_as_many_connections_as_the_storage_scp_takes():
    assert f"maxconn {MAX_CONNECTIONS}" in sections()["listen scp"]
    listeners = (sections()["listen scp"], sections()["listen curator"])
    together = sum(int(line.split()[1]) for lines in listeners for line in lines if line.startswith("maxconn"))
    assert f"maxconn {together}" in sections()["global"], "curators and PACS do not take each other's connections"


def test_a_host_may_hold_half_of_the_connections_of_the_relay():
    lines = sections()["listen scp"]
    tracked = lines.index("tcp-request connection track-sc0 src")
    refused = lines.index(f"tcp-request connection reject if {{ sc0_conn_cur gt {MAX_CONNECTIONS // 2} }}")
    assert tracked < refused, "a connection is counted before it is judged"
    (table,) = (line for line in lines if line.startswith("stick-table"))
    assert re.search(r"type ipv6 size \d+k expire \d+m store conn_cur$", table)
