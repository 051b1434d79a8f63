"""Test support: servers over real mutual TLS, databases, waiting. In no wheel of the product."""
