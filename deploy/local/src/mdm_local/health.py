"""Asking components how they are."""

import socket

from mdm_service.server import probe

from mdm_local.layout import Layout
from mdm_local.pacs.kind import LOCAL_AE_TITLE, VERIFICATION, Pacs

SERVING, NOT_SERVING, DOWN = "serving", "not serving", "down"
_HEALTHY_CODE = 0x0000


def of_service(layout: Layout, address: str, timeout: float = 2.0) -> str:
    """Return a service's gRPC health, asked over mutual TLS as the operator."""
    certificate, key, ca = (layout.pki / name for name in ("operator.crt", "operator.key", "ca.crt"))
    return SERVING if probe.is_serving(address, certificate, key, ca, timeout) else NOT_SERVING


def of_pacs(pacs: Pacs, timeout: float = 3.0) -> str:
    """Return whether the PACS answers C-ECHO."""
    if not is_listening(pacs.host, pacs.port):  # asked first because pynetdicom leaks the socket of a refused connection
        return NOT_SERVING
    from pynetdicom import AE  # takes a second to import, which most commands need not wait for

    ae = AE(LOCAL_AE_TITLE)
    ae.add_requested_context(VERIFICATION)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = timeout
    association = ae.associate(pacs.host, pacs.port, ae_title=pacs.ae_title)
    if not association.is_established:
        return NOT_SERVING
    try:
        status = association.send_c_echo()
    finally:
        association.release()
    return SERVING if "Status" in status and int(status.Status) == _HEALTHY_CODE else NOT_SERVING


def is_listening(host: str, port: int, timeout: float = 1.0) -> bool:
    """Tell whether a TCP connection is accepted."""
    try:
        with socket.create_connection((host, port), timeout):
            return True
    except OSError:
        return False
