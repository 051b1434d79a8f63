"""What two or more Medical Data Manager services share."""

import os
import sys

# gRPC has no option for the lowest TLS version. Its only cipher setting governs TLS 1.2 and older, so naming a pre-shared-key suite,
# for which there is no key, leaves these versions without any suite: their handshake fails. TLS 1.3 suites are not affected.
# gRPC reads the setting once, when it is imported, so this package has to come first.
_VARIABLE, _SUITE = "GRPC_SSL_CIPHER_SUITES", "ECDHE-PSK-AES256-CBC-SHA"

#: Whether this process refuses TLS 1.2 in the handshake; servers do not start otherwise.
TLS_1_3_ONLY = "grpc" not in sys.modules or os.environ.get(_VARIABLE) == _SUITE

os.environ[_VARIABLE] = _SUITE
