"""The mdm command."""

import os

# gRPC writes failed handshakes to standard error; the command explains them itself. It reads this when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from mdm_client.cli.app import main

__all__ = ["main"]
