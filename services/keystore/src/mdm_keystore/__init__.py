"""Keystore: stores one share of every file key."""

import mdm_service as _mdm_service  # before gRPC: it settles the TLS version

_ = _mdm_service
