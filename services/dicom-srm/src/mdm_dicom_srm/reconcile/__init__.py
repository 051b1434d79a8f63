"""Reconciliation: what registry, catalog, metadata, keystores and spool of a site have, compared and brought together."""
