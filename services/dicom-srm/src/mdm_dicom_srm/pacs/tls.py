"""DICOM TLS, the BCP 195 profile of PS3.15 section B: TLS 1.2 with ECDHE and AES-GCM, and TLS 1.3."""

import ssl

from mdm_service.settings import ConfigurationError

from mdm_dicom_srm.config import ClientTlsSettings, ServerTlsSettings

_CIPHERS = "ECDHE+AESGCM"


def client_context(settings: ClientTlsSettings) -> ssl.SSLContext:
    """Return what a connection to a PACS is wrapped in; only the authority given is trusted.

    Raises:
        ConfigurationError: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = settings.check_hostname
    return _load(context, settings)


def server_context(settings: ServerTlsSettings) -> ssl.SSLContext:
    """Return what a connection to the Storage SCP is wrapped in; the caller must have a certificate.

    Raises:
        ConfigurationError: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    return _load(context, settings)


def _load(context: ssl.SSLContext, settings: ClientTlsSettings | ServerTlsSettings) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        context.load_verify_locations(settings.ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"tls.ca: {settings.ca}: {error}") from error
    if settings.certificate is not None:
        try:
            context.load_cert_chain(settings.certificate, settings.key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"tls.certificate, tls.key: {settings.certificate}: {error}") from error
    return context
