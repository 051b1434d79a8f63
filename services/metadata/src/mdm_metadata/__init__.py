"""Metadata: typed collections queried by SQL under access control."""

import mdm_service as _mdm_service  # before gRPC: it settles the TLS version

_ = _mdm_service
