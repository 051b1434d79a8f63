"""Schemas: creating and dropping collections, changing their schemas, views, sequences."""
