"""DICOM-SRM: answers file requests with DICOM operations."""

import mdm_service as _mdm_service  # before gRPC: it settles the TLS version

_ = _mdm_service
