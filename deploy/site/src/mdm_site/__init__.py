"""Makes and maintains a site: configuration of all services, test authority, users, secrets."""

import mdm_service as _mdm_service  # before gRPC: it settles the TLS version

_ = _mdm_service
