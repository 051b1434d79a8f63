"""Catalog: LFN, GUID and replicas with access control."""
