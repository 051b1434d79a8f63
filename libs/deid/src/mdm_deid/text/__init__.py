"""Kept text and identities: what names a person, and what may stay."""
