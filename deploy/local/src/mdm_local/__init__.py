"""Runs the whole suite on one machine without containers."""

import mdm_service as _mdm_service  # before gRPC: it settles the TLS version

_ = _mdm_service
